"""What every head gives the pipeline: a graph that ends in answers, and parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts -> float32 [n, dim], mean-pooled over real tokens and scaled to length 1."""
Advance = Callable[[int], None]
"""Called with the number of steps just done; the CLI moves its bar with it."""


class FittedHead(Protocol):
    """A head fitted on the user's examples, on the embeddings of one encoder."""

    @property
    def parameters(self) -> bytes:
        """Canonical JSON for the bundle's `parameters` artifact, read by edgeslm/tasks/."""

    def attach(self, encoder: onnx.ModelProto) -> onnx.ModelProto:
        """Return `encoder` with pooling and head in its graph.

        `encoder` has inputs input_ids, attention_mask (and maybe token_type_ids), int64 [batch,
        sequence], and one output, float32 [batch, sequence, dim]. What is returned has the
        head's outputs alone. Node names begin with "head/", so that quantisers can leave them.
        """
