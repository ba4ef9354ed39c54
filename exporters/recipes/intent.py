"""Intents: which of the known requests a text is, or none."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from edgeslm.contract.manifest import Tolerance
from edgeslm.ports import Answer
from edgeslm.tasks.intent import IntentParameters
from exporters.data import (
    OUT_OF_SCOPE,
    DataError,
    Row,
    Split,
    contradictions,
    read_rows,
    spread,
)
from exporters.evaluation.measures import (
    POINTS,
    Area,
    Computed,
    Given,
    Measures,
    Metrics,
    Share,
    calibration_error,
    macro_f1,
    values,
)
from exporters.labels import check_intent, check_judged
from exporters.recipes.base import Fitter, Option, too_few

if TYPE_CHECKING:
    from exporters.heads.base import Advance, Embed, FittedHead

HELP: Final = "classify texts into intents, and reject those out of scope"
SHARE: Final = ("--reject-share", "share of in-scope texts to reject as out of scope")
DEFAULT_SHARE: Final = 0.05
TRAINABLE: Final = True
OPTIONS: Final[Mapping[str, Option]] = {}
PROMISE: Final = ("reject_share", "rejected_in_scope")
_PARTS: Final = 5  # one of them is held out where the user gives no evaluation data
BINS: Final = 15
"""Of the calibration error."""
_NAMED: Final = 5  # labels in a note
# With fewer, AUROC's own standard error (about 1.2 points at 200 texts and .97) hides a loss.
_GATED_OOS: Final = 200


def split(data: Path, evaluation: Path | None, *, share: float, seed: int) -> Split:
    """See `exporters.recipes.base.Recipe.split`."""
    del share  # which texts calibrate is up to what is trained: see `exporters.rejection`
    rows = read_rows(data)
    if evaluation is not None:
        judged = read_rows(evaluation)
        check_intent(rows, judged, (str(data), str(evaluation)))
        return Split(rows, judged)
    check_intent(rows, None, (str(data), ""))
    parts = spread(rows, _PARTS, seed=seed)
    # The last part: a label with few texts keeps them all for training. What was taught is learnt.
    taught = {row.text for row in rows if row.taught}
    judges = [
        part == _PARTS - 1 and row.text not in taught for row, part in zip(rows, parts, strict=True)
    ]
    held = [row for row, judge in zip(rows, judges, strict=True) if judge]
    rest = [row for row, judge in zip(rows, judges, strict=True) if not judge]
    if all(row.label == OUT_OF_SCOPE for row in held):
        what = f"no label has {_PARTS} different texts, so none can be spared to judge by"
        raise DataError(str(data), [("", what)], remedy="Add texts, or give --eval.")
    return Split(rest, held)


def steps(rows: Sequence[Row]) -> int:
    """See `exporters.recipes.base.Recipe.steps`."""
    from exporters.heads import intent  # noqa: PLC0415 -- see exporters/recipes/base.py

    return intent.steps(rows)


def texts(rows: Sequence[Row]) -> list[str]:
    """See `exporters.recipes.base.Recipe.texts`."""
    return list(dict.fromkeys(row.text for row in rows))


def fit(
    rows: Sequence[Row], embed: Embed, *, share: float, seed: int, advance: Advance
) -> FittedHead:
    """See `exporters.recipes.base.Recipe.fit`."""
    from exporters.heads import intent  # noqa: PLC0415 -- see exporters/recipes/base.py

    return intent.fit(rows, embed, reject_share=share, seed=seed, advance=advance)


def fitter(options: Mapping[str, str]) -> Fitter:
    """See `exporters.recipes.base.Recipe.fitter`."""
    del options  # it has none
    return cast("Fitter", sys.modules[__name__])


def measures(rows: Sequence[Row], answers: Sequence[Answer], *, share: float) -> Measures:
    """Accuracy in per cent without and with rejection, calibration error, out-of-scope figures.

    Scores of a cascade's two stages have no common scale: there, p-values stand in for them.
    """
    inside = np.array([row.label != OUT_OF_SCOPE for row in rows])
    truth = np.array([str(row.label) for row in rows])
    label = np.array([answer.label for answer in answers])
    accepted = np.array([bool(answer.accepted) for answer in answers])
    staged = any(answer.stage is not None for answer in answers)
    score = np.array([-(a.p_value or 0.0) if staged else a.score for a in answers])
    confidence = np.array([answer.confidence for answer in answers])[inside]
    right = label == truth
    _, numbers = np.unique(np.concatenate([truth[inside], label[inside]]), return_inverse=True)
    true, said = np.split(numbers, 2)
    known = right[inside]
    return {
        "in_scope": Given(int(inside.sum())),
        "out_of_scope": Given(int((~inside).sum())),
        "accuracy": Share(right, inside),
        "macro_f1": Computed(lambda i: macro_f1(true, said, i), len(true)),
        "calibration_error": Computed(
            lambda i: calibration_error(confidence[i], known[i], bins=BINS),
            len(known),
            unit=1.0,
            shape="basic",
        ),
        "reject_share": Given(POINTS * share),
        "rejected_in_scope": Share(~accepted, inside),
        "accuracy_with_rejection": Share(right & accepted, inside),
        "oos_auroc": Area(score, ~inside, unit=1.0),
        "oos_recall": Share(~accepted, ~inside),
    }


def measure(rows: Sequence[Row], answers: Sequence[Answer], *, share: float) -> Metrics:
    """See `exporters.recipes.base.Recipe.measure`."""
    return values(measures(rows, answers, share=share))


def primary(measured: Metrics) -> str:
    """See `exporters.recipes.base.Recipe.primary`."""
    del measured
    return "accuracy"


def promised(parameters: bytes) -> float:
    """See `exporters.recipes.base.Recipe.promised`."""
    return IntentParameters.model_validate_json(parameters).reject_share


def check(rows: Sequence[Row], parameters: bytes, file: str) -> list[str]:
    """See `exporters.recipes.base.Recipe.check`: every label must be one that was learnt."""
    labels = IntentParameters.model_validate_json(parameters).labels
    check_judged(rows, labels, file)
    found = contradictions(rows, file)
    if missing := sorted(set(labels) - {row.label for row in rows}):
        named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        found.append(f"{file}: nothing is said of labels without a text: {len(missing)} ({named})")
    if all(row.label != OUT_OF_SCOPE for row in rows):
        found.append(f"{file}: no text is labelled {OUT_OF_SCOPE!r}: rejection cannot be judged")
    return found


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
