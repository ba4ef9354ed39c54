"""Which score tells texts in scope from others best, chosen on texts held out.

Where there are texts labelled `oos`, by them. Else labels stand in for what is not known: the texts
of some are scored without their logits and their references, as if nobody had heard of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from edgeslm.tasks.intent import IntentParameters, Mixture, Scorer, energy, out_of_scope
from exporters.heads.linear import Floats

REFERENCES: Final = 256
"""Vectors that stand for the texts learnt from, or one of each label where that is more."""
LEAST_OUTSIDE: Final = 30
"""Texts labelled `oos` that a calibrator, or the choice, can be made by."""
_PLAIN: Final[tuple[Scorer, ...]] = ("energy", "softmax", "knn")  # of equal ones the first
_FOLDS: Final = 5
_LEAST_LABELS: Final = 4  # of three, one without the others leaves too little to compare
_STEPS: Final = 200


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the graph gives of some texts.

    Args:
        logits: float32 [texts, labels], temperature applied.
        cosines: float32 [texts, references].
    """

    logits: Floats
    cosines: Floats

    def without(self, labels: NDArray[np.int64], owners: NDArray[np.int64]) -> Evidence:
        """Return it as if these labels were not known; `owners` are the references' labels."""
        kept = np.setdiff1d(np.arange(self.logits.shape[1]), labels)
        return Evidence(self.logits[:, kept], self.cosines[:, ~np.isin(owners, labels)])

    def of(self, texts: NDArray[np.bool_]) -> Evidence:
        """Return that of some of the texts."""
        return Evidence(self.logits[texts], self.cosines[texts])

    def features(self) -> NDArray[np.float64]:
        """Return softmax, energy and knn score of each, float64 [texts, 3]."""
        free = energy(self.logits)
        top = self.logits.max(axis=1).astype(np.float64)
        return np.stack([-free - top, free, 1.0 - self.cosines.max(axis=1)], axis=1)


@dataclass(frozen=True, slots=True)
class Choice:
    """A scorer, and how well each did: AUROC on what it was chosen by, None where not tried."""

    scorer: Scorer
    mixture: Mixture | None
    auroc: dict[str, float]

    def scores(self, parameters: IntentParameters, evidence: Evidence) -> NDArray[np.float64]:
        """Return the score of each text, as a device will compute it."""
        _, free, far = evidence.features().T
        chosen = parameters.model_copy(update={"scorer": self.scorer, "mixture": self.mixture})
        top = evidence.logits.max(axis=1).astype(np.float64)
        return out_of_scope(chosen, free=free, top=top, distance=far)


def choose(
    inside: Evidence,
    y: NDArray[np.int64],
    outside: Evidence,
    owners: NDArray[np.int64],
    *,
    seed: int,
) -> Choice:
    """Choose a scorer.

    Args:
        inside: of texts in scope that nothing was fitted on.
        y: their labels.
        outside: of texts labelled `oos`; there may be none.
        owners: label of each reference.
        seed: of folds.
    """
    if len(outside.logits) < LEAST_OUTSIDE:
        auroc = _by_strangers(inside, y, owners, seed=seed)
        return Choice(_best(auroc), None, auroc)
    near, far = inside.features(), outside.features()
    truth = np.repeat([0, 1], [len(near), len(far)])
    features = np.concatenate([near, far])
    auroc = {name: _auroc(truth, features[:, _column(name)]) for name in _PLAIN}
    auroc["calibrated"] = _auroc(truth, _cross_fitted(features, truth, seed=seed))
    scorer = _best(auroc)
    return Choice(scorer, _fit(features, truth) if scorer == "calibrated" else None, auroc)


