"""BGL and hostile lines: does the exported bundle see what is wrong, and keep quiet else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score, roc_auc_score

from benchmarks import bundles, cases
from benchmarks.answering import answers
from benchmarks.figures import Measured
from benchmarks.rivals import tfidf
from benchmarks.setup import Setup
from benchmarks.stats import averaged, once
from exporters.data import ANOMALY, NORMAL, Row

_SEEDS = 5
_NUMBERS = frozenset({
    "valve 99 opened",
    "motor temp=172.4 C",
    "motor temp=77.4 C",
    "motor temp=-72.4 C",
    "motor temp=nan C",
    "motor temp=1e308 C",
    "motor temp=-inf C",
    "motor temp=1e999 C",
    "motor temp=0 C",
    "motor temp: 0.0281C vib: 72.9",
    "motor temp: 72.9C vib: 0.27",
    "axis offset=-5.00 mm",
})  # fmt: skip
"""Lines whose words are those of normal ones, and whose number is not."""


def bgl(setup: Setup) -> dict[str, Measured]:
    """Log lines of a supercomputer, trained on normal ones, at an alarm budget of 1 %."""
    ours, rivals = [], []
    for seed in range(2 if setup.quick else _SEEDS):
        case = f"bgl-random-seed{seed}"
        train, unseen = cases.rows(setup, case, "train"), cases.rows(setup, case, "eval")
        bundle = bundles.anomaly(setup, f"bgl-{seed}", train, unseen)
        ours.append(Judged(unseen, *answered(setup, bundle, unseen)))
        setup.tell(f"fitting the rival, seed {seed}")
        rivals.append(Judged(unseen, *nearest(train, unseen)))
    alarms, rival_alarms = [j.false_alarms for j in ours], [j.false_alarms for j in rivals]
    return {
        "bgl-auroc": averaged([j.auroc for j in ours], [j.auroc for j in rivals]),
        "bgl-f1": averaged([j.f1 for j in ours], [j.f1 for j in rivals]),
        "bgl-f1-worst": Measured(
            min(j.f1 for j in ours),
            min(j.f1 for j in rivals),
            (min(j.f1 for j in ours), max(j.f1 for j in ours)),
        ),
        "bgl-false-alarms": averaged(alarms, rival_alarms),
        "bgl-false-alarms-worst": Measured(
            max(alarms), max(rival_alarms), (min(alarms), max(alarms))
        ),
    }


def adversarial(setup: Setup) -> dict[str, Measured]:
    """Lines made to fool a detector; a bundle for each kind of line."""
    train, unseen = (
        cases.rows(setup, "adversarial", "train"),
        cases.rows(setup, "adversarial", "eval"),
    )
    caught = false = rival_caught = rival_false = 0
    for key in sorted({str(row.key) for row in unseen}):
        normal = [row for row in train if row.key == key]
        lines = [row for row in unseen if row.key == key]
        bad = bad_ones(lines)
        bundle = bundles.anomaly(setup, f"adversarial-{key}", normal, lines)
        _, alarms = answered(setup, bundle, lines)
        _, rival_alarms = nearest(normal, lines)
        caught += int((alarms & bad).sum())
        false += int((alarms & ~bad).sum())
        rival_caught += int((rival_alarms & bad).sum())
        rival_false += int((rival_alarms & ~bad).sum())
    return {
        "adversarial-caught": once(caught, rival_caught),
        "adversarial-false": once(false, rival_false),
    }


def adversarial_plant(setup: Setup) -> dict[str, Measured]:
    """The same lines against one bundle of a plant that says most of their words somewhere."""
    train, unseen = (
        cases.rows(setup, "adversarial-plant", "train"),
        cases.rows(setup, "adversarial-plant", "eval"),
    )
    bad = bad_ones(unseen)
    bundle = bundles.anomaly(setup, "adversarial-plant", train, unseen)
    _, alarms = answered(setup, bundle, unseen)
    _, rival_alarms = nearest(train, unseen)
    numbers = np.array([row.text in _NUMBERS for row in unseen])
    return {
        "adversarial-plant-caught": once(
            int((alarms & bad).sum()), int((rival_alarms & bad).sum())
        ),
        "adversarial-plant-numbers": once(
            int((numbers & ~alarms).sum()), int((numbers & ~rival_alarms).sum())
        ),
        "adversarial-plant-false": once(
            int((alarms & ~bad).sum()), int((rival_alarms & ~bad).sum())
        ),
    }


class Judged:
    """Scores and alarms of one seed against the truth; false alarms in % of normal lines."""

    def __init__(
        self, rows: Sequence[Row], scores: NDArray[np.float64], alarms: NDArray[np.bool_]
    ) -> None:
        bad = bad_ones(rows)
        self.auroc = float(roc_auc_score(bad, scores))
        self.f1 = float(f1_score(bad, alarms))
        self.false_alarms = 100.0 * float(fmean(map(float, alarms[~bad])))


def bad_ones(rows: Sequence[Row]) -> NDArray[np.bool_]:
    """Which rows are anomalies."""
    return np.array([row.label != NORMAL for row in rows])


def answered(
    setup: Setup, bundle: Path, rows: Sequence[Row]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores float64 [n] and alarms bool [n], as the runtime answers in file order."""
    found = answers(bundle, rows, tell=setup.tell)
    return np.array([a.score for a in found]), np.array([a.label == ANOMALY for a in found])


def nearest(
    train: Sequence[Row], rows: Sequence[Row]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The rival's scores float64 [n] and alarms bool [n] at the same budget."""
    normal = [row.text for row in train]
    scores = tfidf.distances(normal, [row.text for row in rows])
    return scores, scores > tfidf.threshold(normal, bundles.BUDGET)
