"""Fit windows over readings: for each series how its means lay, and how odd unseen ones come out.

A series is what one source said in one template. Its readings are cut into contiguous blocks, and
the windows of each are scored by what the others teach, without those within a window's length of
it: neighbouring windows share readings, and would vouch for each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeslm.core import calibration
from edgeslm.core.series import MARGIN, MAX_READINGS, MAX_SLOTS
from edgeslm.core.template import number
from edgeslm.errors import RejectedError
from exporters.heads.tally import Tally, Why, Without

FOLDS: Final = 20
DEFAULT: Final = "10,30"
OFF: Final = "none"
MAX_SERIES: Final = 256
"""Series that get windows: those with most readings."""
FEWEST: Final = 100
"""Readings below which a series says too little of its windows; and five of the longest window."""
FEWEST_FIT: Final = 20
PAUSE: Final = 20
"""Times the usual interval between readings, after which windows begin anew."""
MAX_FITTED: Final = 20_000
_DIGITS: Final = 6
_RIDGE: Final = 1e-9  # where slots move exactly together, and shrinkage has nothing to shrink to

Array = NDArray[np.float64]


class WindowsError(RejectedError):
    """Windows cannot be so."""

    code = "export.windows"


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of windows, ascending: in readings, or in seconds."""

    readings: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()


def parse(text: str) -> Lengths | None:
    """Return the lengths in `text`: "10,30" readings, "60s,600s" of time; None for "none".

    Raises:
        WindowsError: it says neither.
    """
    if text == OFF:
        return None
    parts = [part.strip() for part in text.split(",")]
    timed = all(part.endswith("s") for part in parts)
    try:
        found = sorted(float(part.removesuffix("s")) if timed else int(part) for part in parts)
    except ValueError:
        found = []
    if len(set(found)) < len(found):
        msg = f"windows {text!r}: the same length twice; give {parts[0]} alone, or another with it"
        raise WindowsError(msg)
    if timed and found and found[0] > 0 and found[-1] < float("inf") and len(found) <= 2:  # noqa: PLR2004
        return Lengths(seconds=tuple(found))
    if not timed and found and found[0] >= 2 and found[-1] <= MAX_READINGS and len(found) <= 2:  # noqa: PLR2004
        return Lengths(readings=tuple(int(length) for length in found))
    msg = (
        f"windows {text!r}: give one or two lengths of 2 to {MAX_READINGS} readings (10,30), or of "
        f"time (60s,600s), or {OFF}"
    )
    raise WindowsError(msg)


@dataclass(frozen=True, slots=True)
class Reading:
    """A line as windows see it."""

    source: str
    template: int
    slots: Sequence[str]
    time: float | None


@dataclass(frozen=True, slots=True)
class Fitted:
    """What windows have learnt.

    Args:
        parameters: `core.learnt.WindowsParameters`, but `channel`.
        scores: of each line by what the others teach, nats; None where windows say nothing.
    """

    parameters: dict[str, Any]
    scores: list[float | None]


def fit(readings: Sequence[Reading], lengths: Lengths) -> tuple[Fitted | None, Tally]:
    """Fit windows on the series among `readings`, which are in time order; None if none got any.

    Args:
        readings: of all lines.
        lengths: of the windows.
    """
    tally = Tally()
    by_series: dict[tuple[str, int], list[int]] = defaultdict(list)
    for i, reading in enumerate(readings):
        if reading.slots:
            by_series[reading.source, reading.template].append(i)
    ordered = sorted(by_series.items(), key=lambda item: (-len(item[1]), item[0]))
    fitted: list[_Series] = []
    for key, lines in ordered:
        if len(fitted) == MAX_SERIES:
            tally.without.append(Without(Why.MANY, *key, len(lines)))
            continue
        one = _series(key, lines, readings, lengths)
        if isinstance(one, Without):
            tally.without.append(one)
        else:
            fitted.append(one)
            tally.lengths[one.windows] += 1
    if not fitted:
        return None, tally
    distances = np.concatenate([one.unseen for one in fitted])
    tails = [calibration.tail(view[~np.isnan(view)]) for view in distances.T]
    scores: list[float | None] = [None] * len(readings)
    for one in fitted:
        for i, row in zip(one.lines, one.unseen.tolist(), strict=True):
            # The view over the longest windows that are full.
            said = [-t.log_p_value(d) for t, d in zip(tails, row, strict=True) if d == d]  # noqa: PLR0124
            scores[i] = said[-1] if said else None
    parameters = {
        "series": [one.parameters for one in fitted],
        "views": [
            {"scores": t.scores, "log_p": t.log_p, "log_p_above": t.log_p_above, "decay": t.decay}
            for t in tails
        ],
    }
    return Fitted(parameters, scores), tally


