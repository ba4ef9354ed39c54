"""Anomalies: texts unlike the normal ones of their source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgeslm.contract.manifest import Tolerance
from edgeslm.core import calibration, template
from edgeslm.core.calibration import BudgetError
from edgeslm.core.learnt import Parameters
from edgeslm.ports import Answer
from exporters.data import (
    ANOMALY,
    DataError,
    Row,
    Split,
    last_fifth,
    read_rows,
    without_halves,
)
from exporters.evaluation import promise
from exporters.evaluation.measures import (
    POINTS,
    Area,
    Given,
    Measures,
    Metrics,
    Overlap,
    Share,
    values,
)
from exporters.heads import anomaly, windows
from exporters.heads.base import Advance, Embed, FittedHead
from exporters.labels import check_anomaly
from exporters.recipes.base import Fitter, Option, too_few

HELP: Final = "flag texts unlike the normal ones"
SHARE: Final = ("--alarm-budget", "share of normal texts that may raise an alarm")
DEFAULT_SHARE: Final = 0.01
TRAINABLE: Final = False
OPTIONS: Final[Mapping[str, Option]] = {
    anomaly.WINDOWS: Option(
        "one or two lengths of the windows over a source's readings: 10,30 of them, or 60s,600s, "
        f"or {windows.OFF}",
        windows.DEFAULT,
        windows.parse,
    ),
    anomaly.SESSIONS: Option(
        "whether lines with the same key are judged as a session, where the data has sessions: "
        f"{anomaly.ON} or {anomaly.OFF}",
        anomaly.ON,
        anomaly.parse_switch,
    ),
}
PROMISE: Final = ("alarm_budget", "false_alarm_rate")


def split(data: Path, evaluation: Path | None, *, share: float, seed: int) -> Split:
    """See `exporters.recipes.base.Recipe.split`: labelled anomalies only ever judge."""
    del seed  # a stream is cut by time, not dealt
    rows = read_rows(data)
    check_anomaly(rows, str(data))
    normal = [row for row in rows if row.label != ANOMALY]
    if not normal:
        remedy = "Give normal lines: without a label, or labelled 'normal'."
        raise DataError(str(data), [("label", "every line is an anomaly")], remedy=remedy)
    anomalies = [row for row in rows if row.label == ANOMALY]
    if evaluation is not None:
        judged = read_rows(evaluation)
        check_anomaly(judged, str(evaluation))
        _require(share, normal, data)
        return Split(normal, judged + anomalies)
    late = last_fifth(normal)
    train = [row for row, held in zip(normal, late, strict=True) if not held]
    hint = ". A fifth of the lines is held out to judge by: with --eval all of them calibrate."
    _require(share, train, data, hint)
    held_out = [row for row, held in zip(normal, late, strict=True) if held]
    train, held_out = without_halves((train, held_out))
    return Split(train, held_out + anomalies)


def _require(share: float, rows: Sequence[Row], data: Path, hint: str = "") -> None:
    """Make sure that `rows` support the budget.

    Raises:
        BudgetError: they do not; names the file, and says how many would.
    """
    try:
        calibration.require(share, len(rows))
    except BudgetError as err:
        err.args = (f"{data}: {err}{hint}",)
        raise


def steps(rows: Sequence[Row]) -> int:
    """See `exporters.recipes.base.Recipe.steps`: one per template."""
    return len({template.split(row.text)[0] for row in rows})


def texts(rows: Sequence[Row]) -> list[str]:
    """See `exporters.recipes.base.Recipe.texts`: templates, as a person would read them."""
    return list(dict.fromkeys(template.readable(template.split(row.text)[0]) for row in rows))


def fit(
    rows: Sequence[Row], embed: Embed, *, share: float, seed: int, advance: Advance
) -> FittedHead:
    """See `exporters.recipes.base.Recipe.fit`."""
    return fitter({}).fit(rows, embed, share=share, seed=seed, advance=advance)


@dataclass(frozen=True, slots=True)
class _Fitter:
    """Implements `exporters.recipes.base.Fitter`."""

    options: Mapping[str, str]

    def steps(self, rows: Sequence[Row]) -> int:
        return steps(rows)

    def fit(
        self, rows: Sequence[Row], embed: Embed, *, share: float, seed: int, advance: Advance
    ) -> FittedHead:
        return anomaly.fit(
            rows, embed, alarm_budget=share, seed=seed, advance=advance, options=self.options
        )


def fitter(options: Mapping[str, str]) -> Fitter:
    """See `exporters.recipes.base.Recipe.fitter`."""
    return _Fitter(options)


def measures(rows: Sequence[Row], answers: Sequence[Answer], *, share: float) -> Measures:
    """False alarms in per cent and, where anomalies are labelled, how well they are found."""
    bad = np.array([row.label == ANOMALY for row in rows])
    alarm = np.array([answer.label == ANOMALY for answer in answers])
    score = np.array([answer.score for answer in answers])
    return {
        "normal": Given(int((~bad).sum())),
        "anomalies": Given(int(bad.sum())),
        "alarms": Given(int(alarm.sum())),
        "alarm_budget": Given(POINTS * share),
        "false_alarm_rate": Share(alarm, ~bad),
        "auroc": Area(score, bad),
        "recall": Share(alarm, bad),
        "precision": Share(bad, alarm if bad.any() else bad),
        "f1": Overlap(bad, alarm),
    }


def measure(rows: Sequence[Row], answers: Sequence[Answer], *, share: float) -> Metrics:
    """See `exporters.recipes.base.Recipe.measure`."""
    return values(measures(rows, answers, share=share))


def primary(measured: Metrics) -> str:
    """See `exporters.recipes.base.Recipe.primary`."""
    return "false_alarm_rate" if measured["auroc"] is None else "auroc"


def promised(parameters: bytes) -> float:
    """See `exporters.recipes.base.Recipe.promised`."""
    return Parameters.model_validate_json(parameters).alarm_budget


def check(rows: Sequence[Row], parameters: bytes, file: str) -> list[str]:
    """See `exporters.recipes.base.Recipe.check`: lines without a label count as normal."""
    del parameters
    check_anomaly(rows, file)
    bad = sum(row.label == ANOMALY for row in rows)
    if not bad:
        return [f"{file}: no line is labelled {ANOMALY!r}: only false alarms can be judged"]
    if bad == len(rows):
        return [f"{file}: every line is labelled {ANOMALY!r}: false alarms cannot be judged"]
    return []


def cautions(artifact: Metrics, *, limit: float) -> list[str]:
    """See `exporters.recipes.base.Recipe.cautions`: also a rate well above the budget."""
    normal, anomalies = int(artifact["normal"] or 0), int(artifact["anomalies"] or 0)
    found = too_few(normal + anomalies, limit=limit)
    rate, budget = artifact["false_alarm_rate"], float(artifact["alarm_budget"] or 0)
    if rate is None:
        return found
    alarms = round(rate * normal / POINTS)
    if promise.judge(alarms, normal, budget / POINTS).verdict == "over":
        found.append(
            f"{rate:.3g} % of the held-out normal lines raise an alarm, and the budget is "
            f"{budget:.3g} %: usually they are of kinds that the training lines lack, or of a "
            "later time; train on more kinds and on a longer time"
        )
    return found


def losses(
    reference: tuple[Metrics, Sequence[Answer]], artifact: tuple[Metrics, Sequence[Answer]]
) -> Mapping[str, float]:
    """AUROC lost; without labelled anomalies false alarms gained, and verdicts that differ."""
    before, after = reference[0], artifact[0]
    if before["auroc"] is not None and after["auroc"] is not None:
        return {"auroc": before["auroc"] - after["auroc"]}
    pairs = list(zip(reference[1], artifact[1], strict=True))
    differ = sum(a.label != b.label for a, b in pairs)
    lost = {"agreement": POINTS * differ / len(pairs)}
    if before["false_alarm_rate"] is not None and after["false_alarm_rate"] is not None:
        lost["false_alarm_rate"] = after["false_alarm_rate"] - before["false_alarm_rate"]
    return lost


def surety(answer: Answer, parameters: bytes, allowed: Tolerance) -> float:
    """See `exporters.recipes.base.Recipe.surety`.

    Confidence is 1 - exp(-d) at d nats of p from the alarm line, and a nat of score moves p by
    about one.
    """
    del parameters
    return answer.confidence / max(allowed.confidence, allowed.score)
