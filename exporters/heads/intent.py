"""Intent head: a linear layer on the pooled embedding, calibrated on texts it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from edgeslm.tasks.intent import LOGITS, IntentParameters, energy
from exporters.data import OUT_OF_SCOPE, Row, spread
from exporters.heads.base import Advance, Embed, Tail

Floats = NDArray[np.float32]
_FOLDS: Final = 5
# Inverse strength of the L2 penalty, on centred embeddings of unit mean variance, weakest last.
_GRID: Final = (0.003, 0.01, 0.03, 0.1, 0.3)
_CHUNK: Final = 256  # texts between two steps of the bar
_ITERATIONS: Final = 300
_UNLIKELY: Final = -30.0
_CALIBRATION_POINTS: Final = 1000  # kept of the held-out scores: p-values in steps of 0.001
_DIGITS: Final = 6  # of a score: what float32 carries


@dataclass(frozen=True, slots=True)
class IntentHead:
    """Implements `exporters.heads.base.FittedHead`.

    Args:
        weight: float32 [dim, labels], on embeddings of length 1; temperature applied.
        bias: float32 [labels]; temperature applied.
        settings: the parameters artifact.
    """

    weight: Floats
    bias: Floats
    settings: IntentParameters

    @property
    def parameters(self) -> bytes:
        """Canonical JSON of the settings."""
        return self.settings.model_dump_json().encode()

    def attach(self, encoder: onnx.ModelProto) -> onnx.ModelProto:
        """Add pooling and the linear layer; output `logits`, float32 [batch, labels]."""
        tail = Tail(encoder)
        weight, bias = tail.constant("weight", self.weight), tail.constant("bias", self.bias)
        product = tail.node("MatMul", [tail.pool(), weight], "product")
        logits = tail.node("Add", [product, bias], "scaled")
        return tail.finish({LOGITS: (logits, ("batch", len(self.bias)))})


@dataclass(frozen=True, slots=True)
class _Linear:
    """Logits = x @ weight + bias, for x in the embedding's own space."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def __call__(self, x: Floats) -> NDArray[np.float64]:
        logits: NDArray[np.float64] = x @ self.weight + self.bias
        return logits


def steps(rows: Sequence[Row]) -> int:
    """By how much `fit` advances: once per text, once per layer fitted."""
    return sum(row.label != OUT_OF_SCOPE for row in rows) + len(_GRID) + _FOLDS


def fit(
    rows: Sequence[Row], embed: Embed, *, reject_share: float, seed: int, advance: Advance
) -> IntentHead:
    """Fit and calibrate a head on labelled `rows`; those labelled `oos` are left out.

    Temperature, threshold and p-values come from logits that each text got from a layer fitted
    on the other folds.

    Args:
        rows: checked by `exporters.data.check_intent`.
        embed: of the encoder that the head will ship with.
        reject_share: share of in-scope texts to reject, in (0, 1).
        seed: of the deal into folds.
        advance: moved by `steps(rows)` in all.
    """
    known = [row for row in rows if row.label != OUT_OF_SCOPE]
    labels = sorted({str(row.label) for row in known})
    index = {label: i for i, label in enumerate(labels)}
    y = np.array([index[str(row.label)] for row in known])
    x = _embed_all([row.text for row in known], embed, advance)
    folds = np.array(spread(known, _FOLDS, seed=seed))
    strength, first = _choose(x, y, folds, advance)
    held_out = np.empty((len(y), len(labels)))
    held_out[folds == 0] = first
    for fold in range(1, _FOLDS):
        if (here := folds == fold).any():
            layer = _Layer(len(labels)).fit(x[~here], y[~here], strength)
            held_out[here] = layer(x[here])
        advance(1)
    final = _Layer(len(labels)).fit(x, y, strength)
    advance(1)
    temperature = _temperature(held_out, y)
    scores = np.sort(energy((held_out / temperature).astype(np.float32)))
    # The smallest threshold that rejects at most this share of texts like these.
    accepted = min(len(scores), int(np.ceil((1 - reject_share) * (len(scores) + 1))))
    settings = IntentParameters(
        labels=tuple(labels),
        threshold=_rounded(scores[accepted - 1]),
        reject_share=reject_share,
        temperature=_rounded(temperature),
        calibration=tuple(_rounded(s) for s in _thin(scores)),
    )
    return IntentHead(
        (final.weight / temperature).astype(np.float32),
        (final.bias / temperature).astype(np.float32),
        settings,
    )


