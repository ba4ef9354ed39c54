"""ONNX Runtime's own kernels: dynamic int8, weights per channel, in files a device maps.

The graph is quantised before it is fused (fused nodes hide their MatMuls from the quantiser), and
fused when it is saved, so that devices load it as it is. Layout optimisations are left out: they
depend on the CPU that does them.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import onnx
import onnxruntime

from edgeslm.contract.manifest import Verified
from edgeslm.contract.profile import CpuTarget, DeviceProfile
from edgeslm.errors import ConfigError
from edgeslm.runtime.device import this_device
from exporters.cpu_recipe import CpuRecipe, apply
from exporters.quantize import dynamic_int8
from exporters.targets.base import WEIGHTS, Compiled, Plan, Workbench

GRAPH: Final = "model.onnx"
_EXTERNAL_FROM_BYTES: Final = 1024  # smaller constants stay in the graph, where shapes need them
_LEVELS: Final = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}
_NORM_FUSIONS: Final = ["SkipLayerNormFusion", "EmbedLayerNormFusion"]
_ERRORS_ONLY: Final = 3  # ONNX Runtime's log severity


def plans(profile: DeviceProfile) -> Sequence[Plan]:
    """See `exporters.targets.base.Target.plans`.

    Raises:
        ConfigError: the profile has no [cpu] section.
    """
    return [
        Plan(f"cpu-{precision}", "cpu", precision, profile.requires)
        for precision in _section(profile).precisions
    ]


def compile(  # noqa: A001 -- the port's word
    plan: Plan, profile: DeviceProfile, workbench: Workbench, folder: Path
) -> Compiled:
    """See `exporters.targets.base.Target.compile`.

    Raises:
        ConfigError: the profile has no [cpu] section.
    """
    section = _section(profile)
    encoder = workbench.encoder.model
    if isinstance(plan.recipe, CpuRecipe):
        made = apply(plan.recipe, encoder, workbench.calibration)
        head = workbench.fit(None if plan.recipe.precision == "fp32" else made)
        model = head.attach(made)
        save(model, folder, level=plan.recipe.level, norm_apart=plan.recipe.norm_apart)
        return Compiled(
            head,
            (GRAPH,),
            _verified(profile),
            twin=lambda other: save(model, other, level="none"),
        )
    if plan.precision == "fp32":
        head = workbench.fit()
        model = head.attach(encoder)
    else:
        small = dynamic_int8(
            encoder,
            per_channel=section.int8.per_channel,
            reduce_range=section.int8.reduce_range,
        )
        head = workbench.fit(small)
        model = head.attach(small)
    save(model, folder, level=section.graph_optimization)
    return Compiled(
        head,
        (GRAPH,),
        _verified(profile),
        twin=lambda other: save(model, other, level="none"),
    )


def _verified(profile: DeviceProfile) -> Verified:
    """Where what is made for this profile runs: here, if this machine is such a device."""
    here = this_device()
    if profile.requires.arch in {None, platform.machine()} and here.lacks(profile.requires) is None:
        return "silicon"
    return "none"


def save(model: onnx.ModelProto, folder: Path, *, level: str, norm_apart: bool = False) -> None:
    """Write `model` as `GRAPH` and `WEIGHTS`, optimised up to `level`: none, basic or extended.

    Levels differ in the kernels that run, not in what is computed; so does `norm_apart`: LayerNorm
    is not fused with what comes before it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = _LEVELS[level]
    options.optimized_model_filepath = str(folder / GRAPH)
    prefix = "session.optimized_model_external_initializers"
    options.add_session_config_entry(f"{prefix}_file_name", WEIGHTS)
    options.add_session_config_entry(f"{prefix}_min_size_in_bytes", str(_EXTERNAL_FROM_BYTES))
    onnxruntime.InferenceSession(
        model.SerializeToString(deterministic=True),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=_NORM_FUSIONS if norm_apart else [],
    )


def _section(profile: DeviceProfile) -> CpuTarget:
    if profile.cpu is None:
        remedy = "Add it, or take `cpu` out of `providers`."
        file = f"profile {profile.name}"
        raise ConfigError(file, [("cpu", "missing")], remedy=remedy)
    return profile.cpu
