"""Sessions of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import onnxruntime

from edgeslm.errors import RejectedError
from edgeslm.ports import SessionOptions, Tensor

_ERRORS_ONLY: Final = 3  # ONNX Runtime's log severity
# Written for each node when asked: what `node_share` is counted from.
_RECORD_PLACEMENT: Final = "session.record_ep_graph_assignment_info"


class GraphError(RejectedError):
    """ONNX Runtime does not take the graph: damaged, or made for another version."""

    code = "bundle.graph"


class InferenceError(RejectedError):
    """ONNX Runtime failed on these inputs; the session goes on."""

    code = "inference.failed"


class OrtSession:
    """Implements `edgeslm.ports.Session`. `run` is thread-safe and releases the GIL."""

    def __init__(self, graph: Path, options: SessionOptions) -> None:
        """Load `graph`, and external data beside it.

        Raises:
            GraphError: it cannot be loaded.
        """
        native = onnxruntime.SessionOptions()
        native.intra_op_num_threads = options.threads
        native.inter_op_num_threads = 1
        native.log_severity_level = _ERRORS_ONLY
        if not options.optimize:
            native.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        for key, value in {_RECORD_PLACEMENT: "1", **options.config}.items():
            native.add_session_config_entry(key, value)
        try:
            self._session = onnxruntime.InferenceSession(
                str(graph),
                native,
                providers=[(options.ep, dict(options.ep_options))],
            )
            self.node_share = _node_share(self._session, options.ep)
        except Exception as err:  # noqa: BLE001 -- its errors share no narrower base
            msg = f"{graph.name}: ONNX Runtime does not load it: {_first_line(err)}"
            raise GraphError(msg) from None
        self.provider = options.provider
        self.inputs: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self._outputs: list[str] = [o.name for o in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        try:
            values = self._session.run(self._outputs, feeds)
        except Exception as err:  # noqa: BLE001 -- as above
            msg = f"ONNX Runtime failed: {_first_line(err)}"
            raise InferenceError(msg) from None
        return dict(zip(self._outputs, values, strict=True))


def make_session(graph: Path, *, options: SessionOptions) -> OrtSession:
    """Open `graph` (ONNX) as `options` say.

    Raises:
        GraphError: it cannot be loaded.
    """
    return OrtSession(graph, options)


def _node_share(session: onnxruntime.InferenceSession, ep: str) -> float:
    """Share of the nodes that `ep` took, in [0, 1]; a graph without nodes is all on it."""
    taken = total = 0
    for part in session.get_provider_graph_assignment_info():
        nodes = len(part.get_nodes())
        total += nodes
        taken += nodes if part.ep_name == ep else 0
    return taken / total if total else 1.0


def _first_line(err: Exception) -> str:
    """What ONNX Runtime says, without its dump of the graph."""
    lines = str(err).strip().splitlines()
    return lines[0][:300] if lines else type(err).__name__
