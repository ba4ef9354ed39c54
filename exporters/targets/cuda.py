"""NVIDIA's GPUs: float16, and int8 as TensorRT takes it.

float16 is the encoder's alone: pooling and head stay in float32, where sums over a text have room.
int8 is symmetric QDQ, so that ONNX Runtime's TensorRT provider builds int8 engines of the same
file; the CUDA provider runs it too, its matrix products in float32. Shapes are fixed, a graph for
each bucket over the same weights: no shape arithmetic is left for the CPU, and engines need none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import onnx

from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import ConfigError
from edgeslm.providers import cuda
from exporters.documented import CUDA, TENSORRT
from exporters.heads.base import FittedHead
from exporters.quantize import ffn_down, static_int8
from exporters.shapes import check_half, fold, half, other_kernels, set_shape, tabulate_mask
from exporters.static_check import static_coverage
from exporters.targets.base import Compiled, Plan, Workbench, section
from exporters.weights import save_graphs

_OLDEST: Final = 7.5
"""CUDA 13 has no code for older GPUs, and onnxruntime-gpu is built with it.
https://docs.nvidia.com/cuda/archive/13.0.0/cuda-toolkit-release-notes/index.html
"""
_PRECISIONS: Final = {"fp16": "fp16", "int8": "int8-static"}
_CALIBRATION_TEXTS: Final = 256
_TRIED_TEXTS: Final = 64  # for values that float16 does not hold


def plans(profile: DeviceProfile) -> Sequence[Plan]:
    """See `exporters.targets.base.Target.plans`.

    Raises:
        ConfigError: the profile has no [cuda] section, or names a GPU that CUDA 13 does not run.
    """
    wanted = section(profile, profile.cuda, "cuda")
    try:
        capability = float(wanted.compute_capability)
    except ValueError:
        capability = 0.0
    if capability < _OLDEST:
        problem = f"{wanted.compute_capability}: CUDA 13 runs GPUs from {_OLDEST} (Turing) on"
        remedy = "Give the GPU's own, such as 8.7 for Jetson Orin."
        file = f"profile {profile.name}"
        raise ConfigError(file, [("cuda.compute_capability", problem)], remedy=remedy)
    return [
        Plan(
            f"cuda-{precision}",
            "cuda",
            _PRECISIONS[precision],
            profile.requires,
            placement=profile.placement,
            lengths=wanted.buckets,
        )
        for precision in wanted.precisions
    ]


def compile(  # noqa: A001 -- the port's word
    plan: Plan, profile: DeviceProfile, workbench: Workbench, folder: Path
) -> Compiled:
    """See `exporters.targets.base.Target.compile`.

    Raises:
        CalibrationError: too few training texts.
        DynamicShapeError: the model's shapes cannot be fixed.
        HalfOverflowError: the model does not fit into float16.
    """
    section(profile, profile.cuda, "cuda")
    encoder = fold(tabulate_mask(workbench.encoder.model))
    if plan.precision == _PRECISIONS["fp16"]:
        check_half(encoder, workbench.calibration(_TRIED_TEXTS))
        head = workbench.fit()
        graphs = _floats(encoder, head, plan, half)
        twins = partial(_floats, encoder, head, plan, lambda model: model)
    else:
        head, graphs = _int8(encoder, plan, workbench)
        twins = partial(_fused, graphs)
    save_graphs(graphs, folder)
    coverage = {name: static_coverage(folder / name, CUDA) for name in graphs}
    ready = [static_coverage(folder / name, TENSORRT) for name in graphs]
    fallen = {f"{f.operator}: {f.why}" for found in ready for f in found.fallen}
    notes = [f"{plan.name}: TensorRT leaves to CUDA: {what}" for what in sorted(fallen)]
    return Compiled(
        head,
        tuple(graphs),
        "static" if cuda.problem() else "silicon",
        coverage=coverage if cuda.problem() else {},
        twin=lambda other: save_graphs(twins(), other),
        notes=tuple(notes),
    )


Graphs = dict[str, onnx.ModelProto]


def _floats(
    encoder: onnx.ModelProto,
    head: FittedHead,
    plan: Plan,
    convert: Callable[[onnx.ModelProto], onnx.ModelProto],
) -> Graphs:
    """The encoder as `convert` makes it, and the head in float32."""
    graphs = {}
    for length in plan.lengths:
        whole = head.attach(convert(fold(encoder, length=length)))
        set_shape(whole, length)
        graphs[f"model-{length}.onnx"] = tabulate_mask(whole)
    return graphs


def _int8(encoder: onnx.ModelProto, plan: Plan, workbench: Workbench) -> tuple[FittedHead, Graphs]:
    """Symmetric int8 of activations and weights, but for what leads out of GELU."""
    feeds = workbench.calibration(_CALIBRATION_TEXTS)
    down = ffn_down(encoder)
    small = static_int8(encoder, feeds, exclude=down, activation="int8", symmetric=True)
    head = workbench.fit(small)
    whole = tabulate_mask(head.attach(small))
    return head, {f"model-{n}.onnx": fold(whole, length=n) for n in plan.lengths}


def _fused(graphs: Graphs) -> Graphs:
    return {name: other_kernels(graph) for name, graph in graphs.items()}
