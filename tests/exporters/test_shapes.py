"""Rewrites for accelerators: the same numbers, and what cannot be rewritten is said."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporters.heads.base import embedder
from exporters.shapes import (
    MASK,
    MASKED,
    DynamicShapeError,
    HalfOverflowError,
    check_half,
    fold,
    half,
    set_shape,
    spell_out_norms,
    tabulate_mask,
)
from tests.exporters.attention import DIM, attention_graph

VOCABULARY = 30


def run(model: onnx.ModelProto, mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the output of `model` on ids that follow from the mask's shape."""
    ids = np.arange(mask.size).reshape(mask.shape) % VOCABULARY
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    value: NDArray[np.float32] = session.run(None, {"input_ids": ids, MASK: mask})[0]
    return value


def mask_of(*lengths: int) -> NDArray[np.int64]:
    longest = max(lengths)
    return np.array([[1] * n + [0] * (longest - n) for n in lengths])


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("lengths", [(9,), (3, 8), (5, 5, 1)])
def test_a_mask_in_a_table_gives_the_same(lengths: tuple[int, ...]) -> None:
    model = attention_graph(VOCABULARY)
    tabled = tabulate_mask(model)
    assert "Expand" not in operators(tabled)
    mask = mask_of(*lengths)
    real = mask.astype(bool)
    np.testing.assert_allclose(run(tabled, mask)[real], run(model, mask)[real], atol=1e-5)


def test_a_table_holds_nothing_that_float16_does_not() -> None:
    tables = tabulate_mask(attention_graph(VOCABULARY)).graph.initializer
    [table] = [numpy_helper.to_array(t) for t in tables if t.name == "bias/table"]
    assert table.tolist() == [MASKED, 0.0]


def test_pooling_uses_a_table_too() -> None:
    model = embedder(attention_graph(VOCABULARY), DIM)
    tabled = tabulate_mask(model)
    assert "Cast" not in operators(tabled)
    mask = mask_of(4, 7)
    np.testing.assert_allclose(run(tabled, mask), run(model, mask), atol=1e-5)


def test_what_is_more_than_a_table_stays() -> None:
    """A count of real tokens depends on all of the mask at once."""
    model = attention_graph(VOCABULARY)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([1]), "along"))
    graph.node.insert(0, helper.make_node("ReduceSum", [MASK, "along"], ["count"], name="count"))
    graph.node.insert(
        1, helper.make_node("Cast", ["count"], ["count_f"], name="cast", to=TensorProto.FLOAT)
    )
    scores = next(node for node in graph.node if node.name == "scores")
    scores.input[1] = "count_f4"
    graph.node.insert(
        2, helper.make_node("Unsqueeze", ["count_f", "mask_axes"], ["count_f4"], name="unsqueeze")
    )
    tabled = tabulate_mask(model)
    assert "ReduceSum" in operators(tabled)
    mask = mask_of(3, 6)
    real = mask.astype(bool)
    np.testing.assert_allclose(run(tabled, mask)[real], run(model, mask)[real], atol=1e-5)


@pytest.mark.parametrize("what", ["counted up", "times the length"])
def test_what_differs_from_token_to_token_or_text_to_text_stays(what: str) -> None:
    """Places counted over real tokens, as RoBERTa's; a mask that the length scales."""
    model = attention_graph(VOCABULARY)
    counted = [
        helper.make_node("CumSum", [MASK, "second0"], ["places_i"], name="places_i"),
        helper.make_node("Cast", ["places_i"], ["factor"], name="factor", to=TensorProto.FLOAT),
    ]
    scaled = [
        helper.make_node("Shape", [MASK], ["shape_"], name="shape_"),
        helper.make_node("Gather", ["shape_", "second"], ["length_i"], name="length_i"),
        helper.make_node("Mul", [MASK, "length_i"], ["scaled"], name="scaled"),
        helper.make_node("Cast", ["scaled"], ["factor"], name="factor", to=TensorProto.FLOAT),
    ]
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array(1), "second0"))
    graph.initializer.append(numpy_helper.from_array(np.array([2]), "last"))
    mixed = [
        helper.make_node("Unsqueeze", ["factor", "last"], ["column"], name="column"),
        helper.make_node("Mul", ["vectors", "column"], ["shifted"], name="shifted"),
    ]
    index = next(i for i, node in enumerate(graph.node) if node.name == "sum")
    chosen = counted if what == "counted up" else scaled
    for offset, node in enumerate([*chosen, *mixed]):
        graph.node.insert(index + offset, node)
    next(node for node in graph.node if node.name == "sum").input[0] = "shifted"
    mask = mask_of(3, 6)
    real = mask.astype(bool)
    np.testing.assert_allclose(
        run(tabulate_mask(model), mask)[real], run(model, mask)[real], atol=1e-5
    )


