"""The check against documentation: each reason to fall, and pieces counted as ONNX Runtime does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeslm.contract.manifest import Coverage, Placement
from edgeslm.runtime.coverage import CoverageError, check
from exporters.documented import CORE_ML, CUDA, OPENVINO_NPU, TENSORRT
from exporters.static_check import Documented, Rule, static_coverage
from exporters.weights import save_graphs, save_whole

TAKES_ADD = Documented("it", {"Add": Rule()})


def save(  # noqa: PLR0913 -- by name
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    *,
    shape: Sequence[int | str] = (1, 4),
    dtype: int = TensorProto.FLOAT,
    constants: Mapping[str, NDArray[Any]] | None = None,
    outside: bool = False,
) -> Path:
    """Write a graph from input "x" to the last node's output."""
    inputs = [helper.make_tensor_value_info("x", dtype, shape)]
    output = onnx.ValueInfoProto(name=nodes[-1].output[0])
    initial = [numpy_helper.from_array(v, n) for n, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, [output], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (save_graphs if outside else save_whole)({"model.onnx": model}, folder)
    return folder / "model.onnx"


def chain(operators: Sequence[str]) -> list[onnx.NodeProto]:
    names = ["x", *(f"t{i}" for i in range(len(operators)))]
    two = {"Add", "Mul"}
    return [
        helper.make_node(op, [a, a] if op in two else [a], [b], name=b)
        for op, a, b in zip(operators, names, names[1:], strict=False)
    ]


def only_why(found: Coverage) -> str:
    [fallen] = found.fallen
    return fallen.why


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(taken=st.lists(st.booleans(), min_size=1, max_size=12))
def test_a_chain_falls_into_as_many_pieces_as_it_has_runs(
    taken: list[bool], tmp_path: Path
) -> None:
    found = static_coverage(
        save(tmp_path, chain(["Add" if t else "Mul" for t in taken])), TAKES_ADD
    )
    runs = sum(now and not before for before, now in zip([False, *taken], taken, strict=False))
    assert (found.nodes, found.nodes_taken, found.partitions) == (len(taken), sum(taken), runs)
    assert sum(fallen.count for fallen in found.fallen) == taken.count(False)


def test_what_does_not_wait_for_the_fallen_stays_in_one_piece(tmp_path: Path) -> None:
    """Neg hangs on the input alone: it runs first, and all else after it."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["a"], name="a"),
        helper.make_node("Neg", ["x"], ["n"], name="n"),
        helper.make_node("Add", ["a", "n"], ["b"], name="b"),
    ]
    assert static_coverage(save(tmp_path, nodes), TAKES_ADD).partitions == 1


def test_each_fallen_operator_says_why(tmp_path: Path) -> None:
    found = static_coverage(save(tmp_path, chain(["Add", "Neg", "Add", "Neg"])), TAKES_ADD)
    [fallen] = found.fallen
    assert (fallen.operator, fallen.count) == ("Neg", 2)
    assert fallen.why == "not among the operators that it documents"
    assert found.partitions == 2


def test_operations_are_counted_for_what_is_taken(tmp_path: Path) -> None:
    file = save(tmp_path, chain(["Add", "Neg"]), dtype=TensorProto.INT64)
    found = static_coverage(file, TAKES_ADD)
    assert found.operations == 8
    assert found.operations_taken == 4


def test_more_pieces_than_the_profile_allows_are_refused(tmp_path: Path) -> None:
    found = static_coverage(save(tmp_path, chain(["Add", "Neg", "Add"])), TAKES_ADD)
    with pytest.raises(CoverageError, match=r"2 pieces on the provider, and 1 are allowed.*1 Neg"):
        check(found, Placement(max_partitions=1), graph="model.onnx")


def test_a_node_for_the_cpu_is_refused_where_it_may_not_help(tmp_path: Path) -> None:
    found = static_coverage(save(tmp_path, chain(["Add", "Neg", "Add"])), TAKES_ADD)
    check(found, Placement(min_coverage=0.5), graph="model.onnx")
    with pytest.raises(CoverageError, match=r"1 of 3 nodes are left to the CPU.*1 Neg"):
        check(found, Placement(min_coverage=0.5, cpu_fallback=False), graph="model.onnx")


def test_a_type_that_is_not_documented_falls(tmp_path: Path) -> None:
    file = save(tmp_path, chain(["Erf"]), dtype=TensorProto.INT64)
    assert "input 0 is int64, it takes" in only_why(static_coverage(file, CUDA))


def test_an_opset_too_old_falls(tmp_path: Path) -> None:
    documented = Documented("it", {"Add": Rule(since=19)})
    file = save(tmp_path, chain(["Add"]))
    assert only_why(static_coverage(file, documented)) == "needs opset 19, this is 18"


def test_a_free_shape_falls_where_shapes_must_be_fixed(tmp_path: Path) -> None:
    file = save(tmp_path, chain(["Add"]), shape=(1, "n"))
    assert only_why(static_coverage(file, CORE_ML)) == "a shape is not fixed"
    assert only_why(static_coverage(file, OPENVINO_NPU)) == "a shape is not fixed"
    assert static_coverage(file, CUDA).fallen == ()


def test_core_ml_takes_no_weights_from_another_file(tmp_path: Path) -> None:
    product = [helper.make_node("MatMul", ["x", "w"], ["y"], name="y")]
    weights = {"w": np.ones((4, 128), np.float32)}
    outside = save(tmp_path, product, constants=weights, outside=True)
    assert only_why(static_coverage(outside, CORE_ML)) == "weights outside the graph's file"
    assert static_coverage(outside, CUDA).fallen == ()
    assert static_coverage(save(tmp_path, product, constants=weights), CORE_ML).fallen == ()


def test_core_ml_casts_nothing_that_comes_from_outside(tmp_path: Path) -> None:
    cast = helper.make_node("Cast", ["x"], ["y"], name="y", to=TensorProto.FLOAT16)
    assert "a node before it" in only_why(static_coverage(save(tmp_path, [cast]), CORE_ML))
    after = [*chain(["Add"]), helper.make_node("Cast", ["t0"], ["y"], name="y", to=1)]
    assert static_coverage(save(tmp_path, after), CORE_ML).fallen == ()


@pytest.mark.parametrize(("zero", "fallen"), [(0, 0), (3, 1)])
def test_tensorrt_takes_symmetric_quantisation_only(zero: int, fallen: int, tmp_path: Path) -> None:
    constants: dict[str, NDArray[Any]] = {
        "s": np.array(0.5, np.float32),
        "z": np.array(zero, np.int8),
    }
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q")]
    found = static_coverage(save(tmp_path, nodes, constants=constants), TENSORRT)
    assert len(found.fallen) == fallen
    assert all("symmetric" in f.why for f in found.fallen)


def test_a_zero_point_in_another_file_is_read_too(tmp_path: Path) -> None:
    wide = 2048
    constants: dict[str, NDArray[Any]] = {
        "w": np.ones((4, wide), np.int8),
        "s": np.ones(wide, np.float32),
        "z": np.zeros(wide, np.int8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"], name="f", axis=1),
        helper.make_node("MatMul", ["x", "f"], ["y"], name="y"),
    ]
    file = save(tmp_path, nodes, constants=constants, outside=True)
    assert static_coverage(file, TENSORRT).fallen == ()
