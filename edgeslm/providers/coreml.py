"""Apple's Neural Engine, graphics and processor, by ONNX Runtime's Core ML provider (macOS)."""

from __future__ import annotations

from typing import Final

import onnxruntime

from edgeslm.contract.manifest import Artifact
from edgeslm.ports import SessionOptions

_EP: Final = "CoreMLExecutionProvider"
_INT8_WEIGHTS: Final = "int8-weights"
_ML_PROGRAM: Final = {
    "ModelFormat": "MLProgram",
    "MLComputeUnits": "ALL",
    "RequireStaticInputShapes": "1",
}


def problem() -> str | None:
    """See `edgeslm.ports.Provider`: ONNX Runtime has it on macOS alone."""
    if _EP in onnxruntime.get_available_providers():
        return None
    return "this ONNX Runtime has no Core ML; it is in onnxruntime for macOS"


def options(graph: Artifact) -> SessionOptions:
    """As ML Program, of fixed shapes.

    int8 weights are unpacked when they are loaded, by ONNX Runtime's constant folding, which
    leaves DequantizeLinear alone unless told that QDQ means nothing.
    https://onnxruntime.ai/docs/execution-providers/CoreML-ExecutionProvider.html#configuration-options
    """
    packed = graph.precision == _INT8_WEIGHTS
    return SessionOptions(
        provider="coreml",
        ep=_EP,
        ep_options=_ML_PROGRAM,
        config={"session.disable_quant_qdq": "1"} if packed else {},
        optimize=packed,
    )


def runtime() -> str:
    """Version of ONNX Runtime."""
    return str(onnxruntime.__version__)
