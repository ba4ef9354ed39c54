"""The processor itself, by ONNX Runtime's own kernels."""

from __future__ import annotations

from typing import Final

import onnxruntime

from edgeslm.contract.manifest import Artifact
from edgeslm.ports import SessionOptions

_EP: Final = "CPUExecutionProvider"


def problem() -> str | None:
    """See `edgeslm.ports.Provider`: every build of ONNX Runtime has it."""
    return None if _EP in onnxruntime.get_available_providers() else "not in this ONNX Runtime"


def options(graph: Artifact) -> SessionOptions:
    """One thread per inference: several callers on one session beat several threads in one."""
    del graph  # all graphs alike
    return SessionOptions(provider="cpu", ep=_EP)


def runtime() -> str:
    """Version of ONNX Runtime."""
    return str(onnxruntime.__version__)
