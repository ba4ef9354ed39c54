"""A toy encoder that exports in a second, for tests of the pipeline around it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from exporters.heads.base import Advance

_TEXT: Final = """
start stop pump valve oven crane now please noise smoke broken weather joke is the a at in
temp pressure bar C high low ok alarm open closed level
"""
WORDS: Final = _TEXT.split()
DIM: Final = 24


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test finds what another left."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGESLM_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX encoder with a tokenizer.json beside it: a table of word vectors and two layers."""
    folder = tmp_path_factory.mktemp("toy")
    vocabulary = {word: i for i, word in enumerate(["[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 -- no secret
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(16)
    tokenizer.save(str(folder / "tokenizer.json"))
    onnx.save(toy_graph(len(vocabulary)), folder / "toy.onnx")
    return folder / "toy.onnx"


def toy_graph(vocabulary: int, *, sequence: str | int = "sequence") -> onnx.ModelProto:
    random = np.random.default_rng(7)
    weights = {
        "table": random.normal(size=(vocabulary, DIM)),
        "up": random.normal(size=(DIM, 2 * DIM)) / DIM**0.5,
        "down": random.normal(size=(2 * DIM, DIM)) / (2 * DIM) ** 0.5,
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"], name="words"),
        helper.make_node("MatMul", ["words", "up"], ["wide"], name="wide"),
        helper.make_node("Tanh", ["wide"], ["bent"], name="bent"),
        helper.make_node("MatMul", ["bent", "down"], ["last_hidden_state"], name="narrow"),
        helper.make_node("Neg", ["bent"], ["unused"], name="unused"),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", sequence])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info(
            "last_hidden_state", TensorProto.FLOAT, ["batch", sequence, DIM]
        ),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", sequence]),
    ]
    initial = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    graph = helper.make_graph(nodes, "toy", inputs, outputs[:1], initial)
    opset = helper.make_opsetid("", 17)  # older than heads need: it must be converted
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """Labelled texts that the toy tells apart."""
    rows: list[dict[str, object]] = []
    for i in range(24):
        what = ["pump", "valve", "oven", "crane"][i % 4]
        tail = [" now", " please", ""][i % 3] + [" the", " a"][i % 2]
        rows.append({"text": f"start {what}{tail}", "label": "start"})
        rows.append({"text": f"stop {what}{tail}", "label": "stop"})
        rows.append({"text": f"{what} broken noise{tail}", "label": "fault"})
    rows += [{"text": t, "label": "oos"} for t in ("weather joke", "joke is a joke", "weather")]
    return write_lines(tmp_path / "orders.jsonl", rows)


def write_lines(file: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def without_notes(err: str) -> str:
    """What an export said on standard error besides stages and what it found in its examples."""
    said = without_stages(err).splitlines(keepends=True)
    return "".join(line for line in said if ": note: " not in line)


def without_stages(err: str) -> str:
    """What an export said on standard error besides what it was doing."""
    return "".join(line for line in err.splitlines(keepends=True) if ": stage: " not in line)


class Stages:
    """Records what the pipeline announces, and how far each stage came."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.totals: dict[str, int | None] = {}

    @contextmanager
    def __call__(self, name: str, total: int | None) -> Iterator[Advance]:
        self.totals[name] = total
        self.steps[name] = 0

        def advance(steps: int) -> None:
            self.steps[name] += steps

        yield advance


@pytest.fixture
def stages() -> Stages:
    return Stages()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: two layers of BERT with random weights, for the toy's words."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("hf") / "tiny-bert"
    vocabulary = {word: i for i, word in enumerate(["[UNK]", *WORDS])}
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=DIM, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * DIM, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 -- no secret
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def many_orders() -> list[dict[str, object]]:
    """Enough labelled texts to train on: 72 of each of three labels, and 40 of none."""
    rows: list[dict[str, object]] = []
    for what in ("pump", "valve", "oven", "crane"):
        for before in ("", "now ", "please "):
            for after in ("", " now", " please", " the", " at", " in"):
                rows.append({"text": f"{before}start {what}{after}", "label": "start"})
                rows.append({"text": f"{before}stop {what}{after}", "label": "stop"})
                rows.append({"text": f"{before}{what} broken{after}", "label": "fault"})
    words = ("weather", "joke", "is", "a", "high", "low", "ok", "bar")
    strange = [f"{one} {two}" for one in words for two in words if one != two]
    rows += [{"text": text, "label": "oos"} for text in strange[:40]]
    return rows
