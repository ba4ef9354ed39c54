"""Multiply-adds of nodes: of every form that targets write, and under the runtime's own names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from edgeslm.adapters.ort import make_session
from edgeslm.ports import SessionOptions
from exporters.costs import NOMINAL_TOKENS, UncountedError, node_costs, write_costs
from exporters.targets.cpu import save
from tests.exporters.conftest import DIM, WORDS, toy_graph

CPU = SessionOptions(provider="cpu", ep="CPUExecutionProvider")
UP = NOMINAL_TOKENS * DIM * 2 * DIM  # either product of the toy


@pytest.fixture
def toy() -> onnx.ModelProto:
    return toy_graph(len(WORDS) + 1)


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_a_product_costs_its_three_axes_and_a_look_up_nothing(
    toy: onnx.ModelProto, tmp_path: Path
) -> None:
    costs = node_costs(saved(toy, tmp_path))
    assert costs["wide"] == costs["narrow"] == UP
    assert costs["words"] == 0
    assert costs["bent"] == NOMINAL_TOKENS * 2 * DIM


def test_a_fixed_length_is_counted_at_that_length(tmp_path: Path) -> None:
    fixed = toy_graph(len(WORDS) + 1, sequence=8)
    assert node_costs(saved(fixed, tmp_path))["wide"] == 8 * DIM * 2 * DIM


def test_int8_and_fused_nodes_cost_what_they_were_made_from(
    toy: onnx.ModelProto, tmp_path: Path
) -> None:
    plain = saved(toy, tmp_path)
    quantize_dynamic(plain, tmp_path / "small.onnx", weight_type=QuantType.QInt8)
    (tmp_path / "fused").mkdir()
    save(onnx.load(tmp_path / "small.onnx"), tmp_path / "fused", level="extended")
    operators = {n.op_type for n in onnx.load(tmp_path / "fused/model.onnx").graph.node}
    assert "DynamicQuantizeMatMul" in operators
    costs = node_costs(tmp_path / "fused" / "model.onnx")
    products = [cost for name, cost in costs.items() if "quant" in name and cost >= UP]
    assert products == [UP, UP]


def test_names_are_those_of_the_runtime(toy: onnx.ModelProto, tmp_path: Path) -> None:
    save(toy, tmp_path, level="extended")
    session = make_session(tmp_path / "model.onnx", options=CPU)
    placed = {name for piece in session.pieces for name, _ in piece.nodes}
    assert placed == node_costs(tmp_path / "model.onnx").keys()


def _chain(
    nodes: list[onnx.NodeProto], initial: list[onnx.TensorProto], *, dtype: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """From input_ids as floats "x", [1, 4], to "y"."""
    cast = helper.make_node("Cast", ["input_ids"], ["x"], name="cast", to=dtype)
    graph = helper.make_graph(
        [cast, *nodes],
        "chain",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, 4])],
        [helper.make_tensor_value_info("y", dtype, None)],
        initial,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_what_is_made_of_constants_costs_nothing(tmp_path: Path) -> None:
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    weight = numpy_helper.from_array(np.ones((4, 5), np.int8), "weight")
    nodes = [
        helper.make_node("DequantizeLinear", ["weight", "scale"], ["wide"], name="unpack"),
        helper.make_node("Neg", ["wide"], ["w"], name="negate"),
        helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
        helper.make_node("QuantizeLinear", ["p", "scale"], ["q"], name="pack"),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["y"], name="again"),
    ]
    costs = node_costs(saved(_chain(nodes, [scale, weight]), tmp_path))
    assert costs == {
        "cast": 0, "unpack": 0, "negate": 0, "product": 20, "pack": 5, "again": 5,
    }  # fmt: skip


def test_float16_counts_as_float32_and_the_cpus_own_casts_are_nobodys(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((4, 5), np.float16), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
        helper.make_node("Softmax", ["p"], ["y"], name="soft"),
    ]
    model = _chain(nodes, [weight], dtype=TensorProto.FLOAT16)
    assert node_costs(saved(model, tmp_path)) == {"cast": 0, "product": 20, "soft": 5}


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_may_take_its_input_either_way(transposed: int, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((1 if transposed else 4, 5), np.float32), "w")
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="gemm", transA=transposed)
    costs = node_costs(saved(_chain([node], [weight]), tmp_path))
    assert costs["gemm"] == 20  # [1, 4] @ [4, 5], or [4, 1] @ [1, 5]


def test_attention_counts_its_projections_and_both_its_products(tmp_path: Path) -> None:
    """[1, 4, 8] to three times 8, then scores and values of four tokens with each other."""
    weight = numpy_helper.from_array(np.ones((8, 24), np.float32), "w")
    bias = numpy_helper.from_array(np.zeros(24, np.float32), "b")
    wide = numpy_helper.from_array(np.ones((1, 8), np.float32), "wide")
    axes = numpy_helper.from_array(np.array([2]), "axes")
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axes"], ["u"], name="u"),
        helper.make_node("MatMul", ["u", "wide"], ["h"], name="h"),
        helper.make_node(
            "Attention", ["h", "w", "b"], ["y"], name="a", domain="com.microsoft", num_heads=2
        ),
    ]
    model = _chain(nodes, [weight, bias, wide, axes])
    assert node_costs(saved(model, tmp_path))["a"] == 4 * 8 * 24 + 2 * 4 * 4 * 8


def test_nodes_without_a_name_share_what_they_cost(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["e"], name=""),
        helper.make_node("Exp", ["e"], ["y"], name=""),
    ]
    assert node_costs(saved(_chain(nodes, []), tmp_path)) == {"cast": 0, "": 4}


def _context(folder: Path) -> None:
    node = helper.make_node(
        "EPContext",
        ["input_ids"],
        ["y"],
        name="compiled",
        domain="com.microsoft",
        embed_mode=0,
        ep_cache_context="model.bin",
    )
    graph = helper.make_graph(
        [node],
        "context",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, DIM])],
    )
    opsets = [helper.make_opsetid("com.microsoft", 1)]
    saved(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder)


def test_a_compiled_context_stands_for_the_whole_original(
    toy: onnx.ModelProto, tmp_path: Path
) -> None:
    variant = tmp_path / "qnn"
    _context(variant)
    original = saved(toy, tmp_path / "fp32")
    assert write_costs(variant, ["model.onnx"], "costs.json", original=original) == []
    costs = json.loads((variant / "costs.json").read_bytes())
    whole = sum(node_costs(saved(toy_graph(len(WORDS) + 1, sequence=8), tmp_path)).values())
    assert costs == {"qnn/model.onnx": {"compiled": whole}}


def test_what_the_cpu_does_not_run_is_said_and_not_invented(tmp_path: Path) -> None:
    node = helper.make_node("Mystery", ["x"], ["y"], name="mystery", domain="com.example")
    model = _chain([node], [])
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    path = saved(model, tmp_path / "odd")
    with pytest.raises(UncountedError, match="example"):
        node_costs(path)
    [note] = write_costs(path.parent, ["model.onnx"], "costs.json", original=path)
    assert note.startswith("odd/model.onnx: its operations are not counted")
    assert json.loads((path.parent / "costs.json").read_bytes()) == {}
