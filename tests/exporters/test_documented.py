"""Why a provider that was asked did not take what it did not take: by its documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from edgeslm.contract.manifest import Coverage, Fallen
from edgeslm.ports import Piece
from edgeslm.runtime.coverage import coverage
from exporters.documented import explained
from exporters.weights import save_whole

ASKED = "not taken by QNNExecutionProvider"


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Texts of any length -> Erf -> Softmax."""
    nodes = [helper.make_node("Erf", ["x"], ["e"]), helper.make_node("Softmax", ["e"], ["y"])]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "sequence"])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "sequence"])
    whole = helper.make_graph(nodes, "g", [given], [result])
    opset = helper.make_opsetid("", 18)
    save_whole(
        {"model.onnx": helper.make_model(whole, opset_imports=[opset], ir_version=9)}, tmp_path
    )
    return tmp_path / "model.onnx"


def found(*fallen: str) -> Coverage:
    return Coverage(
        nodes=9,
        nodes_taken=9 - len(fallen),
        operations=0,
        operations_taken=0,
        partitions=1,
        fallen=tuple(Fallen(operator=one, count=1, why=ASKED) for one in fallen),
    )


def whys(took: Coverage) -> dict[str, str]:
    return {one.operator: one.why for one in took.fallen}


def test_each_operator_that_fell_is_looked_up(graph: Path) -> None:
    took = found("Erf", "Softmax", "Tanh", "Loop")
    told = explained(took, graph, provider="qnn")
    assert whys(told) == {
        "Erf": "not among the operators that QNN documents",
        "Softmax": "a shape is not fixed",
        "Tanh": "QNN documents it, but took it not with these types, shapes or neighbours",
        "Loop": "not among the operators that QNN documents",
    }
    asked = [one.model_copy(update={"why": ASKED}) for one in told.fallen]
    assert told.model_copy(update={"fallen": tuple(asked)}) == took, "nothing else changes"


def test_the_npu_of_openvino_documents_other_conditions_than_its_cpu(graph: Path) -> None:
    took = found("Softmax")
    assert "OpenVINO documents it" in whys(explained(took, graph, provider="openvino"))["Softmax"]
    on_npu = explained(took, graph, provider="openvino", accelerator="NPU")
    assert whys(on_npu) == {"Softmax": "a shape is not fixed"}


def test_what_nobody_documents_is_told_as_it_was_found(graph: Path) -> None:
    took = found("Erf")
    assert explained(took, graph, provider="cpu") == took


def test_a_device_says_what_the_exporter_knew_before_it_says_nothing() -> None:
    pieces = [Piece("CPUExecutionProvider", [("a", "Erf"), ("b", "Erf"), ("c", "Tanh")])]
    why = Fallen(operator="Erf", count=1, why="no such kernel")
    more = Fallen(operator="Erf", count=1, why="a shape is not fixed")
    known = found().model_copy(update={"fallen": (why, more)})
    took = coverage(pieces, "QNNExecutionProvider", {}, known)
    assert whys(took) == {"Erf": "no such kernel; a shape is not fixed", "Tanh": ASKED}
    assert [one.count for one in took.fallen] == [2, 1]
    assert whys(coverage(pieces, "QNNExecutionProvider", {})) == {"Erf": ASKED, "Tanh": ASKED}
