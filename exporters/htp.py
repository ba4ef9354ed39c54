"""float32 ONNX -> what Qualcomm's NPU (HTP) takes whole: 16-bit activations, 8-bit weights (A16W8).

Passes over the graph, head included, for one text of a fixed length. 8-bit activations lose too
much (the input of a feed-forward block's second MatMul has a few values hundreds of times the
others), float is slow or missing: HTP v68, the oldest, has none. Ranges are measured once for all
lengths, so the weights of graphs of several lengths are the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.execution_providers.qnn import (
    get_qnn_qdq_config,
    qnn_preprocess_model,
)

from edgeslm.runtime.tokenizer import INPUTS
from exporters.quantize import quietly
from exporters.room import temporary
from exporters.shapes import MASKED, fold, tabulate_mask
from exporters.sources.base import drop_unused
from exporters.targets.base import Feeds

HIDDEN: Final = -50.0
"""What is added to a padded token's score: e**-50 is nothing, and scores keep a fine scale. With
float32's least in its place, 16 bits hold the mask and nothing else."""
_ERRORS_ONLY: Final = 3  # ONNX Runtime's log severity
_MATRIX: Final = 2  # rank of a weight
_BIASED: Final = 3  # inputs of a Gemm with a bias

Ranges = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Tensor -> smallest and largest value seen."""


def quantized(
    model: onnx.ModelProto, lengths: Sequence[int], texts: Sequence[Feeds]
) -> dict[int, onnx.ModelProto]:
    """Return `model` for each of `lengths`, with QDQ pairs around every node.

    Args:
        model: float32, head included; inputs int64 [batch, sequence], both free.
        lengths: in tokens, ascending.
        texts: to measure activations on: int64 [1, sequence], unpadded.

    Raises:
        DynamicShapeError: a shape is left that depends on the text.
        BucketError: the model does not take so many tokens.
    """
    graphs = {length: prepare(model, length) for length in lengths}
    ranges: Ranges = {}
    for length, feeds in _padded(texts, lengths).items():
        _widen(ranges, graphs[length], feeds)
    return {length: _quantize(graph, ranges) for length, graph in graphs.items()}


def prepare(model: onnx.ModelProto, length: int) -> onnx.ModelProto:
    """Return `model` for texts of `length` tokens, in float32, of operators that the HTP has.

    Raises:
        DynamicShapeError: a shape is left that depends on the text.
        BucketError: the model does not take so many tokens.
    """
    fixed = tabulate_mask(fold(model, length=length))
    _clamp(fixed.graph)
    _normalize(fixed.graph)
    with quietly(), temporary() as folder:
        file = folder / "fused.onnx"
        given = onnx.ModelProto()
        given.CopyFrom(fixed)  # whose weights it moves into a file that is soon gone
        if qnn_preprocess_model(given, file, fuse_layernorm=True):
            fixed = onnx.load(file)
    for node in fixed.graph.node:
        _drop_zero_bias(node, fixed.graph)
    drop_unused(fixed.graph)
    return fixed


def _clamp(graph: onnx.GraphProto) -> None:
    """Make masks out of minus infinity's stand-ins: see `HIDDEN`."""
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            if values.min(initial=0.0) <= MASKED:
                clamped = np.maximum(values, np.float32(HIDDEN))
                tensor.CopyFrom(numpy_helper.from_array(clamped, tensor.name))


def _normalize(graph: onnx.GraphProto) -> None:
    """Write x / max(|x|, tiny) as one LpNormalization: the HTP has no ReduceL2 of 16 bits."""
    made_by = {output: node for node in graph.node for output in node.output}

    def maker(tensor: str, operator: str) -> onnx.NodeProto | None:
        node = made_by.get(tensor)
        return node if node is not None and node.op_type == operator else None

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        floor = maker(node.input[1], "Max") if node.op_type == "Div" else None
        length = maker(floor.input[0], "ReduceL2") if floor is not None else None
        if length is None or length.input[0] != node.input[0]:
            continue
        [axis] = numpy_helper.to_array(constants[length.input[1]]).tolist()
        one = helper.make_node(
            "LpNormalization", [node.input[0]], list(node.output), name=node.name, axis=axis, p=2
        )
        node.CopyFrom(one)
    drop_unused(graph)


