"""How far the readings of a plant depend on each other, so that drift is not seen in slow ones.

A sum of n readings that follow each other varies as one of n / R independent ones does. R, the
variance of the means of stretches of b readings in units of what independent ones would have, is
taken where it is largest over all b up to a part of training: a daily cycle has a small R over
whole days and a large one over hours. It is taken of all lines in the order in which they came, so
that machines that swing together count as what they are.

What training does not contain, nobody can see in it. Two things tell that it was too short: it is
worth fewer than `STRETCHES` independent readings, or the R of single series still grows where the
longest stretches are looked at.

Source:
    Geyer 1992, "Practical Markov chain Monte Carlo", Statistical Science 7(4): the variance of
    means of dependent readings; Flegal & Jones 2010, Annals of Statistics 38(2): its estimate by
    means of overlapping stretches.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeslm.core.drift import LEVELS
from edgeslm.core.numbers import History, Slot

STRETCHES: Final = 50
"""Independent readings that training must be worth, at least."""
GROWTH: Final = 1.5
"""Most by which R may still grow from a sixteenth of a series to a quarter."""
CAUTION: Final = 2.0
"""Factor on R, for it is estimated on few stretches."""
FEWEST: Final = 16
"""Readings of a series below which it says nothing of how it goes on."""
_LONGEST: Final = 5.0
"""Nats of surprise that count at most: one that is far out would hide all others."""
_STEP: Final = 1.4
"""Ratio of lengths that are looked at one after another."""

Array = NDArray[np.float64]


class Middle:
    """What is usual of a line's numbers.

    Args:
        histories: of each slot.
    """

    def __init__(self, histories: Sequence[History]) -> None:
        self._slots = [
            (i, Slot(one), float(np.interp(one.counts[-1] / 2, one.counts, one.values)))
            for i, one in enumerate(histories)
            if one.values
        ]

    def lean(self, values: Sequence[float]) -> float:
        """Return how far numbers lie above what is usual, nats; below is negative."""
        total = 0.0
        for i, slot, middle in self._slots:
            if (value := values[i]) == value:
                surprise = min(_LONGEST, slot.surprise(value))
                total += math.copysign(surprise, value - middle)
        return total


def worth(p_values: Sequence[float], leans: Sequence[float], series: Sequence[Hashable]) -> float:
    """Return how many independent lines one is worth to a test of p-values, in [0, 1]; 0: unknown.

    Args:
        p_values: of each training line's numbers, in time order, of statistics without it.
        leans: of each line, see `Middle`.
        series: what a line is of, a template of a source.
    """
    p, lean = np.asarray(p_values, np.float64), np.asarray(leans, np.float64)
    n = len(p)
    small = [(p <= level).astype(np.float64) for level in LEVELS]
    in_levels = max(inflation(one, most=n // 10) for one in small)
    if n < STRETCHES * max(in_levels, inflation(lean, most=n // 4)):
        return 0.0
    if not _has_settled(lean, series):
        return 0.0
    return 1 / (CAUTION * in_levels)


def inflation(values: Array, *, most: int) -> float:
    """Return the largest R over stretches of up to `most` readings, at least 1."""
    largest, length = 1.0, 1
    while length <= most:
        largest = max(largest, _inflation(values, length))
        length = max(length + 1, int(length * _STEP))
    return largest


def _has_settled(lean: Array, series: Sequence[Hashable]) -> bool:
    """Whether R grows no more where the longest stretches of each series are looked at."""
    places: dict[Hashable, list[int]] = defaultdict(list)
    for i, one in enumerate(series):
        places[one].append(i)
    shorter = longer = seen = power = 0.0
    for found in places.values():
        values = lean[found]
        weight = float(values.var()) * len(values)
        power += weight
        if len(values) < FEWEST or not weight:
            continue
        seen += weight
        by_part = [_inflation(values, max(1, len(values) // part)) for part in (4, 8, 16, 32, 64)]
        longer += weight * max(by_part[:3])
        shorter += weight * max(by_part[2:])
    return seen >= power / 2 and longer <= GROWTH * shorter


def _inflation(values: Array, length: int) -> float:
    """Return R over stretches of `length` readings; 1 where nothing varies."""
    n, centred = len(values), values - values.mean()
    power = float(centred @ centred) / n
    if not power:
        return 1.0
    sums = np.concatenate([[0.0], np.cumsum(centred)])
    means = sums[length:] - sums[:-length]
    # The mean of all is that of these, too: what they vary less for it is given back.
    return float(means @ means) / len(means) / length / power / (1 - length / n)