def _embed_all(texts: Sequence[str], embed: Embed, advance: Advance) -> Floats:
    chunks = [texts[i : i + _CHUNK] for i in range(0, len(texts), _CHUNK)]
    rows = []
    for chunk in chunks:
        rows.append(embed(chunk))
        advance(len(chunk))
    return np.concatenate(rows)


def _choose(
    x: Floats, y: NDArray[np.int64], folds: NDArray[np.int64], advance: Advance
) -> tuple[float, NDArray[np.float64]]:
    """Try weaker and weaker penalties on all folds but the first, while they explain that better.

    Returns:
        The best strength, and the first fold's logits by the layer fitted with it.
    """
    labels = int(y.max()) + 1
    test = folds == 0
    layer = _Layer(labels)
    best: tuple[float, float, NDArray[np.float64]] | None = None
    for tried, strength in enumerate(_GRID, 1):
        logits = layer.fit(x[~test], y[~test], strength)(x[test])
        advance(1)
        loss = _surprise(logits / _temperature(logits, y[test]), y[test])
        if best is not None and loss >= best[0]:
            advance(len(_GRID) - tried)
            break
        best = loss, strength, logits
    assert best is not None  # noqa: S101 -- the grid is not empty
    return best[1], best[2]


class _Layer:
    """Multinomial logistic regression; each fit begins where the one before ended."""

    def __init__(self, labels: int) -> None:
        self._labels = labels
        self._model = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)

    def fit(self, x: Floats, y: NDArray[np.int64], strength: float) -> _Linear:
        """Fit on centred embeddings under one scale.

        One for all dimensions: it is the penalty's unit, and with it the solver takes tens of
        steps in place of hundreds.
        """
        mean = x.mean(axis=0)
        scale = float(np.sqrt(x.var(axis=0).mean())) or 1.0
        self._model.set_params(C=strength).fit((x - mean) / scale, y)
        coef = self._model.coef_.astype(np.float64)
        intercept = self._model.intercept_.astype(np.float64)
        classes = self._model.classes_
        if len(classes) == 2:  # noqa: PLR2004 -- scikit-learn then keeps one logit of the two
            coef, intercept = np.vstack([-coef, coef]) / 2, np.hstack([-intercept, intercept]) / 2
        # A label that is in no row (all its texts lie in the fold left out) is unlikely.
        weight, bias = np.zeros((x.shape[1], self._labels)), np.full(self._labels, _UNLIKELY)
        weight[:, classes] = coef.T / scale
        bias[classes] = intercept - mean.astype(np.float64) @ weight[:, classes]
        return _Linear(weight, bias)


def _temperature(logits: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Return the divisor in [0.01, 100] under which `logits` explain `y` best."""
    found = minimize_scalar(
        lambda log_t: _surprise(logits / np.exp(log_t), y),
        bounds=(np.log(0.01), np.log(100.0)),
        method="bounded",
    )
    return float(np.exp(found.x))


def _surprise(logits: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Mean cross-entropy to `y`, in nats, as if one more text in n + 2 were of another label.

    Without that, labels that are told apart without a fault would make every answer certain.

    Source:
        Platt 1999, "Probabilistic outputs for support vector machines", section 2.2.
    """
    n, labels = logits.shape
    right = logits[np.arange(n), y]
    wrong = (logits.sum(axis=1) - right) / (labels - 1)
    other = 1 / (n + 2)
    return float((logsumexp(logits, axis=1) - (1 - other) * right - other * wrong).mean())


def _thin(ascending: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most `_CALIBRATION_POINTS` of the scores, evenly spaced by rank."""
    if len(ascending) <= _CALIBRATION_POINTS:
        return ascending
    ranks = np.linspace(0, len(ascending) - 1, _CALIBRATION_POINTS).round().astype(np.int64)
    return ascending[ranks]


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
