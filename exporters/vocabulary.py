"""The plant's language: vectors of the pieces that its texts are made of, and of no others.

An encoder comes with a vector for each of tens of thousands of pieces, which in int8 are half of a
small one, and a plant's texts take a few thousand. Here the table keeps those; a table of integers
before it leads every other piece to the kept one whose vector points most nearly the same way. So
tokenizer and training stay as they are, and a text of known pieces gives the same bits as before.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx
import onnxruntime
import tokenizers
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeslm.errors import RejectedError
from edgeslm.runtime.tokenizer import INPUTS, Tokenizer
from exporters.sources.base import Encoder, drop_unused

_IDS: Final = INPUTS[0]
_MASK: Final = INPUTS[1]
_MAX_TOKENS: Final = 8192  # of a text that is read for its pieces: as many as a bundle takes
_PADDING: Final = 0  # the token that graphs of a fixed length are filled up with
_BEYOND_LATIN: Final = 0x250  # first code point; the symbols of byte-level tokenizers lie below
_MARKS: Final = ("\u2581", "\u0120")  # of a word's beginning: SentencePiece, byte-level BPE
_BYTE: Final = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # of SentencePiece, for what it has no piece for
_RENAMING: Final = frozenset({"Cast", "Identity"})
_FLOATS: Final = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})
_TABLE_RANK: Final = 2
_CHUNK: Final = 1024  # rows of the table that are compared at once
_SHAPES: Final = ((3, 7), (2, 29))  # [batch, sequence] on which two graphs are compared
_ERRORS_ONLY: Final = 3  # ONNX Runtime's log severity


class NoTableError(RejectedError):
    """The encoder has no table of word vectors that could be pruned."""

    code = "vocabulary.no_table"


class OtherUseError(RejectedError):
    """With fewer pieces the encoder does not compute what it did."""

    code = "vocabulary.other_use"


def language(encoder: Encoder, texts: Iterable[str], *, least: int = 1) -> list[int]:
    """Return the pieces to keep, ascending: those of `texts`, and what any other text may need.

    That is the tokenizer's own tokens, what stands for padding, for the unknown and for a byte, and
    every piece of one Latin letter, digit or mark, of which names and numbers are put together.

    Args:
        encoder: gives the tokenizer.
        texts: of the plant, each once.
        least: number of texts that a piece must be of.
    """
    reader = Tokenizer(encoder.tokenizer, max_tokens=encoder.max_positions or _MAX_TOKENS)
    kept = {_PADDING, *own_tokens(encoder)}
    met = Counter(token for text in texts for token in set(reader.encode(text)[0][_IDS].flat))
    kept.update(int(token) for token, of_texts in met.items() if of_texts >= least)
    model = json.loads(encoder.tokenizer)["model"]
    prefix = str(model.get("continuing_subword_prefix") or "")
    suffix = str(model.get("end_of_word_suffix") or "")
    native = tokenizers.Tokenizer.from_buffer(encoder.tokenizer)
    for piece, token in native.get_vocab(with_added_tokens=False).items():
        bare = piece.removeprefix(prefix).removesuffix(suffix)
        for mark in _MARKS:
            bare = bare.removeprefix(mark)
        if _BYTE.fullmatch(piece) or (len(bare) <= 1 and bare < chr(_BEYOND_LATIN)):
            kept.add(token)
    return sorted(kept)


def own_tokens(encoder: Encoder) -> set[int]:
    """Tokens that are not of any language: the marks of a text's ends, of the unknown, and such."""
    native = tokenizers.Tokenizer.from_buffer(encoder.tokenizer)
    unknown = encoder.unknown_id()
    return {*native.get_added_tokens_decoder(), *(() if unknown is None else (unknown,))}


@dataclass(frozen=True, slots=True)
class Pieces:
    """How much of a vocabulary is left.

    Args:
        kept: pieces that have a vector.
        of: pieces that had one.
    """

    kept: int
    of: int

    def __str__(self) -> str:
        return f"vectors of {self.kept} of {self.of} pieces kept, all others read as the nearest"


