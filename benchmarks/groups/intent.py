"""CLINC150, BANKING77, SNIPS: does the exported bundle recognise what people ask for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, roc_auc_score

from benchmarks import bundles, cases
from benchmarks.answering import answers
from benchmarks.figures import Measured
from benchmarks.rivals import tfidf
from benchmarks.setup import Setup
from benchmarks.stats import above, once
from exporters.data import OUT_OF_SCOPE, Row


def clinc150(setup: Setup) -> dict[str, Measured]:
    """In-scope accuracy without rejection; how well the score tells what is out of scope."""
    return _measure(setup, "clinc150")


def banking77(setup: Setup) -> dict[str, Measured]:
    """Accuracy."""
    return _measure(setup, "banking77")


def snips(setup: Setup) -> dict[str, Measured]:
    """Accuracy."""
    return _measure(setup, "snips")


def _measure(setup: Setup, case: str) -> dict[str, Measured]:
    bundle = bundles.intent(setup, case)
    unseen = cases.rows(setup, case, "eval")
    answered = answers(bundle, unseen, tell=setup.tell)
    setup.tell("fitting the rival")
    known = [row for row in cases.rows(setup, case, "train") if row.label != OUT_OF_SCOPE]
    labels, sure = tfidf.classify(
        [row.text for row in known],
        [str(row.label) for row in known],
        [row.text for row in unseen],
    )
    fp32 = bundles.quality(bundle)["fp32"]
    ours = accuracy(unseen, [answer.label for answer in answered])
    found = {
        f"{case}-accuracy": once(ours, accuracy(unseen, labels)),
        f"{case}-int8": above([ours], [fp32["accuracy"]]),
    }
    if any(row.label == OUT_OF_SCOPE for row in unseen):
        auroc = _oos_auroc(unseen, np.array([answer.score for answer in answered]))
        found[f"{case}-oos-auroc"] = once(auroc, _oos_auroc(unseen, -sure))
        found[f"{case}-oos-int8"] = above([100 * auroc], [100 * fp32["oos_auroc"]])
    return found


def accuracy(rows: Sequence[Row], labels: Sequence[str]) -> float:
    """In per cent of the rows that are in scope, whatever was rejected."""
    pairs = [(str(r.label), label) for r, label in zip(rows, labels, strict=True)]
    inside = [pair for pair in pairs if pair[0] != OUT_OF_SCOPE]
    return 100.0 * float(accuracy_score(*zip(*inside, strict=True)))


def _oos_auroc(rows: Sequence[Row], scores: NDArray[np.float64]) -> float:
    return float(roc_auc_score([row.label == OUT_OF_SCOPE for row in rows], scores))
