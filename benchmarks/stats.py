"""Few numbers from many."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

from benchmarks.figures import Measured


def paired(ours: Sequence[float], rivals: Sequence[float]) -> Measured:
    """Medians of paired rounds; the ratio is the median of the rounds' ratios.

    What disturbs a round disturbs both who took turns in it, and leaves with their quotient.

    Args:
        ours: one value a round, in the figure's unit.
        rivals: the rival's value of the same round.
    """
    ratios = [a / b for a, b in zip(ours, rivals, strict=True)]
    return Measured(median(ours), median(rivals), (min(ratios), max(ratios)), median(ratios))


def above(ours: Sequence[float], floors: Sequence[float]) -> Measured:
    """As `paired`, for a figure whose bound is on the difference."""
    over = [a - b for a, b in zip(ours, floors, strict=True)]
    return Measured(median(ours), median(floors), (min(over), max(over)), median(over))


def repeated(ours: Sequence[float], rivals: Sequence[float]) -> Measured:
    """Medians of rounds, for a figure whose bound is on the value itself."""
    return Measured(median(ours), median(rivals), (min(ours), max(ours)))


def averaged(ours: Sequence[float], rivals: Sequence[float]) -> Measured:
    """Means over seeds or files."""
    return Measured(fmean(ours), fmean(rivals), (min(ours), max(ours)))


def once(ours: float, rival: float) -> Measured:
    """A value that has no spread: the same data give the same number."""
    return Measured(ours, rival, (ours, ours))
