"""Static int8 of a lean graph, as ONNX Runtime's own operators of int8.

`exporters.quantize.static_int8` writes QuantizeLinear and DequantizeLinear around nodes, for any
runtime to fuse; no pattern of them stands for attention in one node. Here each node is written as
the operator that runs: QAttention and MatMulIntegerToFloat, whose rows do not depend on their
neighbours, as activations have scales of their own.

Operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from exporters.lean import MICROSOFT
from exporters.quantize import quantizable
from exporters.targets.base import Feeds

_LEVELS: Final = 255  # between the least and the largest value of uint8
_LARGEST: Final = 127  # of int8
_REDUCED: Final = 64  # of 7 bits: sums of two products with uint8 stay within 16 bits
_ERRORS_ONLY: Final = 3
_MASK_INPUT: Final = 3  # of Attention


def static_operators(
    model: onnx.ModelProto,
    feeds: Sequence[Feeds],
    *,
    exclude: AbstractSet[str] = frozenset(),
    per_channel: bool = True,
    reduce_range: bool = False,
) -> onnx.ModelProto:
    """Return `model` with its `quantizable` nodes as operators of int8, but for those in `exclude`.

    Args:
        model: float32, lean (see `exporters.lean`).
        feeds: inputs to measure activations on, of any lengths: the smallest and largest value of
            each tensor over all of them, and zero, are its range.
        exclude: names of nodes to leave in float32.
        per_channel: a scale for each output channel of a weight.
        reduce_range: 7-bit weights.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    chosen = {name for name in quantizable(model) if name not in exclude}
    writer = _Writer(changed.graph, largest=_REDUCED if reduce_range else _LARGEST)
    read = {
        node.input[0]
        for node in changed.graph.node
        if node.name in chosen and node.op_type != "Gather"
    }
    writer.ranges = _ranges(model, sorted(read), feeds)
    for node in model.graph.node:
        if node.name not in chosen:
            writer.keep(node)
        elif node.op_type == "Gather":
            writer.look_up(node)
        elif node.op_type == "Attention":
            writer.attend(node, per_channel=per_channel)
        else:
            writer.multiply(node, per_channel=per_channel)
    writer.finish()
    if MICROSOFT not in {opset.domain for opset in changed.opset_import}:
        changed.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return changed


