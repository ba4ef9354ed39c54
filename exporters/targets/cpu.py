"""ONNX Runtime's own kernels: dynamic int8, weights per channel, in files a device maps.

The graph is quantised before it is fused (fused nodes hide their MatMuls from the quantiser), and
fused when it is saved, so that devices load it as it is. Layout optimisations are left out: they
depend on the CPU that does them.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Final

import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from edgeslm.contract.profile import CpuTarget, DeviceProfile
from edgeslm.errors import ConfigError
from exporters.targets.base import GRAPH, WEIGHTS

PRECISION: Final = "int8-dynamic"
_EXTERNAL_FROM_BYTES: Final = 1024  # smaller constants stay in the graph, where shapes need them
_LEVELS: Final = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}
_ERRORS_ONLY: Final = 3  # ONNX Runtime's log severity


def quantize(encoder: onnx.ModelProto, profile: DeviceProfile) -> onnx.ModelProto:
    """Return `encoder` with int8 weights; activations are scaled as they come.

    Raises:
        ConfigError: the profile has no [cpu] section.
    """
    recipe = _section(profile).int8
    logging.disable(logging.WARNING)  # it advises to fuse before; see above
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / GRAPH
            quantize_dynamic(
                encoder,
                file,
                weight_type=QuantType.QInt8,
                per_channel=recipe.per_channel,
                reduce_range=recipe.reduce_range,
            )
            return onnx.load(file)
    finally:
        logging.disable(logging.NOTSET)


def save(
    model: onnx.ModelProto, folder: Path, profile: DeviceProfile, *, fused: bool = True
) -> None:
    """See `exporters.targets.base.Target.save`.

    Raises:
        ConfigError: the profile has no [cpu] section.
    """
    level = _section(profile).graph_optimization if fused else "none"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = _LEVELS[level]
    options.optimized_model_filepath = str(folder / GRAPH)
    prefix = "session.optimized_model_external_initializers"
    options.add_session_config_entry(f"{prefix}_file_name", WEIGHTS)
    options.add_session_config_entry(f"{prefix}_min_size_in_bytes", str(_EXTERNAL_FROM_BYTES))
    onnxruntime.InferenceSession(
        model.SerializeToString(deterministic=True), options, providers=["CPUExecutionProvider"]
    )


def _section(profile: DeviceProfile) -> CpuTarget:
    if profile.cpu is None:
        remedy = "Add it, or take `cpu` out of `providers`."
        file = f"profile {profile.name}"
        raise ConfigError(file, [("cpu", "missing")], remedy=remedy)
    return profile.cpu
