"""Sessions of ONNX Runtime."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import onnxruntime

from edgeslm.errors import RejectedError
from edgeslm.ports import Piece, SessionOptions, Tensor

_ERRORS_ONLY: Final = 3  # ONNX Runtime's log severity
# Written for each node when asked: what coverage is counted from.
_RECORD_PLACEMENT: Final = "session.record_ep_graph_assignment_info"
_NO_FALLBACK: Final = "session.disable_cpu_ep_fallback"
_REMEDY: Final = "Copy the bundle again, or export it for this device."
_STDOUT: Final = 1
_STDERR: Final = 2
_redirecting: Final = threading.RLock()
_registering: Final = threading.Lock()
_registered: Final[set[str]] = set()


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
        native = _native(options)
        try:
            self._session = _open(graph, native, options)
            self.pieces: tuple[Piece, ...] = _pieces(self._session)
        except GraphError:
            raise
        except Exception as err:  # noqa: BLE001 -- its errors share no narrower base
            msg = f"{graph.name}: ONNX Runtime does not load it: {_first_line(err)}. {_REMEDY}"
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


def compile_ahead(model: bytes, out: Path, *, options: SessionOptions) -> None:
    """Compile a graph for the hardware that `options` name, and write one that refers to it.

    Args:
        model: ONNX, its weights inside: a path would be hashed into the names of what is made.
        out: file to write; what was compiled lies beside it (with QNN, as NAME_qnn.bin).
        options: of a plug-in, which need not have the hardware.

    Raises:
        GraphError: the compiler does not take the graph, or not the hardware.
    """
    native = _native(options)
    try:
        with _quiet_stdout():
            native.add_provider_for_devices(_devices(options)[:1], dict(options.ep_options))
            compiler = onnxruntime.ModelCompiler(
                native, model, embed_compiled_data_into_model=False
            )
            compiler.compile_to_file(str(out))
    except Exception as err:  # noqa: BLE001 -- its errors share no narrower base
        msg = f"{out.name}: {options.ep} does not compile it: {_first_line(err)}"
        raise GraphError(msg) from None


def hardware_problem(options: SessionOptions) -> str | None:
    """Say that a plug-in finds no device here such as `options` ask for; None where it does.

    Loads the plug-in, which a process does once.
    """
    if options.plugin is None:
        return None  # part of this build of ONNX Runtime, which lists it where it can be used
    try:
        return None if _devices(options) else _no_device(options)
    except Exception as err:  # noqa: BLE001 -- its errors share no narrower base
        return f"{options.ep} does not load: {_first_line(err)}"


def _devices(options: SessionOptions) -> list[onnxruntime.OrtEpDevice]:
    """Devices that the plug-in of `options` offers, of the kind asked for."""
    assert options.plugin is not None  # noqa: S101 -- asked for plug-ins alone
    name, library = options.plugin
    with _registering:  # once for a process: a second time is an error
        if name not in _registered:
            onnxruntime.register_execution_provider_library(name, library)
            _registered.add(name)
    return [
        device
        for device in onnxruntime.get_ep_devices()
        if device.ep_name == options.ep and options.hardware in {None, device.device.type.name}
    ]


def _no_device(options: SessionOptions) -> str:
    of = f" {options.hardware}" if options.hardware is not None else " device"
    return f"{options.ep} finds no{of} here that it supports; look at its driver"


def _native(options: SessionOptions) -> onnxruntime.SessionOptions:
    native = onnxruntime.SessionOptions()
    native.intra_op_num_threads = options.threads
    native.inter_op_num_threads = 1
    native.log_severity_level = _ERRORS_ONLY
    if not options.optimize:
        native.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    config = {_RECORD_PLACEMENT: "1", **options.config}
    if not options.cpu_fallback:
        config[_NO_FALLBACK] = "1"
    for key, value in config.items():
        native.add_session_config_entry(key, value)
    return native


def _open(
    graph: Path, native: onnxruntime.SessionOptions, options: SessionOptions
) -> onnxruntime.InferenceSession:
    if options.plugin is None:
        chosen = [(options.ep, dict(options.ep_options))]
        return onnxruntime.InferenceSession(str(graph), native, providers=chosen)
    devices = _devices(options)
    if not devices:
        msg = f"{graph.name}: {_no_device(options)}"
        raise GraphError(msg)
    with _quiet_stdout():
        native.add_provider_for_devices(devices[:1], dict(options.ep_options))
        return onnxruntime.InferenceSession(str(graph), native)


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Send what native libraries print to standard error: standard output is for our results.

    QNN's emulator greets there when it is loaded.
    """
    with _redirecting:
        sys.stdout.flush()
        kept = os.dup(_STDOUT)
        try:
            os.dup2(_STDERR, _STDOUT)
            yield
        finally:
            ctypes.CDLL(None).fflush(None)  # what it has printed so far lies in C's own buffer
            os.dup2(kept, _STDOUT)
            os.close(kept)


def _pieces(session: onnxruntime.InferenceSession) -> tuple[Piece, ...]:
    return tuple(
        Piece(part.ep_name, [(node.name, node.op_type) for node in part.get_nodes()])
        for part in session.get_provider_graph_assignment_info()
    )


def _first_line(err: Exception) -> str:
    """What ONNX Runtime says, without its dump of the graph."""
    lines = str(err).strip().splitlines()
    return lines[0][:300] if lines else type(err).__name__
