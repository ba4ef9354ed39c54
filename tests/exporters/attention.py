"""A small encoder as exporters write them: shape arithmetic, expanded mask, attention, GELU."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DIM = 24
HEADS = 2
MAX_POSITIONS = 64
LEAST = float(np.finfo(np.float32).min)


def _constants(vocabulary: int, scale: float) -> list[onnx.TensorProto]:
    random = np.random.default_rng(3)
    shape = {
        "words": (vocabulary, DIM),
        "positions": (MAX_POSITIONS, DIM),
        **dict.fromkeys(("q", "k", "v", "out"), (DIM, DIM)),
        "up": (DIM, 2 * DIM),
        "down": (2 * DIM, DIM),
    }
    arrays = {n: random.normal(size=s) / s[0] ** 0.5 for n, s in shape.items()}
    arrays["words"] *= vocabulary**0.5 * scale
    weights = {name: value.astype(np.float32) for name, value in arrays.items()}
    weights |= {"gamma": np.ones(DIM, np.float32), "beta": np.zeros(DIM, np.float32)}
    weights |= {
        "least": np.array(LEAST, np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
        "root2": np.array(2**0.5, np.float32),
        "scale": np.array((DIM / HEADS) ** 0.5, np.float32),
    }
    ints = {
        "first": np.array([0]), "second": np.array([1]), "mask_axes": np.array([1, 2]),
        "heads": np.array([HEADS]), "rest": np.array([-1]), "dim": np.array([DIM]),
        "every": np.array([1]),
    }  # fmt: skip
    return [
        numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in (weights | ints).items()
    ]


def attention_graph(vocabulary: int, *, scale: float = 1.0) -> onnx.ModelProto:
    """Return one layer of BERT, opset 18; `scale` multiplies its word vectors."""
    nodes: list[onnx.NodeProto] = []

    def node(op: str, inputs: str, output: str, **attributes: object) -> None:
        made = helper.make_node(op, inputs.split(), [output], name=output, **attributes)
        nodes.append(made)

    node("Shape", "input_ids", "shape")
    node("Gather", "shape first", "batch")
    node("Gather", "shape second", "length")
    node("Slice", "positions first length first every", "places")
    node("Gather", "words input_ids", "vectors")
    node("Add", "vectors places", "sum")
    node("LayerNormalization", "sum gamma beta", "x", axis=-1)
    node("Unsqueeze", "attention_mask mask_axes", "mask4")
    node("Concat", "batch every length length", "square", axis=0)
    node("Expand", "mask4 square", "expanded")
    node("Cast", "expanded", "real", to=TensorProto.FLOAT)
    node("Sub", "one real", "hidden")
    node("Mul", "hidden least", "bias")
    node("Concat", "batch length heads rest", "split", axis=0)
    node("Concat", "batch length dim", "joined", axis=0)
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        node("MatMul", f"x {name}", f"{name}_flat")
        node("Reshape", f"{name}_flat split", f"{name}_split")
        node("Transpose", f"{name}_split", f"{name}_heads", perm=perm)
    node("MatMul", "q_heads k_heads", "raw_scores")
    node("Div", "raw_scores scale", "scores")
    node("Add", "scores bias", "masked")
    node("Softmax", "masked", "attention", axis=-1)
    node("MatMul", "attention v_heads", "context4")
    node("Transpose", "context4", "context3", perm=[0, 2, 1, 3])
    node("Reshape", "context3 joined", "context")
    node("MatMul", "context out", "attended")
    node("Add", "attended x", "y_raw")
    node("LayerNormalization", "y_raw gamma beta", "y", axis=-1)
    node("MatMul", "y up", "wide")
    node("Div", "wide root2", "gelu_in")
    node("Erf", "gelu_in", "erf")
    node("Add", "erf one", "gate")
    node("Mul", "wide gate", "gated")
    node("Mul", "gated half", "gelu")
    node("MatMul", "gelu down", "narrow")
    node("Add", "narrow y", "z_raw")
    node("LayerNormalization", "z_raw gamma beta", "last_hidden_state", axis=-1)

    axes = ["batch", "sequence"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, axes)
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*axes, DIM])
    graph = helper.make_graph(nodes, "attention", inputs, [output], _constants(vocabulary, scale))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model