class _Writer:
    """Writes the nodes of a graph anew.

    Args:
        graph: to change; its nodes are read until `finish`.
        largest: of a weight.
    """

    def __init__(self, graph: onnx.GraphProto, *, largest: int) -> None:
        self.ranges: dict[str, tuple[float, float]] = {}
        self._graph = graph
        self._largest = largest
        self._weights = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self._readers = Counter(name for node in graph.node for name in node.input)
        self._readers.update(value.name for value in graph.output)
        self._adds = {
            name: node for node in graph.node if node.op_type == "Add" for name in node.input
        }
        self._nodes: list[onnx.NodeProto] = []
        self._quantised: dict[str, tuple[str, str, str]] = {}
        self._folded: set[str] = set()

    def keep(self, node: onnx.NodeProto) -> None:
        if not self._folded.intersection(node.output):
            self._nodes.append(node)

    def look_up(self, node: onnx.NodeProto) -> None:
        """A table in int8, of which only the rows asked for become float32."""
        table, scale = self._small(node.input[0], axis=None)
        small = f"{node.output[0]}/int8"
        found = helper.make_node("Gather", [table, node.input[1]], [small], name=node.name)
        found.attribute.extend(node.attribute)
        self._nodes += [
            found,
            helper.make_node(
                "DequantizeLinear", [small, scale], node.output, name=f"{node.name}/scaled"
            ),
        ]

    def multiply(self, node: onnx.NodeProto, *, per_channel: bool) -> None:
        """MatMul, and the sum with a bias behind it."""
        values, scale, zero = self._activation(node.input[0])
        weight, sizes = self._small(node.input[1], axis=0 if per_channel else None)
        inputs = [values, weight, scale, sizes, zero, self._zero(sizes)]
        output = node.output[0]
        if (added := self._bias(output)) is not None:
            bias, output = added
            inputs.append(bias)
        self._nodes.append(
            helper.make_node(
                "MatMulIntegerToFloat", inputs, [output], name=node.name, domain=MICROSOFT
            )
        )

    def attend(self, node: onnx.NodeProto, *, per_channel: bool) -> None:
        values, scale, zero = self._activation(node.input[0])
        weight, sizes = self._small(node.input[1], axis=0 if per_channel else None)
        mask = node.input[_MASK_INPUT] if len(node.input) > _MASK_INPUT else ""
        inputs = [values, weight, node.input[2], scale, sizes, mask, zero, self._zero(sizes)]
        made = helper.make_node("QAttention", inputs, node.output, name=node.name, domain=MICROSOFT)
        known = {"num_heads", "mask_filter_value"}
        made.attribute.extend(a for a in node.attribute if a.name in known)
        self._nodes.append(made)

    def finish(self) -> None:
        """Put what was written in place of what was read."""
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        del self._graph.node[:]
        self._graph.node.extend(kept)
        read = {name for node in kept for name in node.input}
        for tensor in list(self._graph.initializer):
            if tensor.name not in read:
                self._graph.initializer.remove(tensor)

    def _activation(self, name: str) -> tuple[str, str, str]:
        """Quantise a tensor, once for all that read it; return it, its scale and its zero."""
        if name not in self._quantised:
            low, high = self.ranges[name]
            step = np.float32((high - low) / _LEVELS) or np.float32(1)
            zero = np.uint8(np.clip(np.rint(-low / step), 0, _LEVELS))
            parts = self._constant(f"{name}/scale", step), self._constant(f"{name}/zero", zero)
            self._quantised[name] = (f"{name}/uint8", *parts)
            self._nodes.append(
                helper.make_node(
                    "QuantizeLinear", [name, *parts], [f"{name}/uint8"], name=f"{name}/quantised"
                )
            )
        return self._quantised[name]

    def _small(self, name: str, *, axis: int | None) -> tuple[str, str]:
        """Write a weight in int8, zero at zero; return it and its scales.

        Args:
            name: of the weight.
            axis: along which one scale holds; None: one scale for all.
        """
        weight = self._weights[name]
        steps = np.abs(weight).max(axis=axis).astype(np.float32) / np.float32(self._largest)
        steps = np.where(steps == 0, np.float32(1), steps).astype(np.float32)
        small = np.rint(weight / steps).astype(np.int8)
        return self._constant(f"{name}/int8", small), self._constant(f"{name}/scale", steps)

    def _zero(self, scales: str) -> str:
        """Return the zero points of a weight that has these scales."""
        [tensor] = [i for i in self._graph.initializer if i.name == scales]
        return self._constant(f"{scales}/zero", np.zeros(tuple(tensor.dims), np.int8))

    def _bias(self, product: str) -> tuple[str, str] | None:
        """Return the bias that is added to `product`, and what the sum is called."""
        node = self._adds.get(product)
        if node is None or self._readers[product] != 1:
            return None
        other = next(name for name in node.input if name != product)
        if other not in self._weights or self._weights[other].ndim != 1:
            return None
        self._folded.add(node.output[0])
        return other, node.output[0]

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        if all(tensor.name != name for tensor in self._graph.initializer):
            self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _ranges(
    model: onnx.ModelProto, tensors: Sequence[str], feeds: Sequence[Feeds]
) -> dict[str, tuple[float, float]]:
    """Return the least and the largest value of each tensor over all `feeds`, and zero."""
    if not tensors:  # a model of look-ups and sums
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {value.name for value in watched.graph.output}
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in tensors
        if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = dict.fromkeys(tensors, (0.0, 0.0))
    for feed in feeds:
        for name, value in zip(tensors, session.run(list(tensors), dict(feed)), strict=True):
            low, high = found[name]
            found[name] = min(low, float(value.min())), max(high, float(value.max()))
    return found