def prune(encoder: Encoder, kept: Sequence[int]) -> tuple[Encoder, Pieces]:
    """Return `encoder` with the vectors of the pieces `kept`, and every other read as the nearest.

    None is read as one of the tokenizer's own tokens.

    Args:
        encoder: float32.
        kept: tokens, as `language` returns them; those that the table does not have are left out.

    Raises:
        NoTableError: it has no table of word vectors, or none that could be pruned.
        OtherUseError: what it computes depends on tokens in another way, too.
    """
    graph = encoder.model.graph
    gathers, table = _words(graph)
    vectors = numpy_helper.to_array(table)
    rows = np.array([token for token in kept if token < len(vectors)])
    pieces = Pieces(len(rows), len(vectors))
    if pieces.kept == pieces.of:
        return encoder, pieces
    places = nearest(vectors.astype(np.float32), rows, own_tokens(encoder))
    model = onnx.ModelProto()
    model.CopyFrom(encoder.model)
    where, small = f"{table.name}/nearest", f"{table.name}/kept"
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(places, where),
            numpy_helper.from_array(np.ascontiguousarray(vectors[rows]), small),
        ]
    )
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        looked_up = onnx.NodeProto()
        looked_up.CopyFrom(node)
        if node.output[0] in gathers:
            place = f"{node.output[0]}/nearest"
            nodes.append(helper.make_node("Gather", [where, node.input[1]], [place], name=place))
            looked_up.input[:] = [small, place]
        nodes.append(looked_up)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    drop_unused(model.graph)
    _check_same(encoder, model, rows[places])
    return replace(encoder, model=model), pieces


def word_vectors(encoder: Encoder) -> NDArray[np.float32]:
    """Return the vector of each token, float32 [tokens, dim].

    Raises:
        NoTableError: it has no table of word vectors.
    """
    _, table = _words(encoder.model.graph)
    vectors: NDArray[np.float32] = numpy_helper.to_array(table).astype(np.float32)
    return vectors


def nearest(
    vectors: NDArray[np.float32], kept: NDArray[np.int64], own: Iterable[int]
) -> NDArray[np.int32]:
    """Return for each token which of `kept` it is read as, as a place in `kept`.

    Args:
        vectors: float32 [tokens, dim].
        kept: tokens, ascending; each is read as itself.
        own: the tokenizer's own tokens, as which no other is read while there are others.

    Returns:
        int32 [tokens], of the largest cosine; of equal ones the first.
    """
    known = np.flatnonzero(~np.isin(kept, sorted(own)))
    if not len(known):
        known = np.arange(len(kept))
    tiny = np.finfo(np.float32).tiny
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), tiny)
    choice = unit[kept[known]].T
    places = np.empty(len(vectors), np.int32)
    for start in range(0, len(vectors), _CHUNK):
        chunk = unit[start : start + _CHUNK]
        places[start : start + len(chunk)] = known[(chunk @ choice).argmax(axis=1)]
    places[kept] = np.arange(len(kept))
    return places


def cut_positions(encoder: Encoder, positions: int) -> Encoder:
    """Return `encoder` for texts of up to `positions` tokens, without vectors of later ones.

    As it was where it says not how many it takes, or looks positions up in a way that is not known.
    """
    limit = encoder.max_positions
    if limit is None or positions >= limit:
        return encoder
    model = onnx.ModelProto()
    model.CopyFrom(encoder.model)
    found = False
    by_text = _dependent(model.graph)
    for tensor in model.graph.initializer:
        readers = [node for node in model.graph.node if tensor.name in node.input]
        fixed = all(
            node.op_type in {"Gather", "Slice"} and by_text.isdisjoint(node.input)
            for node in readers
        )
        if tensor.data_type in _FLOATS and list(tensor.dims[:1]) == [limit] and readers and fixed:
            first = np.ascontiguousarray(numpy_helper.to_array(tensor)[:positions])
            tensor.CopyFrom(numpy_helper.from_array(first, tensor.name))
            found = True
    if not found or not _same_up_to(encoder.model, model, positions):
        return encoder
    return replace(encoder, model=model, max_positions=positions)


