"""Windows over the readings of one series: what a source's slots of one template held lately.

A reading alone may be usual while ten of them are not: a mean that has crept up, two slots that no
longer move together. So the last reading and the means over short and long windows are held, all
together, against those of training, by Mahalanobis distance: their levels, and how they differ.
A sensor that is stuck, or rattles, keeps its level: so the mean of the steps, how far a slot went
from one reading to the next, adds to that as far as it leaves the range that it had in training.

Readings are brought to the scale of training, and bounded to little beyond its range: one wild
reading, which the number channel sees by itself, must not colour a whole window.
"""

from __future__ import annotations

import math
import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeslm.core.calibration import Tail

MAX_READINGS: Final = 240
"""Longest window."""
MAX_SLOTS: Final = 12
"""Most slots of a line that windows look at: the first that varied."""
MAX_SERIES: Final = 1024
"""Series whose readings are kept, the most recent: at 30 readings of 8 slots 8 MB."""
MAX_GAUGES: Final = 4096
"""Most series of one bundle."""
WILD: Final = 30.0
"""Standard deviations beyond those bounds from which on a reading is a fault by itself: judged with
the readings before it, and not kept, since what comes after it must not be blamed for it."""
MARGIN: Final = 5.0
"""Standard deviations beyond the range of training to which readings are bounded."""
LATE: Final = 8
"""Readings in a row older than one before them, after which it is the clock that was set."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class View:
    """Means over some windows, and how they lay in training.

    Args:
        windows: lengths, readings, ascending; each is one of the series' own.
        mean: of the means, window by window, in units of the slots' scale.
        root: float64 [n, n] for n means: |(x - mean) @ root| is the Mahalanobis distance.
        steps_low: lowest usual mean of each slot's steps over the longest of these windows, in
            scales: that of training, and its standard deviation below.
        steps_high: highest, likewise.
        steps_spread: the standard deviation, > 0.
    """

    windows: tuple[int, ...]
    mean: tuple[float, ...]
    root: tuple[tuple[float, ...], ...]
    steps_low: tuple[float, ...]
    steps_high: tuple[float, ...]
    steps_spread: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Usual:
    """What one series was like in training.

    Args:
        slots: indices of the line's slots that are looked at.
        centre: mean of each.
        scale: standard deviation of each, > 0.
        low: lowest value of each, in scales from the centre.
        high: highest.
        spread: standard deviation of the mean over the longest window of each, in scales, > 0.
        pause_s: a longer time between two readings begins its windows anew; None: none does.
        views: from that over the shortest windows to that over the longest; as many as every other
            series of a bundle has. Of those whose windows are full, the last one speaks.
    """

    slots: tuple[int, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    spread: tuple[float, ...]
    pause_s: float | None
    views: tuple[View, ...]


class _Lens:
    """A view, ready to be looked through: by products alone, which cost little where all is small.

    Every row ends with a one, by which `root` takes the means of training from those at hand.
    """

    __slots__ = ("kernel", "longest", "longest_at", "root", "scale", "steps", "usual")

    def __init__(self, view: View, rows: int) -> None:
        self.longest = view.windows[-1]
        self.kernel = np.zeros((len(view.windows), rows))
        for row, length in zip(self.kernel, view.windows, strict=True):
            row[-length:] = 1 / length
        size, windows = len(view.mean), len(view.windows)
        width = size // windows
        root = np.array(view.root)
        padded = np.zeros((windows, 2 * width + 1, size))  # steps have no part in it
        padded[:, :width] = root.reshape(windows, -1, size)
        padded[0, -1] = -(np.array(view.mean) @ root)
        self.root = padded.reshape(-1, size)
        self.longest_at = (windows - 1) * (2 * width + 1)  # of its means among all
        self.scale = 1 / math.sqrt(size)
        self.usual = view.mean[-width:]  # over the longest window
        self.steps = tuple(zip(view.steps_low, view.steps_high, view.steps_spread, strict=True))


class Gauge:
    """One series' training, ready to be held against; immutable."""

    __slots__ = (
        "_bounds",
        "_numbers",
        "_spread",
        "_still",
        "_views",
        "longest",
        "pause_s",
        "width",
    )

    def __init__(self, usual: Usual) -> None:
        self.width = len(usual.slots)
        self.pause_s = usual.pause_s
        self._spread = usual.spread
        self._still = [0.0] * self.width
        self._numbers = struct.Struct(f"{2 * self.width}d")
        self.longest = longest = max(view.windows[-1] for view in usual.views)
        self._bounds = tuple(
            (slot, centre, scale, low - MARGIN, high + MARGIN)
            for slot, centre, scale, low, high in zip(
                usual.slots, usual.centre, usual.scale, usual.low, usual.high, strict=True
            )
        )
        self._views = tuple(_Lens(view, longest) for view in usual.views)

    def reading(
        self, values: Sequence[float], before: Sequence[float] | None, *, first: bool
    ) -> tuple[list[float], bool]:
        """Return a line's `values` in scales from their centres, bounded, and then their steps.

        Where one is NaN, it is what the slot held `before`, or its centre. Also returns whether one
        is wild.

        Args:
            values: of all slots of the line.
            before: the reading before it, as returned; None: there was none.
            first: it begins its windows, and no step leads to it.
        """
        found = []
        wild = False
        for i, (slot, centre, scale, low, high) in enumerate(self._bounds):
            value = (values[slot] - centre) / scale
            if not low <= value <= high:  # or NaN
                if value != value:  # noqa: PLR0124 -- the quickest test for it
                    value = 0.0 if before is None else before[i]
                elif value > high + WILD or value < low - WILD:
                    wild = True
                value = low if value < low else min(value, high)
            found.append(value)
        if first or before is None:
            return found + self._still, wild
        return found + [abs(a - b) for a, b in zip(found, before, strict=False)], wild

    def write(self, reading: Sequence[float], rows: Array, at: int) -> None:
        """Write what `reading` returned to one of a trace's rows, in both halves.

        Args:
            reading: in scales.
            rows: float64 [2 * longest, 2 * width + 1], in one piece.
            at: row of the first half.
        """
        # By `struct`, since numpy takes twice as long to find that a list holds numbers.
        raw, row = rows.data, rows.strides[0]
        self._numbers.pack_into(raw, at * row, *reading)
        self._numbers.pack_into(raw, (at + self.longest) * row, *reading)

    def worst(self, view: int, means: Array, steps: int | None) -> Worst:
        """Return what is oddest over the longest window of a view, by what `look` returned.

        That is a mean of steps where one left its range, else the level that is farthest from its
        usual ones, which are those within two standard deviations.
        """
        lens = self._views[view]
        if steps is not None:
            slot, _, scale, _, _ = self._bounds[steps]
            low, high, _ = lens.steps[steps]
            mean = float(means[lens.longest_at + self.width + steps])
            return Worst(slot, scale * mean, scale * low, scale * high, lens.longest, steps=True)
        levels = means[lens.longest_at :].tolist()
        odd = [
            abs(mean - usual) / spread
            for mean, usual, spread in zip(levels, lens.usual, self._spread, strict=False)
        ]
        index = odd.index(max(odd))
        slot, centre, scale, _, _ = self._bounds[index]
        about = 2 * self._spread[index]
        mean, low, high = levels[index], lens.usual[index] - about, lens.usual[index] + about
        at = centre + scale * mean, centre + scale * low, centre + scale * high
        return Worst(slot, *at, lens.longest, steps=False)

    def view(self, count: int) -> int | None:
        """Return the view over the longest windows that so many readings fill; None: none is."""
        if count >= self.longest:  # nearly always
            return len(self._views) - 1
        found = None
        for index, view in enumerate(self._views):
            if view.longest > count:
                break
            found = index
        return found

    def look(self, view: int, rows: Array) -> tuple[float, Array, int | None]:
        """Return what a view shows of readings.

        That is their distance, >= 0; their means, window by window; and the place of the slot whose
        steps are farthest beyond their range, None where none are.

        Args:
            view: its index.
            rows: float64 [longest, 2 * width + 1], as `reading` returns them and a one, the oldest
                first; those that no window reaches are not looked at.
        """
        lens = self._views[view]
        # Of arrays as small as these, `dot` costs half of what `@` does.
        means = lens.kernel.dot(rows).ravel()
        spread = means.dot(lens.root)
        beyond, which = 0.0, None
        steps = means[lens.longest_at + self.width : -1].tolist()
        for i, mean in enumerate(steps):
            low, high, unit = lens.steps[i]
            if not low <= mean <= high:
                by = (low - mean if mean < low else mean - high) / unit
                if by > beyond:
                    beyond, which = by, i
        return math.hypot(lens.scale * math.sqrt(spread.dot(spread)), beyond), means, which


