"""Quantisers, and what batches of their graphs give: found and proved by structure, not by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper

from edgeslm.providers.cpu import settings
from exporters.batches import disproof, sum_in_order
from exporters.heads.base import embedder
from exporters.quantize import dynamic_int8, ffn_down, quantizable, static_int8
from exporters.targets.base import Feeds
from exporters.targets.cpu import GRAPH, save
from tests.exporters.attention import DIM, attention_graph

VOCABULARY = 40


@pytest.fixture(scope="module")
def encoder() -> onnx.ModelProto:
    return attention_graph(VOCABULARY)


def texts(count: int) -> list[Feeds]:
    random = np.random.default_rng(0)
    rows = [random.integers(0, VOCABULARY, (1, 2 + i % 11)) for i in range(count)]
    return [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in rows]


def hidden(model: onnx.ModelProto, asked: Sequence[Feeds]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.concatenate([session.run(None, dict(feed))[0][0] for feed in asked])


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_int8_pays_for_weights_and_tables_alone(encoder: onnx.ModelProto) -> None:
    by_name = {node.name: node for node in encoder.graph.node}
    chosen = [by_name[name] for name in quantizable(encoder)]
    assert sorted(node.output[0] for node in chosen) == sorted(
        ["vectors", "q_flat", "k_flat", "v_flat", "attended", "wide", "narrow"]
    )


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for i, node in enumerate(other.graph.node):
        node.name = f"n{i}"
    return other


def test_what_leads_out_of_gelu_is_found_without_its_name(encoder: onnx.ModelProto) -> None:
    assert ffn_down(encoder) == {"narrow"}
    other = renamed(encoder)
    [found] = ffn_down(other)
    [node] = [n for n in other.graph.node if n.name == found]
    assert node.output[0] == "narrow"


def test_gelu_may_be_one_node(encoder: onnx.ModelProto) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(encoder)
    for node in other.graph.node:
        if node.name == "gelu":
            node.CopyFrom(helper.make_node("Gelu", ["wide"], ["gelu"], name="gelu"))
    assert ffn_down(other) == {"narrow"}


@pytest.mark.parametrize("activation", ["uint8", "int8"])
def test_static_int8_is_near_float32(encoder: onnx.ModelProto, activation: Any) -> None:
    small = static_int8(encoder, texts(40), activation=activation)
    want, got = hidden(encoder, texts(12)), hidden(small, texts(12))
    cosines = (want * got).sum(-1) / np.linalg.norm(want, axis=-1) / np.linalg.norm(got, axis=-1)
    assert cosines.min() > 0.99
    assert "QuantizeLinear" in operators(small)
    assert "DynamicQuantizeLinear" not in operators(small)


def test_what_a_matmul_gives_stays_float32_unless_asked_for(encoder: onnx.ModelProto) -> None:
    def quantised(model: onnx.ModelProto) -> set[str]:
        return {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}

    assert "wide" not in quantised(static_int8(encoder, texts(20)))
    assert "wide" in quantised(static_int8(encoder, texts(20), outputs=True))


def test_what_is_excluded_keeps_its_weights(encoder: onnx.ModelProto) -> None:
    for small in (
        static_int8(encoder, texts(20), exclude={"narrow"}),
        dynamic_int8(encoder, per_channel=True, reduce_range=False, exclude={"narrow"}),
    ):
        kept = {i.name for i in small.graph.initializer if i.data_type == onnx.TensorProto.FLOAT}
        assert "down" in kept
        assert "up" not in kept


def found(model: onnx.ModelProto, folder: Path) -> str | None:
    save(model, folder, level="extended")
    return disproof(folder / GRAPH, settings(None), texts(24), max_tokens=32)


def test_static_int8_that_sums_in_order_is_free_of_its_neighbours(
    encoder: onnx.ModelProto, tmp_path: Path
) -> None:
    small = embedder(static_int8(encoder, texts(40)), DIM)
    ordered = sum_in_order(small)
    assert "CumSum" in operators(ordered)
    assert found(ordered, tmp_path) is None
    np.testing.assert_allclose(hidden(ordered, texts(12)), hidden(small, texts(12)), atol=1e-6)


def test_what_depends_on_its_neighbours_is_found_out(
    encoder: onnx.ModelProto, tmp_path: Path
) -> None:
    dynamic = dynamic_int8(encoder, per_channel=True, reduce_range=False)
    said = found(sum_in_order(embedder(dynamic, DIM)), tmp_path)
    assert said is not None
    assert "embedding of a text of" in said
