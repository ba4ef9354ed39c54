"""BGL, SKAB and hostile lines: does the exported bundle see what is wrong, and keep quiet else."""

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


def bgl(setup: Setup) -> dict[str, Measured]:
    """Log lines of a supercomputer, trained on normal ones, at an alarm budget of 1 %."""
    ours, rivals = [], []
    for seed in range(2 if setup.quick else _SEEDS):
        case = f"bgl-random-seed{seed}"
        train, unseen = cases.rows(setup, case, "train"), cases.rows(setup, case, "eval")
        bundle = bundles.anomaly(setup, f"bgl-{seed}", train, unseen)
        ours.append(_Judged(unseen, *_answered(setup, bundle, unseen)))
        setup.tell(f"fitting the rival, seed {seed}")
        rivals.append(_Judged(unseen, *_nearest(train, unseen)))
    alarms, rival_alarms = [j.false_alarms for j in ours], [j.false_alarms for j in rivals]
    return {
        "bgl-auroc": averaged([j.auroc for j in ours], [j.auroc for j in rivals]),
        "bgl-f1": averaged([j.f1 for j in ours], [j.f1 for j in rivals]),
        "bgl-false-alarms": averaged(alarms, rival_alarms),
        "bgl-false-alarms-worst": Measured(
            max(alarms), max(rival_alarms), (min(alarms), max(alarms))
        ),
    }


def skab(setup: Setup) -> dict[str, Measured]:
    """Rows of a pump's sensors as lines of text; each file is a source of one bundle."""
    train, unseen = cases.rows(setup, "skab", "train"), cases.rows(setup, "skab", "eval")
    bundle = bundles.anomaly(setup, "skab", train, unseen)
    scores, _ = _answered(setup, bundle, unseen)
    ours, rivals = [], []
    for key in sorted({str(row.key) for row in unseen}, key=int):
        here = [i for i, row in enumerate(unseen) if row.key == key]
        bad = _bad([unseen[i] for i in here])
        setup.tell(f"the rival, file {key}")
        normal = [row.text for row in train if row.key == key]
        ours.append(float(roc_auc_score(bad, scores[here])))
        rivals.append(
            float(roc_auc_score(bad, tfidf.distances(normal, [unseen[i].text for i in here])))
        )
    return {"skab-auroc": averaged(ours, rivals)}


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
        bad = _bad(lines)
        bundle = bundles.anomaly(setup, f"adversarial-{key}", normal, lines)
        _, alarms = _answered(setup, bundle, lines)
        _, rival_alarms = _nearest(normal, lines)
        caught += int((alarms & bad).sum())
        false += int((alarms & ~bad).sum())
        rival_caught += int((rival_alarms & bad).sum())
        rival_false += int((rival_alarms & ~bad).sum())
    return {
        "adversarial-caught": once(caught, rival_caught),
        "adversarial-false": once(false, rival_false),
    }


class _Judged:
    """Scores and alarms of one seed against the truth; false alarms in % of normal lines."""

    def __init__(
        self, rows: Sequence[Row], scores: NDArray[np.float64], alarms: NDArray[np.bool_]
    ) -> None:
        bad = _bad(rows)
        self.auroc = float(roc_auc_score(bad, scores))
        self.f1 = float(f1_score(bad, alarms))
        self.false_alarms = 100.0 * float(fmean(map(float, alarms[~bad])))


def _bad(rows: Sequence[Row]) -> NDArray[np.bool_]:
    return np.array([row.label != NORMAL for row in rows])


def _answered(
    setup: Setup, bundle: Path, rows: Sequence[Row]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores float64 [n] and alarms bool [n], as the runtime answers in file order."""
    found = answers(bundle, rows, tell=setup.tell)
    return np.array([a.score for a in found]), np.array([a.label == ANOMALY for a in found])


def _nearest(
    train: Sequence[Row], rows: Sequence[Row]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The rival's scores float64 [n] and alarms bool [n] at the same budget."""
    normal = [row.text for row in train]
    scores = tfidf.distances(normal, [row.text for row in rows])
    return scores, scores > tfidf.threshold(normal, bundles.BUDGET)