def references(x: Floats, y: NDArray[np.int64], *, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Return vectors of length 1 that stand for `x`, and the label of each.

    Args:
        x: float32 [texts, dim], of length 1.
        y: label of each.
        seed: of their choice.
    """
    labels = np.unique(y).tolist()
    each = max(1, REFERENCES // len(labels))
    found, owners = [], []
    for label in labels:
        here = x[y == label]
        number = min(each, len(np.unique(here, axis=0)))
        if number == 1:
            centres = here.mean(axis=0, keepdims=True)
        else:
            means = KMeans(number, n_init=1, max_iter=50, random_state=seed)
            with warnings.catch_warnings():
                # Texts that are one but for roundings leave fewer clusters than were asked for:
                # centres that repeat change no nearest.
                warnings.simplefilter("ignore", ConvergenceWarning)
                centres = means.fit(here).cluster_centers_
        found.append(centres)
        owners += [label] * len(centres)
    vectors = np.concatenate(found)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors.astype(np.float32), np.array(owners)


def nearest(cosines: Floats, owners: NDArray[np.int64], labels: int) -> Floats:
    """Return the cosine to the nearest reference of each label, float32 [texts, labels].

    Args:
        cosines: float32 [texts, references].
        owners: label of each reference, ascending.
        labels: how many there are; of one without a reference it is -1, the farthest.
    """
    found = np.full((len(cosines), labels), -1, np.float32)
    own, first = np.unique(owners, return_index=True)
    found[:, own] = np.maximum.reduceat(cosines, first, axis=1)
    return found


def _by_strangers(
    inside: Evidence, y: NDArray[np.int64], owners: NDArray[np.int64], *, seed: int
) -> dict[str, float]:
    """Return the mean AUROC of each plain score when some labels are taken for unknown."""
    labels = inside.logits.shape[1]
    if labels < _LEAST_LABELS:
        return {}
    dealt = np.random.default_rng(seed).permutation(labels)
    found: dict[str, list[float]] = {name: [] for name in _PLAIN}
    for group in np.array_split(dealt, min(_FOLDS, labels // 2)):
        strange = np.isin(y, group)
        if not 0 < strange.sum() < len(y):
            continue
        features = inside.without(group, owners).features()
        for name in _PLAIN:
            found[name].append(_auroc(strange, features[:, _column(name)]))
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def _best(auroc: dict[str, float]) -> Scorer:
    names: Sequence[Scorer] = [*_PLAIN, "calibrated"]
    return max(names, key=lambda name: auroc.get(name, 0.0))


def _column(name: str) -> int:
    return ("softmax", "energy", "knn").index(name)


def _auroc(truth: NDArray[np.generic], scores: NDArray[np.float64]) -> float:
    return float(roc_auc_score(truth, scores))


def _cross_fitted(
    features: NDArray[np.float64], truth: NDArray[np.int64], *, seed: int
) -> NDArray[np.float64]:
    """Return the calibrated score of each text by a mixture fitted on the other folds."""
    folds = np.empty(len(truth), int)
    random = np.random.default_rng(seed)
    for value in (0, 1):
        here = np.flatnonzero(truth == value)
        folds[random.permutation(here)] = np.arange(len(here)) % _FOLDS
    scores = np.empty(len(truth))
    for fold in range(_FOLDS):
        out = folds == fold
        mixed = _fit(features[~out], truth[~out])
        scores[out] = features[out] @ _weights(mixed) + mixed.bias
    return scores


def _fit(features: NDArray[np.float64], truth: NDArray[np.int64]) -> Mixture:
    mean, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
    # Balanced: how many of either there are says nothing of what a device will hear.
    model = LogisticRegression(class_weight="balanced", max_iter=_STEPS)
    model.fit((features - mean) / scale, truth)
    weights = model.coef_[0] / scale
    bias = float(model.intercept_[0] - mean @ weights)
    softmax, free, knn = (float(value) for value in weights)
    return Mixture(softmax=softmax, energy=free, knn=knn, bias=bias)


def _weights(mixed: Mixture) -> NDArray[np.float64]:
    return np.array([mixed.softmax, mixed.energy, mixed.knn])