@pytest.mark.parametrize("length", [7, 16])
def test_a_fixed_length_leaves_no_shape_arithmetic(length: int) -> None:
    model = attention_graph(VOCABULARY)
    fixed = fold(tabulate_mask(model), length=length)
    assert operators(fixed).isdisjoint({"Shape", "Slice", "Concat", "Expand"})
    dims = [d.dim_value for d in fixed.graph.output[0].type.tensor_type.shape.dim]
    assert dims == [1, length, DIM]
    mask = np.pad(mask_of(5), ((0, 0), (0, length - 5)))
    np.testing.assert_allclose(run(fixed, mask)[0, :5], run(model, mask)[0, :5], atol=1e-5)


def test_a_shape_that_depends_on_the_text_is_refused() -> None:
    """NonZero gives as many rows as there are real tokens."""
    model = attention_graph(VOCABULARY)
    model.graph.node.append(helper.make_node("NonZero", [MASK], ["where"], name="where"))
    count = helper.make_tensor_value_info("where", TensorProto.INT64, [2, None])
    model.graph.output.append(count)
    with pytest.raises(DynamicShapeError, match=r"where \(NonZero\)"):
        fold(model, length=8)


def test_float16_is_near_and_keeps_inputs_and_outputs() -> None:
    model = fold(tabulate_mask(attention_graph(VOCABULARY)))
    small = half(model)
    assert [v.type for v in small.graph.output] == [v.type for v in model.graph.output]
    weights = [t for t in small.graph.initializer if t.data_type == TensorProto.FLOAT]
    assert not weights
    mask = mask_of(6)
    near, far = run(small, mask), run(model, mask)
    assert 0 < np.abs(near - far).max() < 0.02


def test_values_beyond_float16_are_refused_by_name() -> None:
    model = tabulate_mask(attention_graph(VOCABULARY, scale=1e5))
    feed = {"input_ids": np.ones((1, 4), np.int64), MASK: np.ones((1, 4), np.int64)}
    with pytest.raises(HalfOverflowError, match=r"words|vectors|sum"):
        check_half(model, [feed])
    check_half(tabulate_mask(attention_graph(VOCABULARY)), [feed])


def test_a_mask_that_is_not_tabulated_does_not_fit() -> None:
    feed = {"input_ids": np.ones((1, 4), np.int64), MASK: np.ones((1, 4), np.int64)}
    with pytest.raises(HalfOverflowError, match="least"):
        check_half(attention_graph(VOCABULARY), [feed])


def test_a_norm_spelt_out_gives_the_same() -> None:
    model = embedder(attention_graph(VOCABULARY), DIM)
    plain = spell_out_norms(model)
    assert "ReduceL2" not in operators(plain)
    mask = mask_of(3, 5)
    np.testing.assert_allclose(run(plain, mask), run(model, mask), atol=1e-6)


def test_a_fixed_shape_is_written_into_inputs_and_outputs() -> None:
    model = embedder(attention_graph(VOCABULARY), DIM)
    set_shape(model, 9)
    shapes = [
        [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    ]
    assert shapes == [[1, 9], [1, 9], [1, DIM]]
