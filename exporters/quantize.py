"""float32 ONNX -> int8, before anything is fused: fused nodes hide their MatMuls from quantisers.

Two ways. *Dynamic*: weights are int8 and activations are scaled as they come, over all that a call
holds, so a row's output depends on its batch. *Static*: activations have scales of their own,
measured on sample texts, as QuantizeLinear and DequantizeLinear around each node (QDQ).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from exporters.room import temporary
from exporters.targets.base import Feeds

Small = Literal["uint8", "int8"]
_TYPES: Final = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
_FILE: Final = "model.onnx"
_TABLE_RANK: Final = 2  # an embedding table: [vocabulary, dim]
# What GELU may be written as; as its parts it ends in the product of a value and its own gate.
_GELU: Final = frozenset({"Gelu", "FastGelu", "BiasGelu", "QuickGelu"})
_GATES: Final = frozenset({"Erf", "Tanh", "Sigmoid"})
_ELEMENTWISE: Final = frozenset({"Add", "Cast", "Div", "Identity", "Mul", "Sub"})


def dynamic_int8(
    model: onnx.ModelProto,
    *,
    per_channel: bool,
    reduce_range: bool,
    exclude: AbstractSet[str] = frozenset(),
) -> onnx.ModelProto:
    """Return `model` with int8 weights; activations are scaled as they come, over a whole call.

    Args:
        model: float32, not fused.
        per_channel: a scale for each output channel of a weight.
        reduce_range: 7-bit weights.
        exclude: names of nodes to leave in float32.
    """
    with quietly(), temporary() as folder:
        file = folder / _FILE
        quantize_dynamic(
            model,
            file,
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
            reduce_range=reduce_range,
            nodes_to_exclude=sorted(exclude),
            # Of tensors whose type the quantiser cannot infer: what fused nodes give.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        return onnx.load(file)


def static_int8(  # noqa: PLR0913 -- by name
    model: onnx.ModelProto,
    feeds: Sequence[Feeds],
    *,
    exclude: AbstractSet[str] = frozenset(),
    activation: Small = "uint8",
    weights: Small = "int8",
    per_channel: bool = True,
    reduce_range: bool = False,
    symmetric: bool = False,
    outputs: bool = False,
    options: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    """Return `model` with QDQ pairs around its `quantizable` nodes, but for those in `exclude`.

    Args:
        model: float32, not fused.
        feeds: inputs to measure activations on, of any lengths: the smallest and largest value of
            each tensor over all of them are its range.
        exclude: names of nodes to leave in float32.
        activation: type of activations.
        weights: type of weights.
        per_channel: a scale for each output channel of a MatMul's weight.
        reduce_range: 7-bit weights.
        symmetric: activations have no zero point of their own.
        outputs: quantise what a MatMul gives, too, and not only what it reads. What leads into the
            residual stream spans hundreds of times its usual size there: measured on MiniLM, mean
            cosine to float32 .942 with them, .989 without, and faster without.
        options: further `extra_options` of onnxruntime.quantization.quantize_static.
    """
    chosen = [name for name in quantizable(model) if name not in exclude]
    extra = {
        "ActivationSymmetric": symmetric,
        "OpTypesToExcludeOutputQuantization": [] if outputs else ["MatMul", "Gemm"],
        **(options or {}),
    }
    with quietly(), temporary() as folder:
        file = folder / _FILE
        quantize_static(
            onnx.shape_inference.infer_shapes(model),
            file,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            # Of constant weights alone: `MatMulConstBOnly` does nothing in QDQ.
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            nodes_to_quantize=chosen,
            per_channel=per_channel,
            reduce_range=reduce_range,
            activation_type=_TYPES[activation],
            weight_type=_TYPES[weights],
            calibrate_method=CalibrationMethod.MinMax,
            extra_options=extra,
        )
        return onnx.load(file)


def quantizable(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that int8 pays for: those that multiply by a weight, embedding tables."""
    tables = {i.name: len(i.dims) for i in _float_weights(model)}
    return [
        node.name
        for node in model.graph.node
        if (node.op_type in {"Attention", "MatMul", "Gemm"} and node.input[1] in tables)
        or (node.op_type == "Gather" and tables.get(node.input[0]) == _TABLE_RANK)
    ]


def ffn_down(model: onnx.ModelProto) -> set[str]:
    """Names of the MatMuls by a weight that read what GELU gives, found by structure.

    They lead out of an encoder's feed-forward block, and are where static int8 loses most: most of
    what they read lies in [-0.17, 1.5], and one scale must hold a few values of up to 25 as well.
    """
    made_by = {output: node for node in model.graph.node for output in node.output}
    weights = {i.name for i in _float_weights(model)}
    return {
        node.name
        for node in model.graph.node
        if node.op_type in {"MatMul", "Gemm"}
        and node.input[1] in weights
        and _is_gelu(node.input[0], made_by)
    }


def _is_gelu(tensor: str, made_by: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether `tensor` comes from GELU, whole or in parts, with elementwise nodes between."""
    waiting, seen, multiplied = [tensor], {tensor}, False
    gates = False
    while waiting:
        node = made_by.get(waiting.pop())
        if node is None:
            continue
        if node.op_type in _GELU:
            return True
        if node.op_type in _GATES:
            gates = True
        elif node.op_type in _ELEMENTWISE:
            multiplied |= node.op_type == "Mul"
            fresh = [name for name in node.input if name not in seen]
            seen.update(fresh)
            waiting += fresh
    return gates and multiplied


def _float_weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT]


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # of a package without types
    """Hands out feeds, one at a time."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._feeds: Iterator[Feeds] = iter(feeds)

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        feed = next(self._feeds, None)
        return None if feed is None else dict(feed)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep quantisers and optimisers from telling at length what they do, and advising to fuse."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
