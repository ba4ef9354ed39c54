"""The piece of graph that heads begin with."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from exporters.heads.base import PREFIX, Tail, embedder

DIM = 5


def encoder() -> onnx.ModelProto:
    """Hidden states are the ids, cast and given a width: what comes out is known."""
    float_ids = helper.make_node("Cast", ["input_ids"], ["f"], name="f", to=TensorProto.FLOAT)
    deep = helper.make_node("Unsqueeze", ["f", "axis"], ["deep"], name="deep")
    powers = helper.make_node("Pow", ["deep", "exponents"], ["hidden"], name="hidden")
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"])
        for n in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["batch", "sequence", DIM])
    weights = [
        onnx.numpy_helper.from_array(np.array([2]), "axis"),
        onnx.numpy_helper.from_array(np.arange(DIM, dtype=np.float32), "exponents"),
    ]
    graph = helper.make_graph([float_ids, deep, powers], "e", inputs, [output], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def pooled(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(
        embedder(encoder(), DIM).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (rows,) = session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})
    result: NDArray[np.float32] = rows
    return result


def test_pooling_is_the_mean_over_real_tokens_at_length_1() -> None:
    ids = np.array([[1, 2, 3, 9], [4, 9, 9, 9]])
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    hidden = ids[..., None].astype(float) ** np.arange(DIM)
    mean = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(pooled(ids, mask), expected, rtol=1e-6)


def test_a_row_without_tokens_is_zero_and_not_nan() -> None:
    ids = np.array([[1, 2]])
    assert (pooled(ids, np.zeros_like(ids)) == 0).all()


def test_a_head_leaves_its_encoder_alone_and_names_its_nodes() -> None:
    before = encoder()
    untouched = before.SerializeToString()
    after = embedder(before, DIM)
    assert before.SerializeToString() == untouched
    own = [node.name for node in after.graph.node[len(before.graph.node) :]]
    assert own
    assert all(name.startswith(PREFIX) for name in own)
    assert [output.name for output in after.graph.output] == ["embedding"]


def test_a_tail_can_end_in_several_outputs() -> None:
    tail = Tail(encoder())
    embedding = tail.pool()
    double = tail.node("Add", [embedding, embedding], "double")
    model = tail.finish({"one": (embedding, ("batch", DIM)), "two": (double, ("batch", DIM))})
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ids = np.array([[1, 2]])
    one, two = session.run(["one", "two"], {"input_ids": ids, "attention_mask": ids})
    np.testing.assert_array_equal(2 * one, two)
