"""Intents: which of the known requests a text is, or none."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, cast

import numpy as np
from sklearn.metrics import f1_score, roc_auc_score

from edgeslm.contract.manifest import Tolerance
from edgeslm.ports import Answer
from edgeslm.tasks.intent import IntentParameters
from exporters.data import (
    OUT_OF_SCOPE,
    DataError,
    Row,
    Split,
    check_intent,
    contradictions,
    read_rows,
    spread,
)
from exporters.heads import intent
from exporters.heads.base import Advance, Embed, FittedHead
from exporters.recipes.base import POINTS, Fitter, Metrics, Option, too_few

HELP: Final = "classify texts into intents, and reject those out of scope"
SHARE: Final = ("--reject-share", "share of in-scope texts to reject as out of scope")
DEFAULT_SHARE: Final = 0.05
TRAINABLE: Final = True
OPTIONS: Final[Mapping[str, Option]] = {}
_PARTS: Final = 5  # one of them is held out where the user gives no evaluation data
_BINS: Final = 15
# With fewer, AUROC's own standard error (about 1.2 points at 200 texts and .97) hides a loss.
_GATED_OOS: Final = 200


def split(data: Path, evaluation: Path | None, *, share: float, seed: int) -> Split:
    """See `exporters.recipes.base.Recipe.split`."""
    del share  # any number of texts has a quantile
    rows = read_rows(data)
    double = contradictions(rows, data.name)
    if evaluation is not None:
        judged = read_rows(evaluation)
        check_intent(rows, judged, (str(data), str(evaluation)))
        return Split(rows, judged, double + contradictions(judged, evaluation.name))
    check_intent(rows, None, (str(data), ""))
    parts = spread(rows, _PARTS, seed=seed)
    # The last part: a label with few texts keeps them all for training.
    held = [row for row, part in zip(rows, parts, strict=True) if part == _PARTS - 1]
    rest = [row for row, part in zip(rows, parts, strict=True) if part != _PARTS - 1]
    if all(row.label == OUT_OF_SCOPE for row in held):
        what = f"no label has {_PARTS} different texts, so none can be spared to judge by"
        raise DataError(str(data), [("", what)], remedy="Add texts, or give --eval.")
    return Split(rest, held, double)


def steps(rows: Sequence[Row]) -> int:
    """See `exporters.recipes.base.Recipe.steps`."""
    return intent.steps(rows)


def texts(rows: Sequence[Row]) -> list[str]:
    """See `exporters.recipes.base.Recipe.texts`."""
    return list(dict.fromkeys(row.text for row in rows))


def fit(
    rows: Sequence[Row], embed: Embed, *, share: float, seed: int, advance: Advance
) -> FittedHead:
    """See `exporters.recipes.base.Recipe.fit`."""
    return intent.fit(rows, embed, reject_share=share, seed=seed, advance=advance)


def fitter(options: Mapping[str, str]) -> Fitter:
    """See `exporters.recipes.base.Recipe.fitter`."""
    del options  # it has none
    return cast("Fitter", sys.modules[__name__])


def measure(rows: Sequence[Row], answers: Sequence[Answer], *, share: float) -> Metrics:
    """Accuracy in per cent without and with rejection, calibration error, out-of-scope figures."""
    inside = np.array([row.label != OUT_OF_SCOPE for row in rows])
    truth = np.array([str(row.label) for row in rows])
    label = np.array([answer.label for answer in answers])
    accepted = np.array([bool(answer.accepted) for answer in answers])
    score = np.array([answer.score for answer in answers])
    confidence = np.array([answer.confidence for answer in answers])
    right = (label == truth)[inside]
    metrics: Metrics = {
        "in_scope": int(inside.sum()),
        "out_of_scope": int((~inside).sum()),
        "accuracy": POINTS * float(right.mean()),
        "macro_f1": POINTS
        * float(f1_score(truth[inside], label[inside], average="macro", zero_division=0)),
        "calibration_error": _calibration_error(confidence[inside], right),
        "reject_share": POINTS * share,
        "rejected_in_scope": POINTS * float((~accepted[inside]).mean()),
        "accuracy_with_rejection": POINTS * float((right & accepted[inside]).mean()),
        "oos_auroc": None,
        "oos_recall": None,
    }
    if not inside.all():
        metrics["oos_auroc"] = float(roc_auc_score(~inside, score))
        metrics["oos_recall"] = POINTS * float((~accepted[~inside]).mean())
    return metrics


def cautions(artifact: Metrics, *, limit: float) -> list[str]:
    """See `exporters.recipes.base.Recipe.cautions`."""
    found = too_few(int(artifact["in_scope"] or 0), limit=limit)
    if 0 < (outside := int(artifact["out_of_scope"] or 0)) < _GATED_OOS:
        found.append(
            f"{outside} held-out texts labelled oos are few: oos_auroc is measured and not gated "
            f"below {_GATED_OOS}"
        )
    return found


def losses(
    reference: tuple[Metrics, Sequence[Answer]], artifact: tuple[Metrics, Sequence[Answer]]
) -> Mapping[str, float]:
    """In-scope accuracy lost and, where enough texts out of scope are held out, their AUROC."""
    before, after = reference[0], artifact[0]
    lost = {"accuracy": float(before["accuracy"] or 0) - float(after["accuracy"] or 0)}
    enough = int(before["out_of_scope"] or 0) >= _GATED_OOS
    if enough and before["oos_auroc"] is not None and after["oos_auroc"] is not None:
        lost["oos_auroc"] = POINTS * (before["oos_auroc"] - after["oos_auroc"])
    return lost


def surety(answer: Answer, parameters: bytes, allowed: Tolerance) -> float:
    """See `exporters.recipes.base.Recipe.surety`."""
    threshold = IntentParameters.model_validate_json(parameters).threshold
    to_verdict = abs(answer.score - threshold) / allowed.score
    # Up to one half, another label may be as likely.
    return min(to_verdict, (answer.confidence - 0.5) / allowed.confidence)


def _calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over equal bins, in [0, 1].

    Source:
        Guo et al. 2017, arXiv:1706.04599, eq. 3.
    """
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [
        abs(float(confidence[bins == b].sum() - right[bins == b].sum()))
        for b in range(_BINS)
        if (bins == b).any()
    ]
    return sum(gaps) / len(right)
