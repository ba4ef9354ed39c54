"""The same encoder with less around its weights.

Attention is two dozen nodes a layer that one does, and segments, which are all zeros, cost nodes
that say nothing. The float32 graph is rewritten before it is quantised, so that every recipe can
be tried on it.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.onnx_model import OnnxModel
from onnxruntime.transformers.optimizer import optimize_model

from edgeslm.errors import RejectedError
from exporters.quantize import quietly
from exporters.room import temporary

Form = Literal["plain", "lean", "lean-tanh"]
"""Of the graph: as exported; with attention and GELU as one node a layer each; the same, with GELU
by its tanh form, off by less than .001, whose kernel is faster."""
MICROSOFT: Final = "com.microsoft"
_IDS: Final = "input_ids"
_MASK: Final = "attention_mask"
_SEGMENTS: Final = "token_type_ids"
_TRIED: Final = (5, 13)  # lengths, in tokens, at which two forms are compared
_PADDED: Final = 2  # of them, at the end
_SAME: Final = 1e-3  # float32 sums in another order, against values about 1
_MULTIPLY: Final = frozenset({"Attention", "Gemm", "MatMul"})
_ERRORS_ONLY: Final = 3


class NotLeanError(RejectedError):
    """No lean form of this encoder is known, or it would not compute the same."""

    code = "tune.form"


def rewrite(encoder: onnx.ModelProto, form: Form) -> onnx.ModelProto:
    """Return `encoder` (float32) in another form.

    The lean form takes `input_ids` and `attention_mask`.

    Raises:
        NotLeanError: its attention is not as known, or the outcome differs.
    """
    if form == "plain" or not _MULTIPLY.intersection(n.op_type for n in encoder.graph.node):
        return encoder  # a model of look-ups and sums has nothing around its weights
    with quietly():
        lean = _without_segments(_fuse(encoder))
    if MICROSOFT not in {opset.domain for opset in lean.opset_import}:
        lean.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    _check_same(encoder, lean)
    if form == "lean-tanh":
        for node in lean.graph.node:
            if node.op_type == "Gelu" and node.domain == MICROSOFT:
                node.op_type = "FastGelu"
    return lean


def _fuse(encoder: onnx.ModelProto) -> onnx.ModelProto:
    """Fuse attention and GELU.

    Not LayerNorm with the sum before it, nor the embeddings: on the CPU those kernels take
    several times what their parts take.
    """
    options = FusionOptions("bert")
    options.enable_skip_layer_norm = False
    options.enable_bias_skip_layer_norm = False
    options.enable_embed_layer_norm = False
    options.enable_bias_gelu = False  # the MatMul's own bias costs nothing
    with temporary() as folder:
        file = folder / "model.onnx"
        onnx.save(encoder, file)
        # 0: heads and width as the graph has them.
        found = optimize_model(
            str(file), "bert", num_heads=0, hidden_size=0, optimization_options=options, opt_level=0
        )
    model: onnx.ModelProto = found.model
    return model


def _without_segments(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put the first segment's vector in place of the look-up; check that attention is fused."""
    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type != "Gather" or node.input[1] != _SEGMENTS or node.input[0] not in tables:
            continue
        table = numpy_helper.to_array(tables[node.input[0]])  # [segments, dim]
        first = numpy_helper.from_array(table[:1][None], f"{_SEGMENTS}/first")  # [1, 1, dim]
        graph.initializer.append(first)
        graph.node.remove(node)
        for other in graph.node:
            for i, name in enumerate(other.input):
                if name == node.output[0]:
                    other.input[i] = first.name
    whole = OnnxModel(model)
    whole.prune_graph(allow_remove_graph_inputs=True)
    whole.topological_sort()
    inputs = sorted(value.name for value in model.graph.input)
    operators = {node.op_type for node in model.graph.node}
    if "Attention" not in operators or "Softmax" in operators or inputs != [_MASK, _IDS]:
        msg = "this encoder's attention is not one whose lean form is known"
        raise NotLeanError(msg)
    return model


def _check_same(encoder: onnx.ModelProto, lean: onnx.ModelProto) -> None:
    """Run both on the same ids.

    Raises:
        NotLeanError: they differ, or the lean one does not run.
    """
    try:
        apart = max(_apart(_session(encoder), _session(lean), length) for length in _TRIED)
    except Exception as err:  # noqa: BLE001 -- ONNX Runtime's share no narrower base
        msg = f"a lean form of this encoder does not run: {str(err)[:200]}"
        raise NotLeanError(msg) from None
    if not apart <= _SAME:
        msg = f"a lean form of this encoder differs from it by {apart:.2g}"
        raise NotLeanError(msg)


def _apart(
    whole: onnxruntime.InferenceSession, lean: onnxruntime.InferenceSession, length: int
) -> float:
    """Largest difference at this length, in tokens, padded by a few, to the largest value."""
    ids = np.arange(1, length + 1, dtype=np.int64)[None]
    mask = np.ones_like(ids)
    mask[:, length - _PADDED :] = 0
    feeds = {_IDS: ids, _MASK: mask, _SEGMENTS: np.zeros_like(ids)}
    seen = []
    for session in (whole, lean):
        found = session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})
        seen.append(found[0][:, : length - _PADDED])
    return float(np.abs(seen[0] - seen[1]).max() / max(1.0, np.abs(seen[0]).max()))


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