@dataclass(frozen=True, slots=True)
class _Series:
    """One that was fitted; `unseen` are float64 [lines, views], NaN where a view says nothing."""

    parameters: dict[str, Any]
    windows: tuple[int, ...]
    lines: list[int]
    unseen: Array


def _series(
    key: tuple[str, int], lines: list[int], readings: Sequence[Reading], lengths: Lengths
) -> _Series | Without:
    times = [readings[i].time for i in lines]
    interval = _interval(times)
    windows = lengths.readings or _in_readings(lengths.seconds, interval)
    needed = max((FEWEST, *(5 * length for length in windows)))
    if len(lines) < needed:
        return Without(Why.FEW, *key, len(lines), needed)
    if not windows:
        return Without(Why.UNTIMED, *key, len(lines))
    values = np.array([[number(slot) for slot in readings[i].slots] for i in lines])
    slots = _varying(values)
    if not slots:
        return Without(Why.FIXED, *key, len(lines))
    values = _filled(values[:, slots])
    pause_s = PAUSE * interval if interval else None
    runs = _runs(times, pause_s)
    # While the longest window fills, the shorter ones speak alone.
    views = [(1, *windows[:count]) for count in range(1, len(windows) + 1)]
    n, longest = len(lines), windows[-1]
    fold = FOLDS * np.arange(n) // n
    unseen = np.full((n, len(views)), np.nan)
    scale = _Scale.of(values)
    scaled = scale.apply(values)
    means, steps = _means(scaled, (1, *windows)), _means(_steps(scaled, runs), windows)
    filled = np.arange(n) - runs + 1
    for k in range(FOLDS):
        inside = np.flatnonzero(fold == k)
        apart = np.ones(n, np.bool_)
        apart[max(0, inside[0] - longest) : inside[-1] + longest + 1] = False
        for view in views:
            full = filled >= view[-1]
            rest, here = np.flatnonzero(apart & full), np.flatnonzero((fold == k) & full)
            if len(rest) >= FEWEST_FIT and len(here):
                columns, rates = _columns(means, view), steps[view[-1]]
                model = _Model.of(columns[rest], rates[rest])
                unseen[here, views.index(view)] = model.distances(columns[here], rates[here])
    if np.isnan(unseen).all(axis=0).any():
        return Without(Why.PAUSES, *key, len(lines))
    models = [
        _Model.of(_columns(means, view)[filled >= view[-1]], steps[view[-1]][filled >= view[-1]])
        for view in views
    ]
    spread = means[longest][filled >= longest].std(axis=0).clip(1e-6)
    source, template = key
    parameters = {
        "source": source,
        "template": template,
        "slots": slots,
        "centre": _short(scale.centre),
        "scale": _short(scale.scale),
        "low": _short(scale.low),
        "high": _short(scale.high),
        "spread": _short(spread),
        "pause_s": pause_s,
        "views": [
            {
                "windows": view,
                "mean": _short(m.mean),
                "root": [_short(row) for row in m.root],
                "steps_low": _short(m.steps_low),
                "steps_high": _short(m.steps_high),
                "steps_spread": _short(m.steps_spread),
            }
            for view, m in zip(views, models, strict=True)
        ],
    }
    return _Series(parameters, windows, lines, unseen)


def _short(values: Array) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values.tolist()]


def _interval(times: Sequence[float | None]) -> float | None:
    """Return the usual time between two readings, seconds; None where it is not known."""
    known = np.array([time for time in times if time is not None])
    if len(known) < len(times):
        return None
    steps = np.diff(known)
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else None


def _in_readings(seconds: Sequence[float], interval: float | None) -> tuple[int, ...]:
    """Return how many readings a series has in such times; none where it has no times."""
    if interval is None:
        return ()
    return tuple(sorted({min(MAX_READINGS, max(2, round(s / interval))) for s in seconds}))


