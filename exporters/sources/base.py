"""What every source gives the pipeline: an encoder as plain ONNX, and its tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import onnx
import tokenizers
from onnx import version_converter

from edgeslm.errors import InvalidFileError, RejectedError

ENCODER: Final = "encoder.onnx"
TOKENIZER: Final = "tokenizer.json"
FACTS: Final = "facts.json"
INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
OPSET: Final = 18
"""Of every encoder: older graphs are converted, and heads are written for it."""
_RANK: Final = 3


class SourceError(RejectedError):
    """The model cannot be had from this source."""

    code = "source.unusable"


class TooLongError(RejectedError):
    """The model does not take as many tokens as asked for, or a bundle does not."""

    code = "export.max_tokens"


class Source(Protocol):
    """One place where a model comes from."""

    @property
    def name(self) -> str:
        """Folder name, hub id, file name or package: what a manifest may say of it."""

    def digest(self) -> bytes:
        """Hash of all that `export` reads, and of the versions of what it runs."""

    def export(self, folder: Path) -> None:
        """Write `encoder.onnx`, `tokenizer.json` and `facts.json` into `folder`.

        Raises:
            SourceError: the source does not hold a usable encoder, or the export went wrong.
        """


class SourceFactory(Protocol):
    """The `open_source` that each module of exporters/sources/ exports."""

    def __call__(self, name: str, *, tokenizer: Path | None) -> Source | None:
        """Return the source called `name`, or None where `name` is not of this kind.

        Raises:
            SourceError: it is of this kind, and cannot be used.
        """


@dataclass(frozen=True, slots=True)
class Encoder:
    """An exported encoder, as it lies in a folder.

    Args:
        model: inputs among `INPUTS`, int64 [batch, sequence]; one output, float32 [batch,
            sequence, dim].
        tokenizer: the bytes of a tokenizer.json without padding or truncation.
        dim: width of the embedding.
        weights_sha256: of the file that the weights came in.
        max_positions: longest sequence it takes, in tokens; None where it does not say.
    """

    model: onnx.ModelProto
    tokenizer: bytes
    dim: int
    weights_sha256: str
    max_positions: int | None

    def unknown_id(self) -> int | None:
        """Return the token that stands for what the tokenizer does not know; None: it has none."""
        model = json.loads(self.tokenizer)["model"]
        if isinstance(model.get("unk_id"), int):  # Unigram's
            return int(model["unk_id"])
        unknown = model.get("unk_token")
        native = tokenizers.Tokenizer.from_buffer(self.tokenizer)
        found: int | None = native.token_to_id(unknown) if unknown else None
        return found


def write_encoder(
    folder: Path,
    model: onnx.ModelProto,
    tokenizer: bytes,
    *,
    weights_sha256: str,
    max_positions: int | None,
) -> None:
    """Write what `read_encoder` reads."""
    (folder / ENCODER).write_bytes(model.SerializeToString(deterministic=True))
    (folder / TOKENIZER).write_bytes(tokenizer)
    facts = {"weights_sha256": weights_sha256, "max_positions": max_positions}
    (folder / FACTS).write_text(json.dumps(facts))


def read_encoder(folder: Path) -> Encoder:
    """Return what a source exported into `folder`."""
    model = onnx.load(folder / ENCODER)
    facts = json.loads((folder / FACTS).read_text())
    dim = model.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    return Encoder(model, (folder / TOKENIZER).read_bytes(), dim, **facts)


def tidy_encoder(model: onnx.ModelProto, *, file: str) -> onnx.ModelProto:
    """Check `model` and keep of its outputs the one of hidden states alone.

    Raises:
        InvalidFileError: foreign inputs, fixed axes, not exactly one float32 output of rank 3
            (names each), or an old opset that cannot be converted.
    """
    problems = []
    for spec in model.graph.input:
        dims = spec.type.tensor_type.shape.dim
        if spec.name not in INPUTS:
            problems.append((f"input {spec.name}", f"not one of {', '.join(INPUTS)}"))
        elif len(dims) != len(("batch", "sequence")) or any(d.dim_value for d in dims):
            problems.append((f"input {spec.name}", "must be [batch, sequence], both dynamic"))
    missing = [n for n in INPUTS[:2] if n not in {spec.name for spec in model.graph.input}]
    problems += [(f"input {name}", "missing") for name in missing]
    hidden = [spec for spec in model.graph.output if _is_hidden(spec)]
    if len(hidden) != 1:
        what = f"{len(hidden)} float32 of shape [batch, sequence, dim]; exactly one is needed"
        problems.append(("outputs", what))
    if problems:
        remedy = "Export the encoder alone, for feature extraction, with dynamic axes."
        raise InvalidFileError(file, problems, remedy=remedy)
    tidy = _modern(model, file=file)
    del tidy.graph.output[:]
    tidy.graph.output.append(hidden[0])
    drop_unused(tidy.graph)
    return tidy


def _modern(model: onnx.ModelProto, *, file: str) -> onnx.ModelProto:
    """Return a copy of `model` in at least opset `OPSET`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    opset = max((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), default=0)
    if opset >= OPSET:
        return copy
    try:
        return version_converter.convert_version(copy, OPSET)
    except RuntimeError as err:
        what = f"{opset} cannot be converted to {OPSET}: {str(err).splitlines()[0][:200]}"
        remedy = f"Export it with opset {OPSET}."
        raise InvalidFileError(file, [("opset", what)], remedy=remedy) from None


def _is_hidden(spec: onnx.ValueInfoProto) -> bool:
    tensor = spec.type.tensor_type
    dims = tensor.shape.dim
    is_float = tensor.elem_type == onnx.TensorProto.FLOAT
    return is_float and len(dims) == _RANK and dims[2].dim_value > 0


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and initialisers that no output depends on: they would cost size and time."""
    needed = {spec.name for spec in graph.output}
    nodes = []
    for node in reversed(graph.node):  # a graph is sorted: users come after what they use
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
            needed.update(_outer_names(node))
    weights = [w for w in graph.initializer if w.name in needed]
    infos = [v for v in graph.value_info if v.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(weights)
    graph.value_info.extend(infos)


def _outer_names(node: onnx.NodeProto) -> set[str]:
    """Names that the branches and bodies inside `node` use."""
    bodies = [a.g for a in node.attribute if a.HasField("g")]
    names = {name for body in bodies for inner in body.node for name in inner.input}
    for body in bodies:
        names.update(o.name for o in body.output)
        names.update(*(_outer_names(inner) for inner in body.node))
    return names


def read_tokenizer(path: Path) -> bytes:
    """Return the tokenizer.json at `path`, or in the folder `path`, free of padding and cuts.

    Raises:
        SourceError: not there, or not a tokenizer.
    """
    file = path / TOKENIZER if path.is_dir() else path
    try:
        native = tokenizers.Tokenizer.from_buffer(file.read_bytes())
    except OSError as err:
        msg = f"{file}: {err.strerror}; give a tokenizer.json with --tokenizer"
        raise SourceError(msg) from None
    except Exception as err:  # noqa: BLE001 -- the library raises nothing narrower
        msg = f"{file}: not a tokenizer.json: {str(err)[:200]}"
        raise SourceError(msg) from None
    native.no_padding()
    native.no_truncation()
    return str(native.to_str()).encode("utf-8")


def sha256_of(path: Path) -> str:
    """Hash of one file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(files: Sequence[Path], facts: object) -> bytes:
    """Hash of the named files and of anything JSON can hold."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for file in files:
        digest.update(f"\0{file.name}\0{sha256_of(file)}".encode())
    return digest.digest()
