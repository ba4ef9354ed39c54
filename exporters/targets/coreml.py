"""Apple's Core ML, as ML Program: float16 whole, or float32 with int8 weights.

Core ML's provider takes fixed shapes, and weights only from the graph's own file, so each bucket
is a file with all of them. It does not take DequantizeLinear: the CPU would unpack int8 weights in
each inference. So the device unpacks them when it loads them, before it asks who takes what: half
the file of float16, and twice its memory. That is why float16 comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeslm.contract.manifest import Coverage
from edgeslm.contract.profile import DeviceProfile
from edgeslm.providers import coreml
from exporters.documented import CORE_ML
from exporters.heads.base import FittedHead
from exporters.quantize import quantizable
from exporters.shapes import (
    check_half,
    fold,
    half,
    other_kernels,
    set_shape,
    spell_out_norms,
    tabulate_mask,
    unpack_weights,
    widen_look_ups,
)
from exporters.static_check import static_coverage
from exporters.targets.base import Compiled, Plan, Workbench, section
from exporters.weights import save_whole

FP16: Final = "fp16"
_TRIED_TEXTS: Final = 64  # for values that float16 does not hold
_LARGEST: Final = 127  # of a symmetric int8


def plans(profile: DeviceProfile) -> Sequence[Plan]:
    """See `exporters.targets.base.Target.plans`.

    Raises:
        ConfigError: the profile has no [coreml] section.
    """
    wanted = section(profile, profile.coreml, "coreml")
    return [
        Plan(
            f"coreml-{precision}",
            "coreml",
            precision,
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
    section(profile, profile.coreml, "coreml")
    # Of integers, Core ML looks up int64 alone: see `exporters.documented`.
    encoder = fold(tabulate_mask(widen_look_ups(workbench.encoder.model)))
    if plan.precision == FP16:
        check_half(encoder, workbench.calibration(_TRIED_TEXTS))
    head = workbench.fit()
    graphs = _graphs(encoder, head, plan, half if plan.precision == FP16 else int8_weights)
    save_whole(graphs, folder)

    def twin(other: Path) -> None:
        if plan.precision == FP16:  # in float32: what float16 rounds
            twins = _graphs(encoder, head, plan, lambda model: model)
        else:
            twins = {name: other_kernels(unpack_weights(graph)) for name, graph in graphs.items()}
        save_whole(twins, other)

    here = coreml.problem() is None
    return Compiled(
        head,
        tuple(graphs),
        "silicon" if here else "static",
        coverage={} if here else {name: covered(folder / name, plan.precision) for name in graphs},
        twin=twin,
    )


def _graphs(
    encoder: onnx.ModelProto,
    head: FittedHead,
    plan: Plan,
    convert: Callable[[onnx.ModelProto], onnx.ModelProto],
) -> dict[str, onnx.ModelProto]:
    """The encoder as `convert` makes it, and the head in float32."""
    graphs = {}
    for length in plan.lengths:
        whole = head.attach(convert(fold(encoder, length=length)))
        set_shape(whole, length)
        graphs[f"model-{length}.onnx"] = spell_out_norms(tabulate_mask(whole))
    return graphs


def covered(graph: Path, precision: str) -> Coverage:
    """Return what Core ML takes of a graph, as the device asks it to."""
    if precision == FP16:
        return static_coverage(graph, CORE_ML)
    unpacked = graph.with_suffix(".unpacked")
    try:
        unpacked.write_bytes(unpack_weights(onnx.load(graph)).SerializeToString())
        return static_coverage(unpacked, CORE_ML)
    finally:
        unpacked.unlink(missing_ok=True)


def int8_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return float32 `model` with weights in int8, a scale for each output channel.

    A DequantizeLinear stands between each and its node; activations stay in float32.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    graph = small.graph
    chosen = set(quantizable(model))
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        if node.name in chosen:
            position = 0 if node.op_type == "Gather" else 1
            name = node.input[position]
            node.input[position] = f"{name}/float"
            if name not in done:
                done.add(name)
                nodes.append(_pack(graph, weights[name]))
        nodes.append(node)
    kept = [tensor for tensor in graph.initializer if tensor.name not in done]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return small


def _pack(graph: onnx.GraphProto, tensor: onnx.TensorProto) -> onnx.NodeProto:
    """Add `tensor` to `graph` as int8 and scales; return the node that unpacks it."""
    value = numpy_helper.to_array(tensor)
    scale = np.abs(value).max(axis=0) / _LARGEST
    scale[scale == 0] = 1.0  # a column of zeros
    name = tensor.name
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.rint(value / scale).astype(np.int8), f"{name}/int8"),
            numpy_helper.from_array(scale.astype(np.float32), f"{name}/scale"),
        ]
    )
    inputs, output = [f"{name}/int8", f"{name}/scale"], f"{name}/float"
    return helper.make_node("DequantizeLinear", inputs, [output], name=output, axis=1)