def _varying(values: Array) -> list[int]:
    """Return the slots that mostly held finite numbers, and not always the same one."""
    found = []
    for slot, column in enumerate(values.T):
        finite = column[np.isfinite(column)]
        if 2 * len(finite) > len(column) and np.ptp(finite.clip(-1e150, 1e150)) > 0:
            found.append(slot)
    return found[:MAX_SLOTS]


def _filled(values: Array) -> Array:
    """Return `values` with each gap filled by what was before it, else by the column's mean."""
    values = values.clip(-1e150, 1e150)
    for column in values.T:
        mean = float(np.nanmean(column))
        before = mean
        for i, value in enumerate(column.tolist()):
            if value == value:  # noqa: PLR0124 -- not NaN
                before = value
            else:
                column[i] = before
    return values


def _runs(times: Sequence[float | None], pause_s: float | None) -> NDArray[np.int64]:
    """Return for each reading the index of the first of its run: no pause lies between them."""
    starts = np.zeros(len(times), np.int64)
    if pause_s is None:
        return starts
    for i in range(1, len(times)):
        before, now = times[i - 1], times[i]
        pause = before is not None and now is not None and now - before > pause_s
        starts[i] = i if pause else starts[i - 1]
    return starts


def _steps(values: Array, runs: NDArray[np.int64]) -> Array:
    """Return the steps that led to readings, none to the first of a run."""
    steps: Array = np.abs(np.diff(values, axis=0, prepend=values[:1]))
    steps[runs == np.arange(len(values))] = 0.0
    return steps


def _means(values: Array, windows: Sequence[int]) -> dict[int, Array]:
    """Return for each window its mean, ending at each reading; 0 where it begins before them."""
    sums = np.vstack([np.zeros(values.shape[1]), np.cumsum(values, axis=0)])
    means = {}
    for length in windows:
        rows = np.zeros_like(values)
        rows[length - 1 :] = (sums[length:] - sums[:-length]) / length
        means[length] = rows
    return means


def _columns(means: dict[int, Array], view: Sequence[int]) -> Array:
    return np.hstack([means[length] for length in view])


@dataclass(frozen=True, slots=True)
class _Scale:
    centre: Array
    scale: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, values: Array) -> _Scale:
        centre, scale = values.mean(axis=0), values.std(axis=0)
        floor = np.maximum(1e-9 * np.abs(centre), 1e-12)
        scale = np.where(scale > floor, scale, floor)
        scaled = (values - centre) / scale
        return cls(centre, scale, scaled.min(axis=0), scaled.max(axis=0))

    def apply(self, values: Array) -> Array:
        scaled: Array = (values - self.centre) / self.scale
        return scaled.clip(self.low - MARGIN, self.high + MARGIN)


@dataclass(frozen=True, slots=True)
class _Model:
    """Mean and whitening of some windows' means, the covariance shrunk; the range of mean steps.

    Source:
        Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance
        matrices", J. Multivariate Analysis 88(2), as scikit-learn has it.
    """

    mean: Array
    root: Array
    steps_low: Array
    steps_high: Array
    steps_spread: Array

    @classmethod
    def of(cls, rows: Array, steps: Array) -> _Model:
        rows = rows[:: max(1, len(rows) // MAX_FITTED)]
        mean = rows.mean(axis=0)
        from sklearn.covariance import ledoit_wolf  # noqa: PLC0415 -- `--help` does without

        covariance, _ = ledoit_wolf(rows - mean, assume_centered=True)
        precision = np.linalg.inv(covariance + _RIDGE * np.eye(len(mean)))
        root: Array = np.linalg.cholesky((precision + precision.T) / 2).astype(np.float64)
        spread = steps.std(axis=0).clip(1e-6)
        low, high = (steps.min(axis=0) - spread).clip(0), steps.max(axis=0) + spread
        return cls(mean, root, low, high, spread)

    def distances(self, rows: Array, steps: Array) -> Array:
        """As `core.series.Gauge.distance`."""
        squares = ((rows - self.mean) @ self.root) ** 2
        outside = np.maximum(self.steps_low - steps, steps - self.steps_high).clip(0)
        beyond = (outside / self.steps_spread).max(axis=1)
        found: Array = np.hypot(np.sqrt(squares.mean(axis=1)), beyond)
        return found
