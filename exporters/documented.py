"""What providers that cannot run on a workstation document: operators, types, conditions.

Only operators that text encoders and their heads are made of. Sources: at each table.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Final

import onnx
from onnxruntime.tools import mobile_helpers

from edgeslm.contract.manifest import Coverage
from exporters.static_check import Documented, Facts, Rule, static_coverage

_HALVES: Final = frozenset({"float", "float16"})
_FLOATS: Final = frozenset({"bfloat16", "double", "float", "float16"})
_NUMBERS: Final = _FLOATS | {"int32", "int64", "uint32", "uint64"}
_ALL: Final = _NUMBERS | {"bool", "int16", "int8", "uint16", "uint8"}
_INDEX: Final = frozenset({"int32", "int64"})
_SMALL: Final = frozenset({"int8", "uint8"})
_BOOL: Final = frozenset({"bool"})
_ZERO_POINT: Final = 2  # input of QuantizeLinear and its inverse
_WHERE: Final = frozenset({"double", "float", "float16", "int32", "int64", "uint8"})


def _cuda() -> dict[str, Rule]:
    """Rows of the table "Operators implemented by CUDAExecutionProvider".

    https://github.com/microsoft/onnxruntime/blob/main/docs/OperatorKernels.md
    """
    same = {
        **dict.fromkeys(("Add", "Div", "Mul", "Sub"), (_NUMBERS, 7)),
        **dict.fromkeys(("Max", "Min"), (_NUMBERS, 12)),
        **dict.fromkeys(("Erf", "Exp", "Log", "Sqrt"), (_FLOATS - {"bfloat16"}, 9)),
        **dict.fromkeys(("MatMul", "Gemm"), (_FLOATS, 7)),
        **dict.fromkeys(("Relu", "Sigmoid", "Tanh"), (_FLOATS, 6)),
        "LayerNormalization": (_FLOATS, 1),
        "Neg": (_NUMBERS - {"bfloat16"}, 6),
        "Softmax": (_FLOATS, 1),
        **dict.fromkeys(("Cast", "Concat", "Identity", "Transpose"), (_ALL, 6)),
    }
    by_input = {
        "DequantizeLinear": ((_SMALL, _HALVES, _SMALL), 10),
        "Equal": ((_NUMBERS - {"bfloat16"} | _BOOL,), 7),
        "Expand": ((_ALL, _INDEX), 8),
        "Gather": ((_ALL, _INDEX), 1),
        "Pow": ((_FLOATS - {"bfloat16"} | _INDEX,), 12),
        **dict.fromkeys(
            ("ReduceL2", "ReduceMean"), ((_FLOATS - {"bfloat16"} | {"int32"}, _INDEX), 1)
        ),
        "ReduceSum": ((_FLOATS | _INDEX, _INDEX), 1),
        "Reshape": ((_ALL, _INDEX), 5),
        "Slice": ((_ALL, _INDEX), 10),
        **dict.fromkeys(("Squeeze", "Unsqueeze"), ((_ALL, _INDEX), 1)),
        "Where": ((_BOOL, _WHERE), 9),
    }
    rules = {name: Rule((types,), since) for name, (types, since) in same.items()}
    rules |= {name: Rule(types, since) for name, (types, since) in by_input.items()}
    rules["QuantizeLinear"] = Rule((_HALVES, _HALVES, _SMALL), 10, _half_to_small)
    rules["DequantizeLinear"] = Rule((_SMALL, _HALVES, _SMALL), 10, _half_to_small)
    return rules


def _half_to_small(node: onnx.NodeProto, facts: Facts) -> str | None:
    """Of the same table: from opset 19 on QuantizeLinear and its inverse know float16."""
    half = onnx.TensorProto.FLOAT16 in {facts.types.get(name) for name in node.input}
    return "float16 needs opset 19" if half and facts.opset < 19 else None  # noqa: PLR2004 -- said


def _tensorrt() -> dict[str, Rule]:
    """Rows of TensorRT's ONNX parser; quantisation is symmetric, by zero points of nought.

    https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md
    https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html
    """
    numbers = _FLOATS - {"double"} | _INDEX
    plain = (
        "Add", "Concat", "Div", "Erf", "Exp", "Expand", "Gather", "Gemm", "Identity",
        "LayerNormalization", "Log", "MatMul", "Max", "Min", "Mul", "Neg", "Pow", "ReduceL2",
        "ReduceMean", "ReduceSum", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Sqrt",
        "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze",
    )  # fmt: skip
    return {
        **{name: Rule((numbers,)) for name in plain},
        "Cast": Rule((numbers | _BOOL | _SMALL,)),
        "Where": Rule((_BOOL, numbers)),
        "QuantizeLinear": Rule((_HALVES, _HALVES, frozenset({"int8"})), 10, _symmetric),
        "DequantizeLinear": Rule(
            (frozenset({"int8"}), _HALVES, frozenset({"int8"})), 10, _symmetric
        ),
    }


def _symmetric(node: onnx.NodeProto, facts: Facts) -> str | None:
    zero_points = node.input[_ZERO_POINT:]
    if all(name in facts.zeros for name in zero_points):
        return None
    return "TensorRT takes symmetric quantisation only: the zero point is not nought"


def _core_ml() -> dict[str, Rule]:
    """The list that ONNX Runtime ships for its checker, and Gather, which that list lacks.

    https://onnxruntime.ai/docs/execution-providers/CoreML-ExecutionProvider.html#supported-operators
    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/providers/coreml/builders/impl/gather_op_builder.cc
    """
    folder = Path(mobile_helpers.__path__[0])
    listed = (folder / "coreml_supported_mlprogram_ops.md").read_text("utf-8")
    rules = {}
    for line in listed.splitlines():
        name, _, _ = line.removeprefix("|").partition("|")
        domain, colon, operator = name.partition(":")
        if colon:
            key = operator if domain == "ai.onnx" else name
            rules[key] = Rule((_HALVES, _HALVES | _INDEX))
    # By each operator's note in the list, or by its builder beside gather_op_builder.cc.
    everything = _HALVES | _INDEX | _BOOL
    return rules | {
        "Cast": Rule((everything,), 1, _not_first),
        "Gather": Rule((_HALVES | {"int64"}, _INDEX)),
        "Gemm": Rule((_HALVES,), 7, _constant_b),
        "Pow": Rule((frozenset({"float"}),), 7),
        "Where": Rule((_BOOL, _HALVES)),
    }


def _not_first(node: onnx.NodeProto, facts: Facts) -> str | None:
    """https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/providers/coreml/builders/impl/cast_op_builder.cc."""
    if facts.inputs.isdisjoint(node.input) and facts.constants.isdisjoint(node.input):
        return None
    return "casts an input of the graph, and Core ML wants a node before it"


def _constant_b(node: onnx.NodeProto, facts: Facts) -> str | None:
    return None if node.input[1] in facts.constants else "input B must be a constant"


def _openvino() -> dict[str, Rule]:
    """What the plug-in claims, whatever the device, of what ONNX defines.

    https://docs.openvino.ai/2026/documentation/compatibility-and-support/supported-operations.html
    """
    names = (
        "Add", "And", "Cast", "Concat", "Constant", "ConstantOfShape", "DequantizeLinear", "Div",
        "Equal", "Erf", "Exp", "Expand", "Gather", "Gelu", "Gemm", "Greater", "Identity",
        "LayerNormalization", "Less", "Log", "MatMul", "Max", "Min", "Mul", "Neg", "Not", "Pow",
        "QuantizeLinear", "Range", "ReduceL2", "ReduceMean", "ReduceSum", "Relu", "Reshape",
        "Shape", "Sigmoid", "Slice", "Softmax", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose",
        "Unsqueeze", "Where",
    )  # fmt: skip
    return dict.fromkeys(names, Rule())


def _qnn() -> dict[str, Rule]:
    """Rows of the table "Supported ONNX operators"; which types, depends on the backend.

    https://github.com/onnxruntime/onnxruntime-qnn/blob/main/docs/execution_providers/QNN-ExecutionProvider.md
    """
    names = (
        "Add", "And", "Cast", "Clip", "Concat", "CumSum", "DequantizeLinear", "Div", "Equal", "Exp",
        "Expand", "Flatten", "Gather", "Gelu", "Gemm", "Greater", "Identity", "LayerNormalization",
        "Less", "Log", "LpNormalization", "MatMul", "Max", "Min", "Mul", "Neg", "Not", "Pow",
        "QuantizeLinear", "Reciprocal", "ReduceL2", "ReduceMean", "ReduceSum", "Relu", "Reshape",
        "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Tile",
        "Transpose", "Unsqueeze", "Where", "com.microsoft:DequantizeLinear", "com.microsoft:Gelu",
        "com.microsoft:QuantizeLinear",
    )  # fmt: skip
    return dict.fromkeys(names, Rule())


CUDA: Final = Documented("CUDA", _cuda())
TENSORRT: Final = Documented("TensorRT", _tensorrt())
CORE_ML: Final = Documented("Core ML", _core_ml(), static=True, embedded=True, max_rank=5)
"""As ML Program. Weights in another file are not taken, and no tensor of more than five axes:
https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/providers/coreml/builders/impl/base_op_builder.cc
"""
OPENVINO: Final = Documented("OpenVINO", _openvino())
OPENVINO_NPU: Final = Documented("OpenVINO's NPU", _openvino(), static=True)
"""https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/npu-device.html"""
QNN: Final = Documented("QNN", _qnn(), static=True)
_OF: Final = {"coreml": CORE_ML, "cuda": CUDA, "openvino": OPENVINO, "qnn": QNN}


def explained(
    found: Coverage, graph: Path, *, provider: str, accelerator: str | None = None
) -> Coverage:
    """Return what a provider took of a graph when it was asked, with why it took no more.

    ONNX Runtime names what fell off and gives no reason, so the provider's documentation is asked.

    Args:
        found: what it took.
        graph: file of the graph.
        provider: key of edgeslm/providers/; found is returned as it is where no documentation of
            its is known.
        accelerator: as in the graph's requirements.
    """
    known = OPENVINO_NPU if (provider, accelerator) == ("openvino", "NPU") else _OF.get(provider)
    if known is None or not found.fallen:
        return found
    refused: dict[str, list[str]] = defaultdict(list)
    for one in static_coverage(graph, known).fallen:
        refused[one.operator].append(one.why)
    names = {key.rpartition(":")[2] for key in known.rules}

    def why(operator: str) -> str:
        if operator in refused:
            return "; ".join(refused[operator])
        if operator in names:
            return (
                f"{known.name} documents it, but took it not with these types, shapes or neighbours"
            )
        return f"not among the operators that {known.name} documents"

    fallen = tuple(one.model_copy(update={"why": why(one.operator)}) for one in found.fallen)
    return found.model_copy(update={"fallen": fallen})
