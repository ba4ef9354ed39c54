"""The classic: character 2-5-gram TF-IDF, with logistic regression or the nearest neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.multiclass import OneVsRestClassifier

_FOLDS: Final = 10


def classify(
    texts: Sequence[str], labels: Sequence[str], unseen: Sequence[str]
) -> tuple[list[str], NDArray[np.float64]]:
    """Return the best label of each unseen text and how sure the classifier is, float64 [n]."""
    vectorizer = _vectorizer()
    # The dual form: features outnumber texts. One against the rest: 150 classes at once do not
    # come to an end in minutes.
    model = OneVsRestClassifier(LogisticRegression(C=20, solver="liblinear", dual=True, tol=0.1))
    model.fit(vectorizer.fit_transform(texts), labels)
    shares = model.predict_proba(vectorizer.transform(unseen))
    return [str(label) for label in model.classes_[shares.argmax(axis=1)]], shares.max(axis=1)


def distances(normal: Sequence[str], unseen: Sequence[str]) -> NDArray[np.float64]:
    """Return 1 - cosine to the nearest normal text, float64 [n]: no labels, so no regression."""
    vectorizer = _vectorizer()
    known = vectorizer.fit_transform(sorted(set(normal)))
    cosines = (vectorizer.transform(unseen) @ known.T).max(axis=1)
    found: NDArray[np.float64] = 1.0 - cosines.toarray().ravel().astype(np.float64)
    return found


def threshold(normal: Sequence[str], budget: float) -> float:
    """Return the distance that a share `budget` of held-out normal texts passes (ten folds)."""
    texts = np.array(normal, dtype=object)
    folds = KFold(_FOLDS, shuffle=True, random_state=0).split(texts)
    held_out = [distances(list(texts[train]), list(texts[test])) for train, test in folds]
    return float(np.quantile(np.concatenate(held_out), 1.0 - budget))


def _vectorizer() -> TfidfVectorizer:
    return TfidfVectorizer(analyzer="char", ngram_range=(2, 5), sublinear_tf=True, dtype=np.float32)
