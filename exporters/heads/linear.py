"""Linear layers on embeddings, and how sure they may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

Floats = NDArray[np.float32]
_ITERATIONS: Final = 300
_UNLIKELY: Final = -30.0


@dataclass(frozen=True, slots=True)
class Linear:
    """Logits = x @ weight + bias, for x in the embedding's own space."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def __call__(self, x: Floats) -> NDArray[np.float64]:
        logits: NDArray[np.float64] = x @ self.weight + self.bias
        return logits


class Layer:
    """Multinomial logistic regression; each fit begins where the one before ended."""

    def __init__(self, labels: int) -> None:
        self._labels = labels
        self._model = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)

    def fit(self, x: Floats, y: NDArray[np.int64], strength: float) -> Linear:
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
        return Linear(weight, bias)


def temperature_of(logits: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Return the divisor in [0.01, 100] under which `logits` explain `y` best."""
    found = minimize_scalar(
        lambda log_t: surprise(logits / np.exp(log_t), y),
        bounds=(np.log(0.01), np.log(100.0)),
        method="bounded",
    )
    return float(np.exp(found.x))


def surprise(logits: NDArray[np.float64], y: NDArray[np.int64]) -> float:
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