def _drop_zero_bias(node: onnx.NodeProto, graph: onnx.GraphProto) -> None:
    """Take from a Gemm a bias of zeros, whose scale the HTP gets wrong."""
    if node.op_type != "Gemm" or len(node.input) < _BIASED:
        return
    for tensor in graph.initializer:
        if tensor.name == node.input[2] and not numpy_helper.to_array(tensor).any():
            del node.input[2]
            return


def _padded(texts: Sequence[Feeds], lengths: Sequence[int]) -> dict[int, list[Feeds]]:
    """Return `texts` by the length that each is padded to, the shortest that holds it.

    And one more, half of the first text in the longest: so there is padding, whatever the texts.
    """
    found: dict[int, list[Feeds]] = {length: [] for length in lengths}
    for feeds in texts:
        tokens = feeds[INPUTS[0]].shape[1]
        length = next((size for size in lengths if size >= tokens), lengths[-1])
        found[length].append(_fit(feeds, min(tokens, length), length))
    found[lengths[-1]].append(_fit(texts[0], lengths[-1] // 2, lengths[-1]))
    return found


def _fit(feeds: Feeds, tokens: int, length: int) -> Feeds:
    """Cut `feeds` at `tokens` and pad them to `length`."""
    cut = {name: value[:, :tokens] for name, value in feeds.items()}
    return {
        name: np.pad(value, ((0, 0), (0, length - value.shape[1]))) for name, value in cut.items()
    }


def _widen(ranges: Ranges, model: onnx.ModelProto, feeds: Sequence[Feeds]) -> None:
    """Widen `ranges` by what float32 `model` computes of `feeds`."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    names = [name for node in model.graph.node for name in node.output]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = [value.name for value in session.get_inputs()]
    for feed in feeds:
        values = session.run(names, {name: feed[name] for name in inputs})
        for name, value in zip(names, values, strict=True):
            if value.dtype == np.float32:
                low, high = ranges.get(name, (value.min(), value.max()))
                ranges[name] = np.minimum(low, value.min()), np.maximum(high, value.max())


def _quantize(model: onnx.ModelProto, ranges: Mapping[str, object]) -> onnx.ModelProto:
    """Return `model` with QDQ pairs: 16 bits, weights of matrices 8 bits a channel.

    Other weights are of 8 bits a tensor with a zero point of their own (LayerNorm's, which the
    HTP does not take else), or of 16 (embeddings).
    """
    overrides = {
        name: [{"quant_type": QuantType.QInt8, "axis": axis, "symmetric": True}]
        for name, axis in _matrices(model.graph)
    }
    with quietly():
        config = get_qnn_qdq_config(
            model,
            None,
            activation_type=QuantType.QUInt16,
            weight_type=QuantType.QUInt8,
            init_overrides=overrides,
        )
        quantizer = QDQQuantizer(
            model,
            per_channel=config.per_channel,
            reduce_range=config.reduce_range,
            weight_qType=config.weight_type,
            activation_qType=config.activation_type,
            tensors_range=TensorsData(CalibrationMethod.MinMax, dict(ranges)),
            nodes_to_quantize=[],
            nodes_to_exclude=[],
            op_types_to_quantize=sorted(config.op_types_to_quantize),
            extra_options=config.extra_options,
        )
        quantizer.quantize_model()
    made: onnx.ModelProto = quantizer.model.model
    return made


def _matrices(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """Yield each constant that a MatMul or Gemm multiplies by, and the axis of its outputs."""
    constants = {t.name for t in graph.initializer if len(t.dims) == _MATRIX}
    for node in graph.node:
        if node.op_type in {"MatMul", "Gemm"} and node.input[1] in constants:
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            yield node.input[1], 0 if turned else 1
