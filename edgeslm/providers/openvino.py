"""Intel's processors, graphics and NPUs, by the OpenVINO plug-in (onnxruntime-ep-openvino).

The plug-in takes Intel's devices alone: on another maker's processor it finds none. A graph says by
`requires.accelerator` which kind it was made for: CPU (the default), GPU or NPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from importlib.metadata import version
from typing import Final

from edgeslm.contract.manifest import Artifact
from edgeslm.ports import SessionOptions

_EP: Final = "OpenVINOExecutionProvider"
_PACKAGE: Final = "onnxruntime-ep-openvino"
_MODULE: Final = "onnxruntime_ep_openvino"
_CPU: Final = "CPU"


def problem() -> str | None:
    """See `edgeslm.ports.Provider`; whether it finds a device, the session says."""
    if importlib.util.find_spec(_MODULE) is None:
        return f"{_PACKAGE} is not installed; pip install 'edgeslm[openvino]'"
    return None


def options(graph: Artifact) -> SessionOptions:
    """On the kind of device that the graph was made for."""
    return on(graph.requires.accelerator or _CPU)


def on(hardware: str) -> SessionOptions:
    """How to open a session on a kind of device: CPU, GPU or NPU.

    On the processor in float32 where a graph says so, and one thread for an inference: OpenVINO
    would take bfloat16 where the processor has it, which differs from machine to machine, and all
    threads for each inference. As many inferences may run at once as there are processors.
    https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference/precision-control.html
    https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html
    """
    at_once = str(os.cpu_count() or 1)
    config = {
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": at_once,
        "INFERENCE_NUM_THREADS": at_once,
    }
    return SessionOptions(
        provider="openvino",
        ep=_EP,
        ep_options={"load_config": json.dumps({_CPU: config})} if hardware == _CPU else {},
        plugin=(_MODULE, importlib.import_module(_MODULE).get_library_path()),
        hardware=hardware,
    )


def runtime() -> str:
    """Version of the plug-in, which holds OpenVINO itself."""
    return version(_PACKAGE)
