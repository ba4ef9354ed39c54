"""What fine-tuning the encoder gives, beside a head on the same encoder left as it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from sklearn.metrics import accuracy_score, roc_auc_score

from benchmarks import bundles, cases
from benchmarks.answering import answers
from benchmarks.figures import Measured
from benchmarks.rivals import tfidf
from benchmarks.setup import Setup
from benchmarks.stats import above, averaged, once
from edgeslm.ports import Answer
from exporters.data import OUT_OF_SCOPE, Row

_FOLDS: Final = 5
_MINUTE_S: Final = 60.0
# One of 140 texts is more than the gate allows: it is measured here.
_FEW_TEXTS: Final = "--allow-drop"


def finetune_clinc150(setup: Setup) -> dict[str, Measured]:
    """In-scope accuracy, out-of-scope figures, and what training takes."""
    ours, rival = _both(setup, "clinc150")
    took = float(bundles.measurements(ours.bundle)["training"]["cpu_s"]) / _MINUTE_S
    fp32 = bundles.quality(ours.bundle)["fp32"]
    return _accuracy("finetune-clinc150", [ours], [rival]) | {
        "finetune-clinc150-oos-auroc": once(ours.oos_auroc, rival.oos_auroc),
        "finetune-clinc150-oos-recall": once(ours.oos_recall, rival.oos_recall),
        "finetune-clinc150-oos-int8": above([100 * ours.oos_auroc], [100 * fp32["oos_auroc"]]),
        "finetune-clinc150-cpu": once(took, _tfidf_minutes(setup, "clinc150")),
    }


def finetune_banking77(setup: Setup) -> dict[str, Measured]:
    """Accuracy."""
    ours, rival = _both(setup, "banking77")
    return _accuracy("finetune-banking77", [ours], [rival])


def finetune_snips(setup: Setup) -> dict[str, Measured]:
    """Accuracy."""
    ours, rival = _both(setup, "snips")
    return _accuracy("finetune-snips", [ours], [rival])


def finetune_maintie(setup: Setup) -> dict[str, Measured]:
    """Mean accuracy of five folds."""
    folds = [_both(setup, f"maintie-seed{fold}", _FEW_TEXTS) for fold in range(_FOLDS)]
    ours, rivals = zip(*folds, strict=True)
    return _accuracy("finetune-maintie", ours, rivals)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A bundle, and what it answers to the evaluation part."""

    bundle: Path
    rows: Sequence[Row]
    answers: Sequence[Answer]

    @property
    def accuracy(self) -> float:
        """In per cent of the rows that are in scope, whatever was rejected."""
        pairs = [(str(r.label), a.label) for r, a in zip(self.rows, self.answers, strict=True)]
        inside = [pair for pair in pairs if pair[0] != OUT_OF_SCOPE]
        return 100.0 * float(accuracy_score(*zip(*inside, strict=True)))

    @property
    def oos_auroc(self) -> float:
        """How well the score tells what is out of scope."""
        outside = [row.label == OUT_OF_SCOPE for row in self.rows]
        return float(roc_auc_score(outside, [answer.score for answer in self.answers]))

    @property
    def oos_recall(self) -> float:
        """In per cent of the rows out of scope, those that the bundle rejects."""
        rejected = [
            not answer.accepted
            for row, answer in zip(self.rows, self.answers, strict=True)
            if row.label == OUT_OF_SCOPE
        ]
        return 100.0 * float(np.mean(rejected))


def _both(setup: Setup, case: str, *options: str) -> tuple[_Judged, _Judged]:
    rows = cases.rows(setup, case, "eval")
    made = bundles.trained(setup, case, *options), bundles.intent(setup, case, *options)
    ours, rival = (_Judged(one, rows, answers(one, rows, tell=setup.tell)) for one in made)
    return ours, rival


def _accuracy(name: str, ours: Sequence[_Judged], rivals: Sequence[_Judged]) -> dict[str, Measured]:
    mine = [one.accuracy for one in ours]
    fp32 = [float(bundles.quality(one.bundle)["fp32"]["accuracy"]) for one in ours]
    return {
        f"{name}-accuracy": averaged(mine, [one.accuracy for one in rivals]),
        f"{name}-int8": Measured(
            float(np.mean(mine)),
            float(np.mean(fp32)),
            _range([a - b for a, b in zip(mine, fp32, strict=True)]),
        ),
    }


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _tfidf_minutes(setup: Setup, case: str) -> float:
    """Return the CPU time of the classic on the same texts, in minutes."""
    setup.tell("fitting the rival")
    known = [row for row in bundles.train_rows(setup, case) if row.label != OUT_OF_SCOPE]
    texts, labels = [row.text for row in known], [str(row.label) for row in known]
    begun = time.process_time()
    tfidf.classify(texts, labels, texts[:1])
    return (time.process_time() - begun) / _MINUTE_S
