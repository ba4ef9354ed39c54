"""Alarms over time, as numbers that a template draws; and whether they have become more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from edgeslm.core.rollout_health import beyond_chance
from edgeslm.fleet.database.registry import Hour
from edgeslm.fleet.web.render import percent, utc, whole

WIDTH: Final = 840.0
HEIGHT: Final = 150.0
_LEFT: Final = 36.0
_TOP: Final = 16.0
_BASE: Final = HEIGHT - 18.0
_HOUR_S: Final = 3600.0
_DAY: Final = 24  # hours
_DRIFT: Final = 1.5
"""Times as many alarms an answer as before: what a roll-out's limit is, too."""
_ENOUGH: Final = 100  # answers from which shares are compared


@dataclass(frozen=True, slots=True)
class Bar:
    """One hour."""

    x: float
    width: float
    y: float
    height: float
    errors: float
    error_y: float
    told: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One model's alarms and errors, hour by hour.

    Args:
        model: whose.
        told: all of it in one sentence.
        most: that the highest bar stands for.
        bars: of hours in which something was answered.
        marks: days below it, as (x, word).
        changes: of the version, the same.
        drift: how the last day compares with those before, in words.
        drifted: it is more than chance.
    """

    model: str
    told: str
    most: int
    bars: Sequence[Bar]
    marks: Sequence[dict[str, float | str]]
    changes: Sequence[dict[str, float | str]]
    drift: str
    drifted: bool
    width: float = WIDTH
    height: float = HEIGHT
    left: float = _LEFT
    top: float = _TOP
    base: float = _BASE


@dataclass(slots=True)
class _Sum:
    answers: int = 0
    alarms: int = 0
    errors: int = 0
    versions: set[int] = field(default_factory=set)

    def add(self, hour: Hour) -> None:
        self.answers += hour.answers
        self.alarms += hour.alarms
        self.errors += hour.errors
        self.versions.add(hour.version)


def chart(model: str, rows: Sequence[Hour], now: float, hours: int) -> Chart:
    """Return what is drawn of these hours.

    Args:
        model: whose.
        rows: what was answered, by hour and version, the oldest first.
        now: seconds since 1970.
        hours: that are shown, up to now.
    """
    last = int(now // _HOUR_S)
    first = last - hours + 1
    by_hour: dict[int, _Sum] = defaultdict(_Sum)
    for row in rows:
        if first <= row.hour <= last:
            by_hour[row.hour].add(row)
    most = max((max(one.alarms, one.errors) for one in by_hour.values()), default=0)
    step = (WIDTH - _LEFT) / hours
    tall = (_BASE - _TOP) / max(most, 1)
    bars = []
    for hour, one in sorted(by_hour.items()):
        height, errors = one.alarms * tall, one.errors * tall
        bars.append(
            Bar(
                x=round(_LEFT + (hour - first) * step, 1),
                width=round(max(1.0, step - 1.0), 1),
                y=round(_BASE - height, 1),
                height=round(height, 1),
                errors=round(errors, 1),
                error_y=round(_BASE - errors, 1),
                told=_told(hour, one),
            )
        )
    drift, drifted = _drift(by_hour, last)
    alarms = sum(one.alarms for one in by_hour.values())
    answers = sum(one.answers for one in by_hour.values())
    return Chart(
        model=model,
        told=f"{model}: {whole(alarms)} alarms in {whole(answers)} answers in {hours} hours; at "
        f"most {whole(most)} in one.",
        most=max(most, 1),
        bars=bars,
        marks=[
            {"x": round(_LEFT + (hour - first) * step, 1), "word": utc(hour * _HOUR_S)[5:10]}
            for hour in range(first, last + 1)
            if hour % _DAY == 0 and hour < last - 7  # where its word still has room
        ],
        changes=_changes(by_hour, first, step),
        drift=drift,
        drifted=drifted,
    )


def _told(hour: int, one: _Sum) -> str:
    counts = f"{whole(one.alarms)} alarms and {whole(one.errors)} errors"
    return f"{utc(hour * _HOUR_S)}: {counts} in {whole(one.answers)} answers"


def _changes(by_hour: dict[int, _Sum], first: int, step: float) -> list[dict[str, float | str]]:
    found: list[dict[str, float | str]] = []
    before: int | None = None
    for hour, one in sorted(by_hour.items()):
        newest = max(one.versions)
        if before is not None and newest != before:
            found.append(
                {"x": round(_LEFT + (hour - first) * step, 1), "word": f"version {newest}"}
            )
        before = newest
    return found


def _drift(by_hour: dict[int, _Sum], last: int) -> tuple[str, bool]:
    """Compare the last day's alarms with those before."""
    new, old = _Sum(), _Sum()
    for hour, one in by_hour.items():
        into = new if hour > last - _DAY else old
        into.answers += one.answers
        into.alarms += one.alarms
    if min(new.answers, old.answers) < _ENOUGH:
        takes = f"it takes {_ENOUGH} answers in the last 24 hours, and as many before"
        return f"Drift is not known yet: {takes}.", False
    now_, then = new.alarms / new.answers, old.alarms / old.answers
    said = f"{percent(now_)} of answers were alarms in the last 24 hours, {percent(then)} before: "
    if beyond_chance((old.alarms, old.answers), (new.alarms, new.answers), _DRIFT):
        return f"{said}more than {_DRIFT:g} times as many, beyond chance. It drifts.", True
    return f"{said}no drift.", False
