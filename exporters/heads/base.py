"""What every head gives the pipeline, and the piece of graph that all heads begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts -> float32 [n, dim], mean-pooled over real tokens and scaled to length 1."""
Advance = Callable[[int], None]
"""Called with the number of steps just done; the CLI moves its bar with it."""
PREFIX: Final = "head/"
"""Every node and tensor of a head is named so; quantisers leave them alone."""


class FittedHead(Protocol):
    """A head fitted on the user's examples, on the embeddings of one encoder."""

    @property
    def parameters(self) -> bytes:
        """Canonical JSON for the bundle's `parameters` artifact, read by edgeslm/tasks/."""

    @property
    def requires(self) -> tuple[str, ...]:
        """Features that a reader of such a bundle must understand, for its manifest."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how it was fitted, a sentence each."""

    def attach(self, encoder: onnx.ModelProto) -> onnx.ModelProto:
        """Return `encoder` with pooling and head in its graph.

        `encoder` has inputs input_ids, attention_mask (and maybe token_type_ids), int64 [batch,
        sequence], and one output, float32 [batch, sequence, dim]. What is returned has the
        head's outputs alone. `Tail` below builds it.
        """


class Tail:
    """Nodes appended to a copy of an encoder's graph (opset 18 or later), each named "head/..."."""

    def __init__(self, encoder: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(encoder)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add an initialiser and return its tensor's name."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), PREFIX + name)
        self._model.graph.initializer.append(tensor)
        return PREFIX + name

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
        """Add a node of one output and return that tensor's name."""
        output = PREFIX + name
        node = helper.make_node(op, list(inputs), [output], name=output, **attributes)
        self._model.graph.node.append(node)
        return output

    def pool(self) -> str:
        """Add masked mean pooling to length 1; return its tensor, float32 [batch, dim].

        Mean and sum differ by a positive factor, which scaling to length 1 removes. An encoder
        without attention_mask takes unpadded texts only: all of their tokens are real.
        """
        hidden = real = self._model.graph.output[0].name  # [batch, sequence, dim]
        if "attention_mask" in {value.name for value in self._model.graph.input}:
            mask = self.node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
            column = self.node("Unsqueeze", [mask, self.constant("last", np.array([-1]))], "column")
            real = self.node("Mul", [hidden, column], "real")
        along = self.constant("along", np.array([1]))
        total = self.node("ReduceSum", [real, along], "total", keepdims=0)
        length = self.node("ReduceL2", [total, along], "length", keepdims=1)
        tiny = self.constant("tiny", np.array(1e-12, np.float32))  # an all-zero row stays zero
        floor = self.node("Max", [length, tiny], "floor")
        return self.node("Div", [total, floor], "embedding")

    def finish(self, outputs: Mapping[str, tuple[str, Sequence[int | str]]]) -> onnx.ModelProto:
        """Return the checked model whose outputs are exactly `outputs`.

        Args:
            outputs: public name -> (float32 tensor, its shape; a string names a dynamic axis).
        """
        graph = self._model.graph
        del graph.output[:]
        for public, (tensor, shape) in outputs.items():
            name = f"{PREFIX}{public}/out"
            graph.node.append(helper.make_node("Identity", [tensor], [public], name=name))
            graph.output.append(
                helper.make_tensor_value_info(public, TensorProto.FLOAT, list(shape))
            )
        onnx.checker.check_model(self._model)
        return self._model


def embedder(encoder: onnx.ModelProto, dim: int) -> onnx.ModelProto:
    """Return `encoder` with one output, "embedding", float32 [batch, dim]: what heads see."""
    tail = Tail(encoder)
    return tail.finish({"embedding": (tail.pool(), ("batch", dim))})
