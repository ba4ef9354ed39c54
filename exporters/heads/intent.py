"""Intent head: a linear layer on the pooled embedding, calibrated on texts it was not fitted on.

The out-of-scope score is chosen on such texts, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.special import logsumexp

from edgeslm.tasks.intent import (
    DISTANCE,
    FEATURE,
    LOGITS,
    IntentParameters,
    energy,
)
from exporters.data import OUT_OF_SCOPE, Row, spread
from exporters.heads.base import Advance, Embed, Tail
from exporters.heads.linear import Floats, Layer, Linear, surprise, temperature_of
from exporters.heads.scorer import Choice, Evidence, choose, nearest, references

_FOLDS: Final = 5
# Inverse strength of the L2 penalty, on centred embeddings of unit mean variance, weakest last.
_GRID: Final = (0.003, 0.01, 0.03, 0.1, 0.3)
_CHUNK: Final = 256  # texts between two steps of the bar
_CALIBRATION_POINTS: Final = 1000  # kept of the held-out scores: p-values in steps of 0.001
_DIGITS: Final = 6  # of a score: what float32 carries


@dataclass(frozen=True, slots=True)
class Opinions:
    """What is said of each row that was fitted on, by a layer that was fitted on the others.

    Args:
        rows: those in scope, in the order of the examples.
        said: the likeliest label of each.
        sure: float64 [n], its probability.
        given: float64 [n], the probability of the label that the row has.
    """

    rows: Sequence[Row]
    said: Sequence[str]
    sure: NDArray[np.float64]
    given: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class IntentHead:
    """Implements `exporters.heads.base.FittedHead`.

    Args:
        weight: float32 [dim, labels], on embeddings of length 1; temperature applied.
        bias: float32 [labels]; temperature applied.
        settings: the parameters artifact.
        references: float32 [references, dim], rows of length 1, that stand for the texts learnt
            from; None where the score needs none.
        opinions: by which examples can be judged; None where the encoder has seen them.
    """

    weight: Floats
    bias: Floats
    settings: IntentParameters
    references: Floats | None = None
    opinions: Opinions | None = None

    @property
    def parameters(self) -> bytes:
        """Canonical JSON of the settings."""
        return self.settings.to_bytes()

    @property
    def requires(self) -> tuple[str, ...]:
        return () if self.settings.scorer == "energy" else (FEATURE,)

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def attach(self, encoder: onnx.ModelProto) -> onnx.ModelProto:
        """Add pooling and the linear layer.

        Outputs `logits`, float32 [batch, labels], and with references `distance`, float32 [batch].
        """
        tail = Tail(encoder)
        weight, bias = tail.constant("weight", self.weight), tail.constant("bias", self.bias)
        embedding = tail.pool()
        product = tail.node("MatMul", [embedding, weight], "product")
        logits = tail.node("Add", [product, bias], "scaled")
        outputs: dict[str, tuple[str, Sequence[int | str]]] = {
            LOGITS: (logits, ("batch", len(self.bias)))
        }
        if self.references is not None:
            references = tail.constant("references", self.references.T)
            cosines = tail.node("MatMul", [embedding, references], "cosines")
            last = tail.constant("references_axis", np.array([1]))
            nearest = tail.node("ReduceMax", [cosines, last], "nearest", keepdims=0)
            one = tail.constant("one", np.array(1, np.float32))
            outputs[DISTANCE] = (tail.node("Sub", [one, nearest], "far"), ("batch",))
        return tail.finish(outputs)


def steps(rows: Sequence[Row]) -> int:
    """By how much `fit` advances: once per text, once per layer fitted."""
    return len(rows) + len(_GRID) + _FOLDS


def fit(
    rows: Sequence[Row], embed: Embed, *, reject_share: float, seed: int, advance: Advance
) -> IntentHead:
    """Fit and calibrate a head on labelled `rows`; of those labelled `oos` no layer learns.

    Temperature, threshold, p-values and the choice of the score come from what each text got of a
    layer, and of references, that were fitted on the other folds.

    Args:
        rows: checked by `exporters.labels.check_intent`.
        embed: of the encoder that the head will ship with.
        reject_share: share of in-scope texts to reject, in (0, 1).
        seed: of the deal into folds, and of references.
        advance: moved by `steps(rows)` in all.
    """
    known = [row for row in rows if row.label != OUT_OF_SCOPE]
    strange = [row.text for row in rows if row.label == OUT_OF_SCOPE]
    labels = sorted({str(row.label) for row in known})
    index = {label: i for i, label in enumerate(labels)}
    y = np.array([index[str(row.label)] for row in known])
    x = embed_all([row.text for row in known], embed, advance)
    # Of no rows there are no embeddings either.
    far = embed_all(strange, embed, advance) if strange else x[:0]
    folds = np.array(spread(known, _FOLDS, seed=seed))
    strength, layers = _cross_fitted(x, y, folds, advance)
    inside, outside = _Heard.none(len(x), len(labels)), _Heard.none(len(far), len(labels))
    dealt = np.arange(len(far)) % len(layers)
    for fold, layer in enumerate(layers):
        here, there = folds == fold, dealt == fold
        vectors, owners = references(x[~here], y[~here], seed=seed)
        for heard, points, some in ((inside, x, here), (outside, far, there)):
            heard.logits[some] = layer(points[some])
            heard.cosines[some] = nearest(points[some] @ vectors.T, owners, len(labels))
    final = Layer(len(labels)).fit(x, y, strength)
    advance(1)
    settings = settle(labels, inside.logits, y, reject_share=reject_share)
    evidence = inside.evidence(settings.temperature)
    choice = choose(
        evidence, y, outside.evidence(settings.temperature), np.arange(len(labels)), seed=seed
    )
    settings = scored(settings, choice, evidence)
    return IntentHead(
        (final.weight / settings.temperature).astype(np.float32),
        (final.bias / settings.temperature).astype(np.float32),
        settings,
        references(x, y, seed=seed)[0] if settings.needs_distance else None,
        opinions=_opinions(known, labels, inside.logits / settings.temperature, y),
    )


class _Heard(NamedTuple):
    """What texts got of layers and references that were not fitted on them.

    Args:
        logits: float64 [texts, labels], at temperature 1.
        cosines: float32 [texts, labels], to the nearest reference of each.
    """

    logits: NDArray[np.float64]
    cosines: Floats

    @classmethod
    def none(cls, texts: int, labels: int) -> _Heard:
        """Return room for so many."""
        return cls(np.empty((texts, labels)), np.empty((texts, labels), np.float32))

    def evidence(self, temperature: float) -> Evidence:
        """Return it as a graph would give it."""
        return Evidence((self.logits / temperature).astype(np.float32), self.cosines)


def _opinions(
    rows: Sequence[Row], labels: Sequence[str], logits: NDArray[np.float64], y: NDArray[np.int64]
) -> Opinions:
    """Return what `logits` [n, labels], calibrated, say of the rows; `y` are their labels."""
    total = logsumexp(logits, axis=1)
    best = logits.argmax(axis=1)
    every = np.arange(len(y))
    return Opinions(
        rows,
        [labels[i] for i in best],
        np.exp(logits[every, best] - total),
        np.exp(logits[every, y] - total),
    )


def settle(
    labels: Sequence[str],
    logits: NDArray[np.float64],
    y: NDArray[np.int64],
    *,
    reject_share: float,
) -> IntentParameters:
    """Return the parameters that logits ask for, scored by their energy.

    Args:
        labels: in the logits' order.
        logits: float64 [texts, labels], of texts in scope, not fitted on, at temperature 1.
        y: the right one of each.
        reject_share: share of texts in scope to reject, in (0, 1).
    """
    temperature = temperature_of(logits, y)
    free = energy((logits / temperature).astype(np.float32))
    threshold, calibration = ranks(free, reject_share)
    return IntentParameters(
        labels=tuple(labels),
        threshold=threshold,
        reject_share=reject_share,
        temperature=_rounded(temperature),
        calibration=calibration,
    )


def scored(settings: IntentParameters, choice: Choice, inside: Evidence) -> IntentParameters:
    """Return the same with the score that was chosen, calibrated on texts in scope."""
    if choice.scorer == settings.scorer:
        return settings
    threshold, calibration = ranks(choice.scores(settings, inside), settings.reject_share)
    return settings.model_copy(
        update={
            "threshold": threshold,
            "calibration": calibration,
            "scorer": choice.scorer,
            "mixture": choice.mixture,
        }
    )


def ranks(scores: NDArray[np.float64], reject_share: float) -> tuple[float, tuple[float, ...]]:
    """Return a threshold, and what p-values are told by.

    The threshold is the smallest that rejects at most this share of texts like these.
    """
    ascending = np.sort(scores)
    accepted = min(len(scores), int(np.ceil((1 - reject_share) * (len(scores) + 1))))
    return _rounded(ascending[accepted - 1]), tuple(_rounded(s) for s in _thin(ascending))


def embed_all(texts: Sequence[str], embed: Embed, advance: Advance) -> Floats:
    """Return the embeddings of texts, float32 [texts, dim]; advances by one for each."""
    chunks = [texts[i : i + _CHUNK] for i in range(0, len(texts), _CHUNK)]
    rows = []
    for chunk in chunks:
        rows.append(embed(chunk))
        advance(len(chunk))
    return np.concatenate(rows)


def _cross_fitted(
    x: Floats, y: NDArray[np.int64], folds: NDArray[np.int64], advance: Advance
) -> tuple[float, list[Linear]]:
    """Return the strength that is best, and for each fold a layer fitted on the others."""
    strength, first = _choose(x, y, folds, advance)
    layers, labels = [first], int(y.max()) + 1
    for fold in range(1, _FOLDS):
        if (here := folds == fold).any():  # the last ones are empty where each label has few texts
            layers.append(Layer(labels).fit(x[~here], y[~here], strength))
        advance(1)
    return strength, layers


def _choose(
    x: Floats, y: NDArray[np.int64], folds: NDArray[np.int64], advance: Advance
) -> tuple[float, Linear]:
    """Try weaker and weaker penalties on all folds but the first, while they explain that better.

    Returns:
        The best strength, and the layer fitted with it.
    """
    labels = int(y.max()) + 1
    test = folds == 0
    layer = Layer(labels)
    best: tuple[float, float, Linear] | None = None
    for tried, strength in enumerate(_GRID, 1):
        fitted = layer.fit(x[~test], y[~test], strength)
        advance(1)
        logits = fitted(x[test])
        loss = surprise(logits / temperature_of(logits, y[test]), y[test])
        if best is not None and loss >= best[0]:
            advance(len(_GRID) - tried)
            break
        best = loss, strength, fitted
    assert best is not None  # noqa: S101 -- the grid is not empty
    return best[1], best[2]


def _thin(ascending: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most `_CALIBRATION_POINTS` of the scores, evenly spaced by rank."""
    if len(ascending) <= _CALIBRATION_POINTS:
        return ascending
    ranks = np.linspace(0, len(ascending) - 1, _CALIBRATION_POINTS).round().astype(np.int64)
    return ascending[ranks]


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
