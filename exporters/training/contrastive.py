"""Few examples: texts are held against each other, and a head is fitted on where they come to lie.

Ten texts of a label are no more than ten for a head, but hundreds of pairs for an encoder. So it
learns to put texts of one label near each other and far from all others; the head comes after.
Of many labels it learns more about its texts than holds of others: then half of the way is better.

Source:
    Khosla et al. 2020, "Supervised contrastive learning", arXiv:2004.11362, eq. 2; before a linear
    head, on few examples: Tunstall et al. 2022, "Efficient few-shot learning without prompts",
    arXiv:2209.11055. Weights between those before and after: Wortsman et al. 2022, "Robust
    fine-tuning of zero-shot models", arXiv:2109.01903, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from exporters.heads.linear import Layer, surprise, temperature_of
from exporters.training.batches import Batch
from exporters.training.checkpoint import Judged
from exporters.training.loop import Bounds, Examples, Training, copy
from exporters.training.network import Network, embed_all

_EPOCHS: Final = 10
_PAIRS: Final = 16  # of a batch
_TEMPERATURE: Final = 0.1  # of the cosines
# Texts are paired, and pairs put into batches, by their lengths times a number of this range: so
# little is padded, and no epoch has the batches of another.
_BLUR: Final = (0.7, 1.4)
_SELF: Final = -1e9  # in place of a text's cosine to itself: it takes no part
# Of the way from the source's weights to the last ones. Nearer to the source is no better.
_SHARES: Final = (0.5, 1.0)
_STRENGTH: Final = 0.03  # of the layer to judge by; see `exporters.heads.trained`


class Pairs(Examples):
    """Examples whose batches are of pairs of the same label."""

    __slots__ = ()

    def epoch(self, number: int, *, seed: int) -> list[Batch]:
        """Return the batches of an epoch, of which all have equally many.

        Each text to learn from is in one at least, with another of its label: where these are an
        odd number, one has two partners. A label's only text has none, and is left out.
        """
        random = np.random.default_rng([seed, number])
        lengths = random.uniform(*_BLUR, len(self.texts)) * [len(text) for text in self.texts]
        labels = self.labels[self.learn]
        pairs: list[Batch] = []
        for label in np.unique(labels):
            mine = self.learn[labels == label]
            mine = mine[np.argsort(lengths[mine], kind="stable")]
            pairs += [mine[at : at + 2] for at in range(0, len(mine) - 1, 2)]
            if len(mine) % 2 and len(mine) > 1:
                pairs.append(mine[[-1, random.integers(len(mine) - 1)]])
        pairs.sort(key=lambda pair: float(lengths[pair].max()))
        # The last takes what is left over: a text alone with its partner would teach nothing.
        cuts = [*range(0, max(1, len(pairs) - _PAIRS + 1), _PAIRS), len(pairs)]
        batches = [np.concatenate(pairs[a:b]) for a, b in pairwise(cuts)]
        return [batches[i] for i in random.permutation(len(batches))]


class Comparison(Training):
    """The training of an encoder on `Pairs`: to the end, since too few are held out to stop by.

    In the end they choose how much of the way is taken: by what surprises them, which tells finer
    than how many are right.
    """

    rate = 1e-4

    def __init__(
        self, network: Network, examples: Examples, *, seed: int, bounds: Bounds, folder: Path
    ) -> None:
        self._first = copy(network)
        super().__init__(network, examples, seed=seed, bounds=bounds, folder=folder)

    def _planned(self) -> int:
        return _EPOCHS * self._per_epoch

    def _over(self) -> bool:
        return self.progress.step in {self.progress.steps, self._bounds.stop}

    def _judge(self) -> None:
        """At the start and at the end; there the weights of each share, of which one is taken."""
        if self.progress.step == 0:
            super()._judge()
            return
        if not self._over():
            return
        last = copy(self._network)
        for share in _SHARES:
            self._go(last, share)
            super()._judge()
        self._go(last, share_taken(self.progress.judged))
        self._start()
        self._best = copy(self._network)

    def _go(self, last: dict[str, Tensor], share: float) -> None:
        with torch.no_grad():
            for name, parameter in self._network.trained().items():
                parameter.copy_(torch.lerp(self._first[name], last[name], share))

    def _seen(self) -> tuple[float, float]:
        """Of a layer such as the head will be; its temperature is what suits these texts best."""
        examples, learn = self._examples, self._examples.learn
        numbers = np.concatenate([learn, examples.held_out])
        x = embed_all(self._network, examples.texts, numbers.tolist())
        if not np.isfinite(x).all():
            return 0.0, math.nan
        layer = Layer(self._network.head.out_features)
        logits = layer.fit(x[: len(learn)], examples.labels[learn], _STRENGTH)(x[len(learn) :])
        right = examples.labels[examples.held_out]
        accuracy = 100.0 * float((logits.argmax(axis=1) == right).mean())
        return accuracy, surprise(logits / temperature_of(logits, right), right)

    def _loss(self, batch: Batch, ids: Tensor, mask: Tensor) -> Tensor:
        labels = torch.from_numpy(self._examples.labels[batch])
        return contrast(self._network.embed(ids, mask), labels)


def contrast(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return the mean surprise, in nats, that a text's neighbours are those of its label.

    Args:
        embeddings: float32 [texts, dim], of length 1.
        labels: int64 [texts]; each is there twice at least.
    """
    itself = torch.eye(len(labels), dtype=torch.bool)
    cosines = (embeddings @ embeddings.T / _TEMPERATURE).masked_fill(itself, _SELF)
    logs = cosines - torch.logsumexp(cosines, dim=1, keepdim=True)
    alike = (labels[:, None] == labels[None]) & ~itself
    loss: Tensor = -((logs * alike).sum(dim=1) / alike.sum(dim=1)).mean()
    return loss


def share_taken(judged: Sequence[Judged]) -> float:
    """Return how much of the way is taken, by the judgements at the end: one of each share."""
    shares = zip(judged[-len(_SHARES) :], _SHARES, strict=True)
    return min(shares, key=lambda pair: pair[0].surprise)[1]
