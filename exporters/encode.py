"""Texts -> embeddings, in the way the device will see them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
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


def make_embed(
    model: onnx.ModelProto, encoder: Encoder, *, max_tokens: int, batch: int = 1
) -> Embed:
    """Return the `Embed` of `model`, in any precision.

    Unpadded, and by default one text at a time, as on the device: dynamic int8 scales activations
    over the whole batch, so a head fitted on batches would be fitted on other embeddings.

    Args:
        model: interface of `encoder.model`.
        encoder: gives tokenizer and width.
        max_tokens: where texts are cut.
        batch: most texts of equal length that go through `model` together. In float32 only the
            order of sums changes with it, and the weights are read once for all of them.
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

    def together(tensors: Sequence[Mapping[str, NDArray[np.int64]]]) -> NDArray[np.float32]:
        feeds = {name: np.concatenate([t[name] for t in tensors]) for name in names}
        rows: NDArray[np.float32] = session.run(["embedding"], feeds)[0]
        return rows

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        tensors = {text: tokenizer.encode(text)[0] for text in dict.fromkeys(texts)}
        by_length: defaultdict[int, list[str]] = defaultdict(list)
        for text, encoded in tensors.items():
            by_length[encoded[names[0]].shape[1]].append(text)
        batches = [
            alike[i : i + batch]
            for alike in by_length.values()
            for i in range(0, len(alike), batch)
        ]
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(together, [[tensors[t] for t in texts] for texts in batches]))
        row_of = dict(zip(chain(*batches), chain(*found), strict=True))
        return np.stack([row_of[text] for text in texts])

    return embed
