"""Qualcomm's NPU (Hexagon Tensor Processor, HTP), by the QNN plug-in (onnxruntime-qnn).

On x86-64 the package holds an emulator of it in place of drivers, which its plug-in offers on the
processor: bit by bit what a chip computes, a thousand times slower.
https://github.com/onnxruntime/onnxruntime-qnn/blob/main/docs/execution_providers/QNN-ExecutionProvider.md
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
from typing import Final

from edgeslm.contract.manifest import Artifact
from edgeslm.ports import SessionOptions

EP: Final = "QNNExecutionProvider"
"""The plug-in is called as it is registered, and compiled contexts name it."""
_PACKAGE: Final = "onnxruntime-qnn"
_MODULE: Final = "onnxruntime_qnn"


def problem() -> str | None:
    """See `edgeslm.ports.Provider`; whether there is an NPU, the session says."""
    if importlib.util.find_spec(_MODULE) is None:
        return f"{_PACKAGE} is not installed; pip install 'edgeslm[qnn]'"
    return None


def emulated() -> bool:
    """Whether the package on this machine holds the emulator."""
    return platform.machine() == "x86_64"


def options(graph: Artifact) -> SessionOptions:
    """On the HTP, or on its emulator, which shows as the processor and is else passed over."""
    del graph  # all graphs alike
    return htp({})


def htp(more: dict[str, str]) -> SessionOptions:
    """Return how to open a session on the HTP.

    Args:
        more: options of the plug-in besides.
    """
    return SessionOptions(
        provider="qnn",
        ep=EP,
        ep_options={"backend_type": "htp", **more},
        plugin=(EP, importlib.import_module(_MODULE).get_library_path()),
        hardware="CPU" if emulated() else "NPU",
    )


def runtime() -> str:
    """Version of QAIRT, Qualcomm's SDK, inside the package: contexts are bound to it."""
    return str(importlib.import_module(f"{_MODULE}.build_and_package_info").qnn_version)
