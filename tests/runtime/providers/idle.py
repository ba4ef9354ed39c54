"""A provider that is there and takes no node: everything falls to the CPU."""

from __future__ import annotations

from edgeslm.contract.manifest import Artifact
from edgeslm.ports import SessionOptions


def problem() -> str | None:
    return None


def options(graph: Artifact) -> SessionOptions:
    """Azure's, which is in ONNX Runtime's packages for the CPU and takes none of our operators."""
    del graph
    return SessionOptions(provider="idle", ep="AzureExecutionProvider")


def runtime() -> str:
    return "1"
