"""Intent head of an encoder that was trained with one: taken over or fitted anew, and calibrated.

Nothing here is calibrated on texts that the encoder was trained on: it puts those where it wants
them. What is left is held against the texts that training held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from exporters.data import Row
from exporters.heads.base import Advance, Embed
from exporters.heads.intent import IntentHead, embed_all, scored, settle
from exporters.heads.linear import Floats, Layer, Linear, surprise, temperature_of
from exporters.heads.names import named
from exporters.heads.scorer import Evidence, choose, references

Points = tuple[Floats, NDArray[np.int64]]
"""Embeddings, and the number of each's label."""
# Inverse strengths of the L2 penalty, as in exporters/heads/intent.py: embeddings after training
# lie in tight heaps, and these two explained held-out texts better than weaker ones.
_STRENGTHS: Final = (0.03, 0.3)


@dataclass(frozen=True, slots=True)
class TrainedFitter:
    """Implements `exporters.recipes.base.Fitter`: what such heads are made of.

    Args:
        learn: texts in scope that the encoder was trained on.
        held_out: texts in scope that it was not.
        outside: texts labelled `oos`.
        labels: in the order of the trained head.
        weight: of the trained head, float32 [dim, labels].
        bias: of the trained head, float32 [labels].
        whole: where texts are few, each counts. In the end the layer is fitted on what was held
            out, too, calibrated as before; and on the names of the labels, if with them it explains
            better what was held out.
    """

    learn: Sequence[Row]
    held_out: Sequence[Row]
    outside: Sequence[Row]
    labels: Sequence[str]
    weight: Floats
    bias: Floats
    whole: bool = False

    def steps(self, rows: Sequence[Row]) -> int:
        """By how much `fit` advances: once per text, once per layer fitted."""
        del rows  # training has dealt them
        names = len(self._names())
        texts = len(self.learn) + len(self.held_out) + len(self.outside) + names
        return texts + len(_STRENGTHS) + self.whole + bool(names)

    def fit(
        self, rows: Sequence[Row], embed: Embed, *, share: float, seed: int, advance: Advance
    ) -> IntentHead:
        """Choose layer and score by the texts held out, and calibrate both on them.

        Args:
            rows: not read.
            embed: of the encoder that the head will ship with.
            share: of in-scope texts to reject, in (0, 1).
            seed: of references and folds.
            advance: moved by `steps(rows)` in all.
        """
        del rows
        number = {label: i for i, label in enumerate(self.labels)}

        def read(part: Sequence[Row]) -> Points:
            x = embed_all([row.text for row in part], embed, advance)
            return x, np.array([number.get(str(row.label), -1) for row in part], np.int64)

        x, y = read(self.learn)
        near, right = read(self.held_out)
        layer, strength = self._better((x, y), (near, right), advance)
        taught = x, y
        if names := self._names():
            layer, taught = _with_names(layer, taught, read(names), (near, right), strength)
            advance(1)
        settings = settle(self.labels, layer(near), right, reject_share=share)
        weight = (layer.weight / settings.temperature).astype(np.float32)
        bias = (layer.bias / settings.temperature).astype(np.float32)
        vectors, owners = references(x, y, seed=seed)

        def evidence(points: Floats) -> Evidence:
            return Evidence(points @ weight + bias, points @ vectors.T)

        inside = evidence(near)
        # Of no rows there are no embeddings either.
        far = read(self.outside)[0] if self.outside else near[:0]
        choice = choose(inside, right, evidence(far), owners, seed=seed)
        settings = scored(settings, choice, inside)
        if self.whole:
            last = Layer(len(self.labels)).fit(*_both(taught, (near, right)), strength)
            advance(1)
            weight = (last.weight / settings.temperature).astype(np.float32)
            bias = (last.bias / settings.temperature).astype(np.float32)
        return IntentHead(weight, bias, settings, vectors if settings.needs_distance else None)

    def _names(self) -> list[Row]:
        return named(self.labels, [*self.learn, *self.held_out]) if self.whole else []

    def _better(
        self,
        learnt: Points,
        held_out: Points,
        advance: Advance,
    ) -> tuple[Linear, float]:
        """Return the trained layer, or one fitted on the embeddings as they are, if better.

        Of those that are fitted, also the better strength.
        """
        near, right = held_out
        best = Linear(self.weight.astype(np.float64), self.bias.astype(np.float64))
        value = None if self.whole else _value(best(near), right)
        layer, chosen = Layer(len(self.labels)), _STRENGTHS[0]
        for strength in _STRENGTHS:
            other = layer.fit(*learnt, strength)
            advance(1)
            found = _value(other(near), right)
            if value is None or found > value:
                best, value, chosen = other, found, strength
        return best, chosen


def _with_names(
    layer: Linear, learnt: Points, called: Points, held_out: Points, strength: float
) -> tuple[Linear, Points]:
    """Return `layer` and what it learnt; or both with names, if held-out texts surprise less then.

    Names that mislead or say nothing make it worse, and are left out.
    """
    near, right = held_out
    more = _both(learnt, called)
    other = Layer(len(layer.bias)).fit(*more, strength)
    if _value(other(near), right)[1] > _value(layer(near), right)[1]:
        return other, more
    return layer, learnt


def _both(one: Points, other: Points) -> Points:
    return np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]])


def _value(logits: NDArray[np.float64], y: NDArray[np.int64]) -> tuple[float, float]:
    """Return accuracy, and how little surprises: to be compared."""
    accuracy = float((logits.argmax(axis=1) == y).mean())
    return accuracy, -surprise(logits / temperature_of(logits, y), y)
