"""How surprising a number is, given the numbers its slot held before.

The surprise is `-ln p`, in nats, of a two-sided rank test against the slot's history, with three
corrections that equipment needs:

- A number never seen between the seen ones is judged by Good and Turing's estimate of the chance
  of something new: a status code 403 among 200 and 404 stands out, one more temperature does not.
- Readings that follow each other are not independent. A history counts as `effective` readings,
  n (1 - r) / (1 + r) with r its autocorrelation at lag one. A counter or a room that warms up
  has few, so its next value beyond the range surprises nobody.
- Beyond the range the surprise grows with the logarithm of the distance.

Several slots of a line combine by the harmonic mean of their p-values (Wilson, PNAS 2019), which
holds for dependent tests.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

KNOTS: Final = 64
"""Most distinct values kept of one history."""
LIMIT: Final = 60.0
"""Largest surprise of one slot, nats: e^60 is still far from overflow."""
TAIL: Final = 1.5
"""Nats per e-fold of distance beyond the range, at a history of many effective readings."""
FAR: Final = 10.0
"""Standard deviations: a slot that always held finite numbers and now holds none counts as a
number this far beyond its range."""
NAMED: Final = 3
"""Slots that are named as the cause of an alarm, at most."""
MIN_NAMED: Final = 1.0
"""Surprise below which a slot is not named beside another one, nats."""
SATURATION: Final = 40.0
"""Effective readings from which a history is trusted in full."""


@dataclass(frozen=True, slots=True)
class History:
    """What one slot held in training.

    Args:
        values: distinct finite numbers, ascending, at most `KNOTS`.
        counts: how many readings were at most the value of the same index; ascending.
        once: readings whose value occurred once; all of them where values were dropped.
        others: readings that were no finite number.
        effective: independent readings this history is worth, > 0, at most the last count.
        scale: standard deviation, > 0.
    """

    values: tuple[float, ...]
    counts: tuple[int, ...]
    once: int
    others: int
    effective: float
    scale: float


class Slot:
    """The history of one slot, ready to be asked; immutable."""

    __slots__ = (
        "_at",
        "_between",
        "_beyond",
        "_high",
        "_low",
        "_no_number",
        "_scale",
        "_slope",
        "_values",
        "varies",
    )

    def __init__(self, history: History) -> None:
        n, effective = history.counts[-1] if history.counts else 0, history.effective
        total = n + history.others
        self.varies = len(history.values) > 1 or history.others > 0
        self._values = history.values
        self._no_number = math.log((total + 2) / (history.others + 1))
        if not history.others:
            self._no_number += TAIL * min(1.0, n / SATURATION) * math.log1p(FAR)
        # Nothing is known of a slot that mostly holds names, or held nothing.
        if n == 0 or history.others > n:
            self._no_number = 0.0
            self._values = ()
        new = max(0.0, math.log((n + 1) / (history.once + 1))) if n else 0.0
        new *= min(1.0, effective / SATURATION)

        def rank(readings: int) -> float:
            p = 2 * (readings / n * effective + 1) / (effective + 2)
            return max(0.0, -math.log(min(1.0, p)))

        below = (0, *history.counts)  # readings up to the value before
        self._at = [rank(min(c, n - b)) for b, c in zip(below, history.counts, strict=False)]
        self._between = [max(new, rank(min(c, n - c))) for c in below] if n else [0.0]
        self._beyond = max(new, rank(0)) if n else 0.0
        self._scale = history.scale
        self._slope = TAIL * min(1.0, effective / SATURATION)
        self._low = history.values[0] if history.values else 0.0
        self._high = history.values[-1] if history.values else 0.0

    def surprise(self, value: float) -> float:
        """Return the surprise of `value` (NaN: no number), nats in [0, `LIMIT`]."""
        if value != value:  # noqa: PLR0124 -- the quickest test for NaN
            return self._no_number
        values = self._values
        if not values:
            return 0.0
        if self._low <= value <= self._high:
            i = bisect_left(values, value)
            return self._at[i] if values[i] == value else self._between[i]
        gap = self._low - value if value < self._low else value - self._high
        return min(LIMIT, self._beyond + self._slope * math.log1p(gap / self._scale))

    @property
    def seen(self) -> tuple[float, float]:
        """The least and the greatest number of training; reversed where there was none."""
        return (self._low, self._high) if self._values else (math.inf, -math.inf)

    @property
    def expected(self) -> str:
        """The range seen in training, for people."""
        if not self._values:
            return "no number"
        return f"{self._low:g} to {self._high:g}" if self._low < self._high else f"{self._low:g}"


class Line:
    """The histories of all slots of a template, ready to be asked; immutable."""

    __slots__ = ("_slots", "_varying", "seen")

    def __init__(self, histories: Sequence[History]) -> None:
        self._slots = tuple(Slot(h) for h in histories)
        self.seen = tuple(slot.seen for slot in self._slots)
        # A slot that never varied is no test until it does.
        self._varying = max(1, sum(slot.varies for slot in self._slots))

    def score(self, values: Sequence[float]) -> float:
        """Return the surprise of a line with these numbers (NaN: none), nats in [0, `LIMIT`]."""
        if len(values) == 1:
            return self._slots[0].surprise(values[0])
        total = 0.0
        for slot, value in zip(self._slots, values, strict=True):
            total += math.expm1(slot.surprise(value))
        return min(LIMIT, math.log1p(total / self._varying))

    def score_without(self, values: Sequence[float], quiet: Sequence[bool]) -> float:
        """Return the surprise of a line of which some slots are known to be in order."""
        total = 0.0
        for slot, value, known in zip(self._slots, values, quiet, strict=True):
            if not known:
                total += math.expm1(slot.surprise(value))
        return min(LIMIT, math.log1p(total / self._varying))

    def worst(self, values: Sequence[float], quiet: Sequence[bool] = ()) -> list[tuple[int, str]]:
        """Return the most surprising slot and the range it held in training, and others like it.

        At most `NAMED`, the most surprising first; the others surprise half as much or more.

        Args:
            values: of the slots; NaN where there is none.
            quiet: slots that are known to be in order; none: no slot is.
        """
        surprises = [
            0.0 if known else slot.surprise(v)
            for slot, v, known in zip(
                self._slots, values, quiet or [False] * len(values), strict=True
            )
        ]
        order = sorted(range(len(surprises)), key=lambda i: -surprises[i])[:NAMED]
        least = surprises[order[0]] / 2
        named = [order[0], *(i for i in order[1:] if surprises[i] >= max(least, MIN_NAMED))]
        return [(i, self._slots[i].expected) for i in named]

    def beyond(self, values: Sequence[float]) -> tuple[int, str] | None:
        """Return the slot that is farthest out of the range of training, in widths of that range.

        And the range; None: all are within theirs. What `worst` weighs takes several times as long.
        """
        worst, most = -1, 0.0
        for slot, (low, high) in enumerate(self.seen):
            value = values[slot]
            if low <= value <= high or not (gap := max(low - value, value - high)) > 0:
                continue
            wide = gap / (high - low) if high > low else math.inf
            if wide > most:
                worst, most = slot, wide
        return None if worst < 0 else (worst, self._slots[worst].expected)


def effective_readings(values: NDArray[np.float64]) -> float:
    """Return how many independent readings `values` (in time order) are worth, in [1, n]."""
    n = len(values)
    centred = values - values.mean()
    if n < 3 or not (power := float(centred @ centred)):  # noqa: PLR2004
        return float(n)
    r = min(max(float(centred[1:] @ centred[:-1]) / power, 0.0), 0.999)
    return max(1.0, n * (1 - r) / (1 + r))


def history(values: Sequence[float], *, effective: float | None = None) -> History:
    """Return the history of one slot.

    Args:
        values: its readings in time order; NaN where it held no finite number.
        effective: independent readings they are worth; estimated from their order if None.
    """
    all_values = np.asarray(values, np.float64)
    x = all_values[np.isfinite(all_values)]
    others = len(all_values) - len(x)
    if not len(x):
        return History((), (), 0, others, 1.0, 1.0)
    tamed = _tamed(x)
    distinct, counts = np.unique(x, return_counts=True)
    once = int((counts == 1).sum())
    cumulative = np.cumsum(counts)
    if len(distinct) > KNOTS:
        # The tails matter: a quarter of the knots on each end, the rest evenly between.
        quarter = KNOTS // 4
        middle = np.linspace(quarter, len(distinct) - quarter - 1, KNOTS - 2 * quarter)
        ends = np.arange(quarter), np.arange(len(distinct) - quarter, len(distinct))
        keep = np.unique(np.concatenate([*ends, middle.round().astype(int)]))
        distinct, cumulative = distinct[keep], cumulative[keep]
        once = len(x)  # a value that was dropped here must not count as never seen
    spread = float(tamed.std())
    return History(
        values=tuple(distinct.tolist()),
        counts=tuple(cumulative.tolist()),
        once=once,
        others=others,
        effective=effective_readings(tamed) if effective is None else effective,
        # A slot that never changed has no scale of its own: a tenth of its value will do.
        scale=spread if spread > 0 else max(abs(float(tamed[0])) / 10, 1e-9),
    )


def pooled(groups: Sequence[Sequence[float]]) -> History:
    """Return the history of one slot over several sources, for a source not among them.

    Readings of one source resemble each other: where sources differ in level, many readings of
    few of them say little of the next one. By the design effect of clustered samples,
    1 + (m - 1) rho, with rho the share of the variance that lies between the sources.

    Args:
        groups: each source's readings in time order, NaN where there was no finite number.
    """
    arrays = [_tamed(np.asarray(group, np.float64)) for group in groups]
    arrays = [x[np.isfinite(x)] for x in arrays]
    arrays = [x for x in arrays if len(x)]
    total = sum(effective_readings(x) for x in arrays)
    if len(arrays) > 1:  # a single source says nothing of how sources differ
        between = float(np.var([x.mean() for x in arrays]))
        within = float(np.mean([x.var() for x in arrays]))
        if between > 0:
            rho = between / (between + within)
            total /= 1 + max(0.0, total / len(arrays) - 1) * rho
    return history([value for group in groups for value in group], effective=max(1.0, total))


def _tamed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `values` so bounded that sums of their squares stay finite."""
    return values.clip(-1e150, 1e150)