class Worst(NamedTuple):
    """The slot whose mean over a window is farthest from its usual ones: of readings, or steps."""

    slot: int
    mean: float
    low: float
    high: float
    readings: int
    steps: bool


class _Trace:
    """The last readings of one series, twice over, so that any window lies in one piece."""

    __slots__ = ("count", "last", "late", "means", "rows", "score", "steps", "time", "values",
                 "view")  # fmt: skip

    def __init__(self, gauge: Gauge) -> None:
        self.rows = np.zeros((2 * gauge.longest, 2 * gauge.width + 1))
        self.rows[:, -1] = 1.0
        self.count = 0
        self.late = 0
        self.view: int | None = None
        self.means = self.rows[0]  # and what that showed, but the distance
        self.steps: int | None = None
        self.last: list[float] | None = None
        self.values: Sequence[float] = ()
        self.time: float | None = None
        self.score: float | None = None


class Series:
    """The readings of every series of one stream, the most recent series only.

    Args:
        gauges: by source and template, those of the series that have one.
        tails: of each view's distance, over all series.
        limit: most series kept.

    Attributes:
        counts: readings that were `late` (older than one before them), `repeated` (the same time
            and numbers as the one before) or `wild` (see `WILD`); `gaps` in time; series `dropped`
            for others.
    """

    def __init__(
        self,
        gauges: Mapping[tuple[str, int], Gauge],
        tails: Sequence[Tail],
        *,
        limit: int = MAX_SERIES,
    ) -> None:
        self._gauges = gauges
        self._tails = tails
        self._limit = limit
        self._traces: OrderedDict[tuple[str, int], _Trace] = OrderedDict()
        self.counts = {"late": 0, "repeated": 0, "wild": 0, "gaps": 0, "series_dropped": 0}

    def __len__(self) -> int:
        return len(self._traces)

    def score(
        self, source: str, template: int, values: Sequence[float], time: float | None
    ) -> float | None:
        """Take a reading in; return how unusual its windows are, nats, >= 0.

        A reading that comes late, or again, leaves them as they stand. None where windows have
        nothing to say: of a series without a gauge, while they fill, or of a reading that is late.
        """
        key = source, template
        gauge = self._gauges.get(key)
        if gauge is None:
            return None
        trace = self._trace(key, gauge)
        if time is not None and trace.time is not None:
            since = time - trace.time
            if since < 0 and trace.late < LATE - 1:
                trace.late += 1
                self.counts["late"] += 1
                return None  # the windows stand as they are, and it is in none
            if since == 0 and trace.values == values:
                self.counts["repeated"] += 1
                return trace.score
            # Where the clock was set back, readings go on as before.
            if gauge.pause_s is not None and since > gauge.pause_s:
                self.counts["gaps"] += 1
                trace.count, trace.score = 0, None
        trace.late = 0
        trace.time = time
        trace.values = values
        longest = gauge.longest
        at = trace.count % longest
        reading, wild = gauge.reading(values, trace.last, first=not trace.count)
        gauge.write(reading, trace.rows, at)
        trace.view = gauge.view(trace.count + 1)
        score: float | None = None
        if trace.view is not None:
            rows = trace.rows[at + 1 : at + 1 + longest]  # the oldest first
            distance, trace.means, trace.steps = gauge.look(trace.view, rows)
            score = -self._tails[trace.view].log_p_value(distance)
        if wild:  # judged, and the next reading takes its place
            self.counts["wild"] += 1
            return score
        trace.count += 1
        trace.last = reading
        trace.score = score
        return score

    def worst(self, source: str, template: int) -> Worst:
        """Return the oddest slot of a series that has just been scored, and was not None."""
        key = source, template
        gauge, trace = self._gauges[key], self._traces[key]
        assert trace.view is not None  # noqa: S101 -- it was scored
        return gauge.worst(trace.view, trace.means, trace.steps)

    def _trace(self, key: tuple[str, int], gauge: Gauge) -> _Trace:
        trace = self._traces.get(key)
        if trace is not None:
            self._traces.move_to_end(key)
            return trace
        if len(self._traces) >= self._limit:
            self._traces.popitem(last=False)
            self.counts["series_dropped"] += 1
        trace = self._traces[key] = _Trace(gauge)
        return trace
