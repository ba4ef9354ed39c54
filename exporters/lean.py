"""The same encoder with less around its weights: what one unpadded text at a time needs.

Devices run texts alone and unpadded, so masks and segments, which are then all ones and all zeros,
are nodes that cost time and say nothing. And attention is a dozen nodes a layer that one does.
The float32 graph is rewritten before it is quantised, so that every recipe can be tried on it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.onnx_model import OnnxModel
from onnxruntime.transformers.optimizer import optimize_model

from edgeslm.errors import RejectedError
from exporters.quantize import quietly

Form = Literal["plain", "open", "fused"]
"""Of the graph: as exported; lean, with attention in parts that every quantiser knows (`open`);
lean, with attention as one node a layer, which dynamic int8 and float32 have kernels for."""
MICROSOFT: Final = "com.microsoft"
_IDS: Final = "input_ids"
_MASK: Final = "attention_mask"
_SEGMENTS: Final = "token_type_ids"
_MASK_INPUT: Final = 3  # of Attention
_TRIED: Final = (5, 13)  # lengths, in tokens, at which two forms are compared
_SAME: Final = 1e-3  # float32 sums in another order, against values about 1
_ERRORS_ONLY: Final = 3


class NotLeanError(RejectedError):
    """No lean form of this encoder is known, or it would not compute the same."""

    code = "tune.form"


def rewrite(encoder: onnx.ModelProto, form: Form) -> onnx.ModelProto:
    """Return `encoder` (float32) in another form.

    A lean form has one input, `input_ids`: it takes unpadded texts only.

    Raises:
        NotLeanError: its attention is not as known, or the outcome differs.
    """
    if form == "plain":
        return encoder
    with quietly():
        lean = _without_mask(_fuse(encoder))
        if form == "open":
            _open_attention(lean.graph)
    if MICROSOFT not in {opset.domain for opset in lean.opset_import}:
        lean.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    _check_same(encoder, lean)
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
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        onnx.save(encoder, file)
        # 0: heads and width as the graph has them.
        found = optimize_model(
            str(file), "bert", num_heads=0, hidden_size=0, optimization_options=options, opt_level=0
        )
    model: onnx.ModelProto = found.model
    return model


def _without_mask(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop mask and segments."""
    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Attention" and len(node.input) > _MASK_INPUT:
            node.input[_MASK_INPUT] = ""
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
    inputs = [value.name for value in model.graph.input]
    if inputs != [_IDS]:
        msg = f"the encoder's {', '.join(inputs)} are used where no lean form is known"
        raise NotLeanError(msg)
    return model


def _open_attention(graph: onnx.GraphProto) -> None:
    """Write each Attention as MatMul, Add and what follows, weights of q, k and v side by side."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Attention":
            heads = next(a.i for a in node.attribute if a.name == "num_heads")
            weight, bias = (numpy_helper.to_array(weights[name]) for name in node.input[1:3])
            nodes += _Opened(graph, node.name).nodes(
                node.input[0], node.output[0], weight.copy(), bias.copy(), heads
            )
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    for tensor in weights.values():
        if tensor.name not in read:
            graph.initializer.remove(tensor)


class _Opened:
    """The parts of one Attention node."""

    def __init__(self, graph: onnx.GraphProto, name: str) -> None:
        self._graph = graph
        self._name = name
        self._nodes: list[onnx.NodeProto] = []

    def nodes(
        self,
        source: str,
        output: str,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        heads: int,
    ) -> list[onnx.NodeProto]:
        """Return them in order.

        Args:
            source: tensor, float32 [batch, sequence, dim].
            output: tensor of that shape.
            weight: float32 [dim, 3 * dim].
            bias: float32 [3 * dim].
            heads: of attention.
        """
        dim = weight.shape[1] // 3
        size = dim // heads
        weight[:, :dim] /= np.float32(np.sqrt(size))  # of q: in place of a Div on every score
        bias[:dim] /= np.float32(np.sqrt(size))
        product = self._node("MatMul", [source, self._constant("weight", weight)], "product")
        added = self._node("Add", [product, self._constant("bias", bias)], "added")
        five = self._constant("five", np.array([0, 0, 3, heads, size], np.int64))
        parts = self._node("Reshape", [added, five], "parts")
        turned = self._node("Transpose", [parts], "turned", perm=[2, 0, 3, 1, 4])
        q, k, v = (
            self._node("Gather", [turned, self._constant(f"at_{name}", np.array(i))], name, axis=0)
            for i, name in enumerate("qkv")
        )
        scores = self._node("FusedMatMul", [q, k], "scores", domain=MICROSOFT, transB=1)
        shares = self._node("Softmax", [scores], "shares", axis=-1)
        mixed = self._node("MatMul", [shares, v], "mixed")
        back = self._node("Transpose", [mixed], "back", perm=[0, 2, 1, 3])
        three = self._constant("three", np.array([0, 0, dim], np.int64))
        self._nodes.append(
            helper.make_node("Reshape", [back, three], [output], name=f"{self._name}/out")
        )
        return self._nodes

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        tensor = numpy_helper.from_array(value, f"{self._name}/{name}")
        self._graph.initializer.append(tensor)
        return f"{self._name}/{name}"

    def _node(self, op: str, inputs: list[str], name: str, **attributes: object) -> str:
        output = f"{self._name}/{name}"
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output


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
    whole: onnxruntime.InferenceSession, less: onnxruntime.InferenceSession, length: int
) -> float:
    """Largest difference at this length, in tokens, against the largest value."""
    ids = np.arange(1, length + 1, dtype=np.int64)[None]
    feeds = {_IDS: ids, _MASK: np.ones_like(ids), _SEGMENTS: np.zeros_like(ids)}
    wanted = {i.name for i in whole.get_inputs()}
    expected = whole.run(None, {k: v for k, v in feeds.items() if k in wanted})[0]
    found = less.run(None, {_IDS: ids})[0]
    return float(np.abs(expected - found).max() / max(1.0, np.abs(expected).max()))


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
