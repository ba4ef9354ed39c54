"""Texts -> embeddings, in the way the device will see them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgeslm.runtime.tokenizer import Tokenizer
from exporters.heads.base import Embed, embedder
from exporters.sources.base import Encoder

_THREADS: Final = 2
_ERRORS_ONLY: Final = 3


def make_embed(model: onnx.ModelProto, encoder: Encoder, *, max_tokens: int) -> Embed:
    """Return the `Embed` of `model`, in any precision.

    One text at a time and unpadded, as on the device: dynamic int8 scales activations over the
    whole batch, so a head fitted on batches would be fitted on other embeddings.

    Args:
        model: interface of `encoder.model`.
        encoder: gives tokenizer and width.
        max_tokens: where texts are cut.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # several callers on one session beat several threads in it
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(
        embedder(model, encoder.dim).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
    )
    names = [spec.name for spec in session.get_inputs()]
    tokenizer = Tokenizer(encoder.tokenizer, max_tokens=max_tokens)

    def one(text: str) -> NDArray[np.float32]:
        tensors, _ = tokenizer.encode(text)
        (rows,) = session.run(["embedding"], {name: tensors[name] for name in names})
        row: NDArray[np.float32] = rows[0]
        return row

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        distinct = list(dict.fromkeys(texts))
        with ThreadPoolExecutor(_THREADS) as pool:
            row_of = dict(zip(distinct, pool.map(one, distinct), strict=True))
        return np.stack([row_of[text] for text in texts])

    return embed
