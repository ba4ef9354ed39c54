"""The plant's language: known tokens give the same bits, every other is read as the nearest."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from edgeslm.ports import Request
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.model import load_model
from edgeslm.runtime.profiles import detect_profile
from exporters.export import Job, export
from exporters.sources.base import Encoder
from exporters.tune.lock import LockError
from exporters.vocabulary import (
    NoTableError,
    OtherUseError,
    cut_positions,
    language,
    nearest,
    prune,
)
from tests.exporters.attention import DIM, MAX_POSITIONS, attention_graph
from tests.exporters.conftest import WORDS, Stages, toy_graph, write_lines

PIECES = 40
SPECIAL = ("[PAD]", "[UNK]")


def encoder_of(model: onnx.ModelProto, *, positions: int | None = None) -> Encoder:
    names = [*SPECIAL, *(f"word{i}" for i in range(PIECES - len(SPECIAL)))]
    native = Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=SPECIAL[1])
    )
    native.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    native.add_special_tokens([AddedToken(name) for name in SPECIAL])
    return Encoder(model, native.to_str().encode(), DIM, "0" * 64, positions)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return encoder_of(attention_graph(PIECES), positions=MAX_POSITIONS)


def run(model: onnx.ModelProto, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    hidden: NDArray[np.float32] = session.run(None, feeds)[0]
    return hidden


def words_of(model: onnx.ModelProto) -> NDArray[np.float32]:
    """Return the table of word vectors."""
    [table] = [t for t in model.graph.initializer if t.name in {"words", "words/kept"}]
    vectors: NDArray[np.float32] = numpy_helper.to_array(table)
    return vectors


@settings(deadline=None, max_examples=25)
@given(
    kept=st.sets(st.integers(2, PIECES - 1), min_size=1, max_size=PIECES - 3),
    ids=st.lists(st.integers(0, PIECES - 1), min_size=1, max_size=12),
)
def test_a_token_is_read_as_itself_or_as_the_nearest(
    encoder: Encoder, kept: set[int], ids: list[int]
) -> None:
    small, pieces = prune(encoder, [0, 1, *sorted(kept)])
    assert (pieces.kept, pieces.of) == (len(kept) + 2, PIECES)
    table = words_of(encoder.model).astype(np.float64)
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)

    def read(token: int) -> int:
        if token in {0, 1, *kept}:
            return token
        return max(kept, key=lambda other: float(unit[token] @ unit[other]))

    asked = np.array([ids])
    meant = np.array([[read(token) for token in ids]])
    assert np.array_equal(run(small.model, asked), run(encoder.model, meant))


def test_a_vocabulary_that_is_kept_whole_stays_as_it_is(encoder: Encoder) -> None:
    same, pieces = prune(encoder, range(PIECES + 5))  # of a tokenizer with more than the table has
    assert same is encoder
    assert pieces.kept == pieces.of == PIECES


def test_no_word_is_read_as_a_mark_of_the_tokenizer() -> None:
    vectors = np.array([[1, 0], [0.9, 0.1], [-1, 0.2], [0.99, 0]], np.float32)
    kept = np.array([0, 2])
    assert nearest(vectors, kept, own=[0]).tolist() == [0, 1, 1, 1]
    assert nearest(vectors, kept, own=[]).tolist() == [0, 0, 1, 0]
    assert nearest(vectors, kept, own=[0, 2]).tolist() == [0, 0, 1, 0], "there is nothing else"


def test_vectors_without_a_direction_have_a_nearest_too() -> None:
    vectors = np.array([[0, 0], [0, 0], [1e-30, 0], [1, 1]], np.float32)
    assert nearest(vectors, np.array([0, 3]), own=[]).tolist() == [0, 0, 1, 1]


def test_the_table_may_be_a_constant_and_its_tokens_converted(encoder: Encoder) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(encoder.model)
    graph = model.graph
    [table] = [t for t in graph.initializer if t.name == "words"]
    constant = helper.make_node("Constant", [], ["words"], name="table", value=table)
    cast = helper.make_node("Cast", ["input_ids"], ["ids32"], name="cast", to=TensorProto.INT32)
    nodes = [constant, cast, *graph.node]
    for node in nodes:
        if node.output[0] == "vectors":
            node.input[1] = "ids32"
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    graph.initializer.remove(table)
    del graph.node[:]
    graph.node.extend(copies)
    small, _ = prune(dataclasses.replace(encoder, model=model), [0, 1, 5, 9])
    assert words_of(small.model).shape == (4, DIM)
    assert all(node.name != "table" for node in small.model.graph.node), "the whole one is gone"
    ids = np.array([[5, 9, 1, 0]])
    assert np.array_equal(run(small.model, ids), run(encoder.model, ids))


def changed(*nodes: onnx.NodeProto, drop: str = "words", **more: NDArray[np.generic]) -> Encoder:
    """Return the toy encoder, whose node `drop` gives way to others."""
    model = toy_graph(PIECES)
    kept = [node for node in model.graph.node if node.name != drop]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in more.items())
    return encoder_of(model)


def gather(table: str, output: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node("Gather", [table, "input_ids"], [output], name=output, **attributes)


UNPRUNABLE: dict[str, tuple[Callable[[], Encoder], str]] = {
    "no look-up": (
        lambda: changed(
            helper.make_node("OneHot", ["input_ids", "depth", "values"], ["hot"], name="hot"),
            helper.make_node("MatMul", ["hot", "table"], ["words"], name="product"),
            depth=np.array([PIECES]),
            values=np.array([0, 1], np.float32),
        ),
        "no Gather looks input_ids up",
    ),
    "two tables": (
        lambda: changed(
            gather("table", "one"),
            gather("second", "two"),
            helper.make_node("Add", ["one", "two"], ["words"], name="both"),
            second=np.ones((PIECES, DIM), np.float32),
        ),
        "looked up in table and second",
    ),
    "already quantised": (
        lambda: changed(
            gather("small", "bytes"),
            helper.make_node("DequantizeLinear", ["bytes", "scale"], ["words"], name="unpack"),
            small=np.ones((PIECES, DIM), np.int8),
            scale=np.array(0.1, np.float32),
        ),
        "its tables are of int8; give the model before it was quantised",
    ),
    "read elsewhere": (
        lambda: changed(
            gather("table", "looked_up"),
            helper.make_node("ReduceMax", ["table"], ["most"], name="largest", keepdims=0),
            helper.make_node("Sub", ["looked_up", "most"], ["words"], name="less"),
        ),
        "is read by largest as well",
    ),
    "by columns": (
        lambda: changed(
            gather("turned", "columns", axis=1),
            helper.make_node("Transpose", ["columns"], ["words"], name="turn", perm=[1, 2, 0]),
            turned=np.ones((DIM, PIECES), np.float32),
        ),
        "is not looked up by rows",
    ),
}


@pytest.mark.parametrize("why", UNPRUNABLE)
def test_what_cannot_be_pruned_says_why(why: str) -> None:
    make, message = UNPRUNABLE[why]
    with pytest.raises(NoTableError, match=message):
        prune(make(), [0, 1, 2])


def test_a_model_that_looks_at_tokens_otherwise_too_is_refused() -> None:
    encoder = changed(
        gather("table", "vectors"),
        helper.make_node("Cast", ["input_ids"], ["number"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["number", "last"], ["column"], name="column"),
        helper.make_node("Add", ["vectors", "column"], ["words"], name="moved"),
        last=np.array([-1]),
    )
    with pytest.raises(OtherUseError, match="not only look tokens up"):
        prune(encoder, [0, 1, 2])


def test_positions_are_cut_where_they_are_not_used(encoder: Encoder) -> None:
    small = cut_positions(encoder, 16)
    assert small.max_positions == 16
    [table] = [t for t in small.model.graph.initializer if t.name == "positions"]
    assert list(table.dims) == [16, DIM]
    ids = np.arange(16)[None]
    assert np.array_equal(run(small.model, ids), run(encoder.model, ids))
    assert cut_positions(encoder, MAX_POSITIONS) is encoder
    unknown = dataclasses.replace(encoder, max_positions=None)
    assert cut_positions(unknown, 16) is unknown


def test_positions_that_depend_on_the_text_are_left(encoder: Encoder) -> None:
    """As RoBERTa counts them: from what is no padding."""
    model = onnx.ModelProto()
    model.CopyFrom(encoder.model)
    graph = model.graph
    nodes = [node for node in graph.node if node.output[0] != "places"]
    counted = [
        helper.make_node("CumSum", ["attention_mask", "axis"], ["count"], name="count"),
        helper.make_node("Gather", ["positions", "count"], ["places"], name="places"),
    ]
    graph.initializer.append(numpy_helper.from_array(np.array(1), "axis"))
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in (*counted, *nodes)]
    del graph.node[:]
    graph.node.extend(copies)
    other = dataclasses.replace(encoder, model=model)
    assert cut_positions(other, 16) is other


def tokenized(native: Tokenizer) -> Encoder:
    return Encoder(toy_graph(8), native.to_str().encode(), DIM, "0" * 64, None)


def names(native: Tokenizer, texts: list[str]) -> set[str | None]:
    return {native.id_to_token(token) for token in language(tokenized(native), texts)}


def test_the_language_is_what_texts_say_and_what_any_text_is_put_together_of() -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "pump", "##s", "a", "##a", "7", "é", "水", "valve", "[x1]"]
    native = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))  # noqa: S106 -- no secret
    native.pre_tokenizer = pre_tokenizers.Whitespace()
    native.add_special_tokens(["[CLS]"])
    found = names(native, ["pumps", "", "水"])
    assert found == {"[PAD]", "[UNK]", "[CLS]", "pump", "##s", "a", "##a", "7", "é", "水"}
    assert "水" not in names(native, ["pumps"]), "beyond Latin, only what the texts have"
    often = language(tokenized(native), ["pumps", "pump 7", "valve"], least=2)
    assert [native.id_to_token(token) for token in often] == [
        "[PAD]", "[UNK]", "[CLS]", "pump", "##s", "a", "##a", "7", "é",
    ]  # fmt: skip


def test_bytes_are_kept_of_tokenizers_that_fall_back_on_them() -> None:
    scored = [("<unk>", 0.0), ("<0x41>", -9.0), ("\u2581pump", -1.0), ("\u2581", -2.0),
              ("\u2581a", -3.0), ("valve", -4.0)]  # fmt: skip
    native = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=True))
    native.normalizer = normalizers.Replace(" ", "\u2581")
    assert names(native, ["pump"]) == {"<unk>", "<0x41>", "\u2581", "\u2581a"}
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    native = Tokenizer(models.BPE({s: i for i, s in enumerate([*symbols, "\u0120pu"])}, []))
    native.pre_tokenizer = pre_tokenizers.ByteLevel()
    native.decoder = decoders.ByteLevel()
    assert names(native, ["pu"]) == set(symbols)


@pytest.fixture
def job(toy_model: Path, orders: Path, tmp_path: Path, own_cache: Path) -> Job:
    del own_cache
    model = tmp_path / "attention.onnx"
    onnx.save(attention_graph(len(WORDS) + 1), model)
    shutil.copy(toy_model.parent / "tokenizer.json", tmp_path)
    said = ["start", "stop"]
    rows: list[dict[str, object]] = [
        {"text": f"{what} {machine} {tail}", "label": what}
        for what in said
        for machine in ("pump", "oven", "smoke", "bar")  # of which training texts have two
        for tail in ("now the", "please", "a", "the")
    ]
    return Job(
        task="intent",
        model=str(model),
        data=orders,
        evaluation=write_lines(tmp_path / "eval.jsonl", rows),
        profile=detect_profile().name,
        name="toy",
        version=1,
        out=tmp_path / "export",
        share=0.05,
        allow_drop=True,
        prune_vocab=1,
    )


def test_an_export_says_what_pruning_cost(job: Job, stages: Stages) -> None:
    report = export(job, stages)
    [step] = report["reductions"]
    assert step["name"] == "vocabulary"
    assert step["what"].startswith("vectors of 17 of 30 pieces kept")
    weights = step["parameters"]
    assert weights["before"] - weights["after"] == 13 * DIM
    assert step["after"] == report["fp32"]
    assert step["lost_points"]["accuracy"] == pytest.approx(
        step["before"]["accuracy"] - step["after"]["accuracy"], abs=1e-3
    )
    lost = step["lost_points"]["accuracy"]
    noted = any("points of accuracy lost in float32" in note for note in report["cautions"])
    assert noted == (lost > 0.5)
    whole = export(dataclasses.replace(job, prune_vocab=0, out=job.out / "../whole"), stages)
    assert whole["reductions"] == []
    assert whole["fp32"] == step["before"]
    page = (job.out / "report.html").read_text()
    assert "Made smaller" in page
    assert "<caption>Vectors of 17 of 30 pieces kept" in page
    assert "Made smaller" not in (job.out / "../whole/report.html").read_text()
    bundle = open_bundle(job.out / "bundle")
    [graph] = [a for a in bundle.manifest.artifacts if a.role == "graph"]
    assert graph.batch_invariant == (graph.precision == "int8-static")
    model = load_model(job.out / "bundle")
    assert model.answer(Request("stop the unheard pump")).label == "stop"


def test_a_lock_knows_whether_the_vocabulary_was_pruned(job: Job, stages: Stages) -> None:
    first = export(job, stages)
    lock = job.out / "lock.json"
    assert json.loads(lock.read_text())["prune_vocab"] == 1
    again = dataclasses.replace(job, lock=lock, out=job.out.parent / "again")
    assert export(again, stages)["bundle"] == first["bundle"]
    with pytest.raises(LockError, match="prune_vocab was 1, and is 0"):
        export(dataclasses.replace(again, prune_vocab=0), stages)
