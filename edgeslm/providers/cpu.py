"""The processor itself, by ONNX Runtime's own kernels."""

from __future__ import annotations

from typing import Final

import onnxruntime

from edgeslm.contract.manifest import Artifact, SessionSettings
from edgeslm.ports import SessionOptions

_EP: Final = "CPUExecutionProvider"


def problem() -> str | None:
    """See `edgeslm.ports.Provider`: every build of ONNX Runtime has it."""
    return None if _EP in onnxruntime.get_available_providers() else "not in this ONNX Runtime"


def options(graph: Artifact) -> SessionOptions:
    """As the manifest says; by itself, one thread: several callers beat several threads."""
    return settings(graph.session)


def settings(wanted: SessionSettings | None) -> SessionOptions:
    """Return what opens a graph so; None: as graphs are opened of which nothing is said."""
    wanted = wanted or SessionSettings()
    config = {}
    if wanted.spinning is not None:
        config["session.intra_op.allow_spinning"] = str(int(wanted.spinning))
    if wanted.flush_denormals:
        config["session.set_denormal_as_zero"] = "1"
    return SessionOptions(provider="cpu", ep=_EP, config=config, threads=wanted.threads)


def runtime() -> str:
    """Version of ONNX Runtime."""
    return str(onnxruntime.__version__)
