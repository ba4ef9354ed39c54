"""The real encoder with attention in one node a layer, and static int8 in operators of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeslm.providers.cpu import settings
from edgeslm.runtime.tokenizer import Tokenizer
from exporters.batches import disproof, sum_in_order
from exporters.export import exported
from exporters.heads.base import embedder
from exporters.lean import NotLeanError, rewrite
from exporters.qoperators import static_operators
from exporters.quantize import quantizable
from exporters.sources import open_source
from exporters.sources.base import Encoder
from exporters.targets.base import Feeds
from exporters.targets.cpu import GRAPH, save
from tests.conftest import WEIGHTS
from tests.exporters.attention import attention_graph

LAYERS = 6
WORDS = ("pump", "pressure", "bearing", "hot", "valve", "line", "two", "stopped", "the", "at", "72")


@pytest.fixture(scope="module")
def encoder(minilm: Path) -> Encoder:
    assert minilm.is_dir()
    return exported(open_source(f"package:{WEIGHTS}", tokenizer=None))


@pytest.fixture(scope="module")
def lean(encoder: Encoder) -> onnx.ModelProto:
    return rewrite(encoder.model, "lean")


@pytest.fixture(scope="module")
def texts(encoder: Encoder) -> list[Feeds]:
    random = np.random.default_rng(0)
    tokenizer = Tokenizer(encoder.tokenizer, max_tokens=64)
    lines = [" ".join(random.choice(WORDS, 2 + i)) for i in range(24)]
    read = [tokenizer.encode(line)[0] for line in lines]
    return [{n: f[n] for n in ("input_ids", "attention_mask")} for f in read]


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def embeddings(model: onnx.ModelProto, texts: list[Feeds], dim: int) -> NDArray[np.float32]:
    whole = embedder(model, dim)
    session = onnxruntime.InferenceSession(
        whole.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    wanted = [value.name for value in session.get_inputs()]
    return np.concatenate(
        [
            session.run(None, {n: f.get(n, np.zeros_like(f["input_ids"])) for n in wanted})[0]
            for f in texts
        ]
    )


def test_lean_computes_the_same_in_fewer_nodes(
    encoder: Encoder, lean: onnx.ModelProto, texts: list[Feeds]
) -> None:
    found = operators(lean)
    assert found["Attention"] == found["Gelu"] == LAYERS
    assert found["Softmax"] == 0
    assert found.total() < operators(encoder.model).total() / 3
    assert sorted(v.name for v in lean.graph.input) == ["attention_mask", "input_ids"]
    np.testing.assert_allclose(
        embeddings(lean, texts, encoder.dim),
        embeddings(encoder.model, texts, encoder.dim),
        atol=1e-4,
    )


@pytest.mark.slow
def test_gelu_may_be_near_the_exact_one(encoder: Encoder, texts: list[Feeds]) -> None:
    near = rewrite(encoder.model, "lean-tanh")
    assert operators(near)["FastGelu"] == LAYERS
    assert operators(near)["Gelu"] == 0
    np.testing.assert_allclose(
        embeddings(near, texts, encoder.dim),
        embeddings(encoder.model, texts, encoder.dim),
        atol=5e-3,
    )


def test_an_attention_that_is_not_known_is_left_as_it_is() -> None:
    with pytest.raises(NotLeanError, match="attention"):
        rewrite(attention_graph(40), "lean")


@pytest.mark.parametrize(
    ("options", "least"),
    [({}, 0.98), ({"reduce_range": True}, 0.97), ({"per_channel": False}, 0.95)],
)
def test_static_operators_are_near_float32(
    encoder: Encoder,
    lean: onnx.ModelProto,
    texts: list[Feeds],
    options: dict[str, Any],
    least: float,
) -> None:
    small = static_operators(lean, texts, **options)
    found = operators(small)
    assert found["QAttention"] == LAYERS
    assert found["MatMulIntegerToFloat"] == 3 * LAYERS
    assert found["MatMul"] == found["Attention"] == 0
    weights = [
        numpy_helper.to_array(i)
        for i in small.graph.initializer
        if i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 2
    ]
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) == (
        64 if "reduce_range" in options else 127
    )
    want = embeddings(encoder.model, texts, encoder.dim)
    got = embeddings(small, texts, encoder.dim)
    assert (want * got).sum(axis=1).mean() > least


def test_what_is_excluded_stays_float32(lean: onnx.ModelProto, texts: list[Feeds]) -> None:
    left = {quantizable(lean)[0], *(n.name for n in lean.graph.node if n.op_type == "Attention")}
    small = static_operators(lean, texts, exclude=left)
    assert operators(small)["Attention"] == LAYERS
    assert operators(small)["QAttention"] == 0
    assert left <= {node.name for node in small.graph.node}


def test_a_text_does_not_depend_on_its_neighbours(
    encoder: Encoder, lean: onnx.ModelProto, texts: list[Feeds], tmp_path: Path
) -> None:
    small = sum_in_order(embedder(static_operators(lean, texts), encoder.dim))
    save(small, tmp_path, level="extended", norm_apart=True)
    assert disproof(tmp_path / GRAPH, settings(None), texts, max_tokens=64) is None


def test_the_same_texts_give_the_same_bytes(lean: onnx.ModelProto, texts: list[Feeds]) -> None:
    first, second = (static_operators(lean, texts).SerializeToString() for _ in range(2))
    assert first == second
