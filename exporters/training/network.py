"""Encoder and head in PyTorch, as training sees them. Imported where torch may be."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from torch import Tensor, nn

from exporters.sources.base import SourceError
from exporters.training.batches import by_length, pad

RATE: Final = 2e-4
"""Learning rate of the topmost layer, at its highest."""
_HEAD_RATE: Final = 1e-3
_DECAY: Final = 0.9  # of the rate, from each layer to the one below it
_WEIGHT_DECAY: Final = 0.01
_LAYER: Final = re.compile(r"\.(\d+)\.")  # encoder.layer.3.output...
_SCALES: Final = (1.0, 100.0)
_TINY: Final = 1e-12


class Network(nn.Module):
    """Mean of the hidden states over real tokens, scaled to length 1, under a linear layer.

    The table of word vectors is frozen: it is half of the weights, a step moves few of its rows,
    and without it the optimiser needs half the memory.

    Args:
        encoder: a Hugging Face model.
        labels: how many.
    """

    def __init__(self, encoder: Any, labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, labels)
        for table in encoder.get_input_embeddings().parameters():
            table.requires_grad_(requires_grad=False)

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return what the last layer says of each token, float32 [texts, longest, dim]."""
        hidden: Tensor = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return embeddings, float32 [texts, dim], of length 1."""
        real = mask.unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * real).sum(dim=1), dim=1, eps=_TINY)

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return embeddings, float32 [texts, dim], of length 1."""
        return self.pool(self.hidden(ids, mask), mask)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return logits, float32 [texts, labels]."""
        logits: Tensor = self.head(self.embed(ids, mask))
        return logits

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that training moves, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def open_network(folder: Path, labels: int) -> Network:
    """Return the model in a Hugging Face folder under a head that says nothing yet.

    Raises:
        SourceError: PyTorch cannot load it, or it is no encoder.
    """
    from transformers import AutoModel  # noqa: PLC0415 -- takes seconds

    with quiet():
        try:
            encoder = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        except Exception as err:  # noqa: BLE001 -- of any kind, from three libraries
            why = (str(err).strip().splitlines() or [type(err).__name__])[0][:300]
            msg = f"{folder.name}: cannot be trained: {why}"
            raise SourceError(msg) from None
    if not isinstance(getattr(encoder.config, "hidden_size", None), int):
        msg = f"{folder.name}: cannot be trained: its config.json names no hidden_size"
        raise SourceError(msg)
    return Network(encoder, labels)


def optimiser(network: Network, rate: float) -> torch.optim.AdamW:
    """Return one whose rates fall from the head to the embeddings, layer by layer.

    Args:
        network: to train.
        rate: of the topmost layer, at its highest.
    """
    layers = int(getattr(network.encoder.config, "num_hidden_layers", 0))
    groups = [
        {
            "params": [parameter],
            "lr": _rate(name, layers, rate),
            "weight_decay": _WEIGHT_DECAY if parameter.ndim > 1 else 0.0,
        }
        for name, parameter in network.trained().items()
    ]
    for group in groups:
        group["initial_lr"] = group["lr"]
    return torch.optim.AdamW(groups)


def _rate(name: str, layers: int, top: float) -> float:
    if name.startswith("head."):
        return _HEAD_RATE
    if (found := _LAYER.search(name)) is not None:
        return float(top * _DECAY ** max(0, layers - 1 - int(found[1])))
    return float(top * _DECAY**layers) if "embed" in name else top


def embed_all(
    network: Network, texts: Sequence[NDArray[np.int64]], numbers: Sequence[int]
) -> NDArray[np.float32]:
    """Return the embeddings of these texts, float32 [numbers, dim], without dropout."""
    network.eval()
    lengths = [len(text) for text in texts]
    rows: dict[int, NDArray[np.float32]] = {}
    with torch.no_grad():
        for batch in by_length(numbers, lengths):
            ids, mask = pad([texts[i] for i in batch])
            found = network.embed(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
            rows.update(zip(batch.tolist(), found, strict=True))
    return np.stack([rows[i] for i in numbers])


def judge(
    network: Network,
    texts: Sequence[NDArray[np.int64]],
    labels: NDArray[np.int64],
    numbers: Sequence[int],
) -> tuple[float, float]:
    """Return accuracy, in per cent, and mean cross-entropy, in nats, on the texts of `numbers`."""
    head, right = network.head, labels[list(numbers)]
    x = embed_all(network, texts, numbers)
    wide = (x @ head.weight.detach().numpy().T + head.bias.detach().numpy()).astype(np.float64)
    surprise = float((logsumexp(wide, axis=1) - wide[np.arange(len(right)), right]).mean())
    return 100.0 * float((wide.argmax(axis=1) == right).mean()), surprise


def start_head(network: Network, x: NDArray[np.float32], y: NDArray[np.int64]) -> None:
    """Start the head at the mean embedding of each label, under the scale that explains `y` best.

    A head fitted to the end before training, or under a larger scale, is so sure of itself that
    the first epoch is lost.
    """
    labels = network.head.out_features
    means = np.stack([x[y == label].mean(axis=0) for label in range(labels)])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), _TINY)
    cosines = x.astype(np.float64) @ means.T.astype(np.float64)
    right = np.arange(len(y)), y

    def surprise(log_scale: float) -> float:
        logits = np.exp(log_scale) * cosines
        return float((logsumexp(logits, axis=1) - logits[right]).mean())

    found = minimize_scalar(surprise, bounds=tuple(np.log(_SCALES)), method="bounded")
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(np.exp(found.x) * means))
        network.head.bias.zero_()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: two wait for each other on shared cores, and sum in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings off the terminal."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
