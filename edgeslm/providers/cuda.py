"""NVIDIA's GPUs, by the CUDA provider of onnxruntime-gpu."""

from __future__ import annotations

import ctypes
from typing import Final

import onnxruntime

from edgeslm.contract.manifest import Artifact
from edgeslm.ports import SessionOptions

_EP: Final = "CUDAExecutionProvider"
_DRIVER: Final = "libcuda.so.1"  # comes with the driver, on Jetson with JetPack


def problem() -> str | None:
    """See `edgeslm.ports.Provider`: a build with CUDA, and a GPU that its driver shows."""
    if _EP not in onnxruntime.get_available_providers():
        return (
            "this ONNX Runtime has no CUDA provider; pip uninstall onnxruntime onnxruntime-gpu && "
            "pip install --no-deps onnxruntime-gpu (docs/dependencies.md says which version)"
        )
    if _gpus() == 0:
        return "the NVIDIA driver shows no GPU; look at nvidia-smi"
    return None


def _gpus() -> int:
    """Ask the driver: without one, a session goes to the CPU and says so in its log alone.

    https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__DEVICE.html
    """
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return 0
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def options(graph: Artifact) -> SessionOptions:
    """float32 as it is written, not as TF32, so that every GPU gives the same.

    https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#use_tf32
    """
    del graph  # all graphs alike
    return SessionOptions(provider="cuda", ep=_EP, ep_options={"use_tf32": "0"})


def runtime() -> str:
    """Version of ONNX Runtime."""
    return str(onnxruntime.__version__)
