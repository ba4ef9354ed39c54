"""ONNX Runtime's own kernels: int8 with weights per channel, or float32, in files a device maps.

Attention is fused before the graph is quantised, where the encoder's lean form is known; all else
(fused nodes hide their MatMuls from quantisers) when the graph is saved, so that devices load it as
it is. Layout optimisations are left out: they depend on the CPU that does them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from edgeslm.contract.profile import CpuTarget, DeviceProfile
from edgeslm.errors import ConfigError
from edgeslm.providers import cpu
from exporters.batches import disproof, sum_in_order
from exporters.cpu_recipe import CpuRecipe, apply, by_profile
from exporters.lean import NotLeanError
from exporters.targets.base import WEIGHTS, Compiled, Plan, Workbench
from exporters.tune.cpu import CpuTunable

GRAPH: Final = "model.onnx"
tunable: Final = CpuTunable()
_EXTERNAL_FROM_BYTES: Final = 1024  # smaller constants stay in the graph, where shapes need them
_LEVELS: Final = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}
_NORM_FUSIONS: Final = ["SkipLayerNormFusion", "EmbedLayerNormFusion"]
_DYNAMIC: Final = "DynamicQuantize"
_ERRORS_ONLY: Final = 3  # ONNX Runtime's log severity
_NUDGE: Final = np.float32(2.0**-22)
_PROVED_ON: Final = 32  # texts that are held against themselves in batches


def plans(profile: DeviceProfile) -> Sequence[Plan]:
    """See `exporters.targets.base.Target.plans`.

    Raises:
        ConfigError: the profile has no [cpu] section.
    """
    section = _section(profile)
    return [
        Plan(
            f"cpu-{precision}",
            "cpu",
            precision,
            profile.requires,
            recipe=by_profile(section, precision),
            fallback=precision != section.precisions[0],
        )
        for precision in section.precisions
    ]


def compile(  # noqa: A001 -- the port's word
    plan: Plan, profile: DeviceProfile, workbench: Workbench, folder: Path
) -> Compiled:
    """See `exporters.targets.base.Target.compile`."""
    del profile  # the recipe says all of it
    recipe = plan.recipe
    assert isinstance(recipe, CpuRecipe)  # noqa: S101 -- plans of this target have one
    notes: list[str] = []
    try:
        encoder = apply(recipe, workbench.encoder.model, workbench.calibration)
    except NotLeanError as err:
        notes.append(f"{plan.name} is compiled from the graph as exported, which is slower: {err}")
        plain = recipe.model_copy(update={"form": "plain"})
        encoder = apply(plain, workbench.encoder.model, workbench.calibration)
    head = workbench.fit(None if recipe.precision == "fp32" else encoder)
    model = head.attach(encoder)
    # Such nodes scale over all that a call holds.
    by_row = not any(node.op_type.startswith(_DYNAMIC) for node in model.graph.node)
    if by_row:
        model = sum_in_order(model)
    save(model, folder, level=recipe.level, norm_apart=recipe.norm_apart)
    if by_row:
        texts = workbench.calibration(_PROVED_ON)
        options = cpu.settings(plan.session)
        found = disproof(folder / GRAPH, options, texts, max_tokens=workbench.max_tokens)
        if found is not None:
            by_row = False
            notes.append(f"{plan.name} runs a text at a time: its neighbours change {found}")
    return Compiled(
        head,
        (GRAPH,),
        "silicon",
        batch_invariant=by_row,
        twin=lambda other: save(_nudged(model), other, level="none"),
        notes=tuple(notes),
    )


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


def _nudged(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model`, in whose every layer values are off by two units in the last place.

    So far the float32 kernels of another CPU may be from ours, up or down, and what lies between
    two steps of int8 falls to the other side. Operators of int8 have no other kernels here.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    random = np.random.default_rng(0)
    tensors = {tensor.name: tensor for tensor in changed.graph.initializer}
    gains = {node.input[1] for node in changed.graph.node if node.op_type == "LayerNormalization"}
    for name in sorted(gains & tensors.keys()):
        gain = numpy_helper.to_array(tensors[name])
        signs = random.choice(np.array([-1, 1], np.float32), gain.shape)
        tensors[name].CopyFrom(numpy_helper.from_array(gain * (1 + _NUDGE * signs), name))
    return changed


def _section(profile: DeviceProfile) -> CpuTarget:
    if profile.cpu is None:
        remedy = "Add it, or take `cpu` out of `providers`."
        file = f"profile {profile.name}"
        raise ConfigError(file, [("cpu", "missing")], remedy=remedy)
    return profile.cpu