def _words(graph: onnx.GraphProto) -> tuple[set[str], onnx.TensorProto]:
    """Return what looks words up, by the names of the outputs, and the table that they lie in.

    Raises:
        NoTableError: there is no such table, or it is used for something else as well.
    """
    tables = {tensor.name: tensor for tensor in graph.initializer}
    ids = {_IDS}
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tables[node.output[0]] = node.attribute[0].t
        elif node.op_type in _RENAMING and node.input[0] in ids:
            ids.add(node.output[0])
        elif node.op_type == "Gather" and node.input[1] in ids and node.input[0] in tables:
            found[node.input[0]].append(node)
    words = [name for name in found if _is_table(tables[name])]
    if len(words) != 1:
        raise _no_table(words, [tables[name] for name in found])
    [name] = words
    looked_up = {node.output[0] for node in found[name]}
    others = [n for n in graph.node if name in n.input and n.output[0] not in looked_up]
    columns = any(a.name == "axis" and a.i for node in found[name] for a in node.attribute)
    if others or columns:
        use = f"is read by {others[0].name} as well" if others else "is not looked up by rows"
        msg = f"--prune-vocab: {name}, the table of word vectors, {use}. Export without it."
        raise NoTableError(msg)
    table = onnx.TensorProto()
    table.CopyFrom(tables[name])
    table.name = name
    return looked_up, table


def _is_table(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type in _FLOATS and len(tensor.dims) == _TABLE_RANK


def _no_table(words: Sequence[str], found: Sequence[onnx.TensorProto]) -> NoTableError:
    """Say why there is not one table of words, of the tables that tokens are looked up in."""
    if words:
        why = f"tokens are looked up in {' and '.join(words)}: which holds words is not known"
    elif found:
        kinds = sorted({TensorProto.DataType.Name(tensor.data_type).lower() for tensor in found})
        why = f"its tables are of {', '.join(kinds)}; give the model before it was quantised"
    else:
        why = f"no Gather looks {_IDS} up in a table of vectors"
    return NoTableError(f"--prune-vocab: this model cannot be pruned: {why}. Export without it.")


def _dependent(graph: onnx.GraphProto) -> set[str]:
    """Tensors that depend on what a text says, and not on its length alone."""
    found = {value.name for value in graph.input}
    for node in graph.node:
        if node.op_type not in {"Shape", "Size"} and not found.isdisjoint(node.input):
            found.update(node.output)
    return found


def _check_same(encoder: Encoder, pruned: onnx.ModelProto, read_as: NDArray[np.int64]) -> None:
    """Run both: any token must give what the token that it is read as gives, to the last bit.

    Args:
        encoder: as it was.
        pruned: its model now.
        read_as: by token, the kept one.

    Raises:
        OtherUseError: it does not.
    """
    whole, small = _session(encoder.model), _session(pruned)
    random = np.random.default_rng(0)
    for batch, longest in _SHAPES:
        length = min(longest, encoder.max_positions or longest)
        ids = random.integers(0, len(read_as), (batch, length))
        before = _run(whole, read_as[ids])
        if not np.array_equal(before, _run(small, ids)):
            msg = (
                "--prune-vocab: this model does not only look tokens up, so that it would say "
                "something else with fewer of them. Export without it."
            )
            raise OtherUseError(msg)


def _same_up_to(before: onnx.ModelProto, after: onnx.ModelProto, positions: int) -> bool:
    """Whether both compute the same, to the last bit, of texts of up to so many tokens."""
    try:
        whole, small = _session(before), _session(after)
        for length in {1, positions}:
            ids = np.zeros((1, length), np.int64)
            if not np.array_equal(_run(whole, ids), _run(small, ids)):
                return False
    except Exception:  # noqa: BLE001 -- ONNX Runtime's share no narrower base; what fails is not it
        return False
    return True


def _run(session: onnxruntime.InferenceSession, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the hidden states of `ids`, the end of the first text being padding."""
    mask = np.ones_like(ids)
    if ids.shape[0] > 1:
        mask[0, ids.shape[1] // 2 :] = 0
    feeds = {_IDS: ids, _MASK: mask, INPUTS[2]: np.zeros_like(ids)}
    inputs = {value.name for value in session.get_inputs()}
    hidden: NDArray[np.float32] = session.run(
        None, {name: value for name, value in feeds.items() if name in inputs}
    )[0]
    return hidden


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = 1
    # What is fused depends on what stands before it, and with it the order of sums.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
