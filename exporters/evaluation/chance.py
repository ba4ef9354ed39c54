"""What chance does to a figure: intervals around it, and tests of two.

All of it takes rows as independent. Those of a stream are not: neighbours resemble each other,
so that what is said here of such rows is too sure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE: Final = 0.95
"""Of every interval."""
RESAMPLES: Final = 2000
LEAST: Final = 10
"""Rows of either kind that a comparison of AUROCs needs. Between scores that are equally good it
tells a difference at .05 in up to 80 % of all cases from one positive, 13 % from 5, 8 % from 10."""
SEED: Final = 0
"""Of every resampling: the same rows give the same interval."""
_Z: Final = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_HALVINGS: Final = 60  # of a bracket in [0, 1]: to the last bit
_BLOCK: Final = 1 << 22  # indices that are drawn at a time
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Shape = Literal["percentile", "basic"]

METHODS: Final = {
    "wilson": "Wilson 1927, J. Am. Stat. Assoc. 22:209: score interval of a share",
    "newcombe": "Newcombe 2006, Stat. Med. 25:559, method 5: score interval of an AUROC",
    "f_star": (
        "Hand, Christen & Kirielle 2021, Mach. Learn. 110:451: F1 is 2 s / (1 + s), where of the "
        "rows that are of a label or said to be the share s are both; Wilson's interval of that"
    ),
    "percentile": f"Efron & Tibshirani 1993, ch. 13: bootstrap, {RESAMPLES} resamples of rows",
    "basic": f"Davison & Hinkley 1997, eq. 5.6: basic bootstrap, {RESAMPLES} resamples of rows",
    "paired": (
        f"Efron & Tibshirani 1993, ch. 13 and 15: bootstrap of the difference, {RESAMPLES} "
        "resamples of the same rows of both"
    ),
    "mcnemar": (
        "McNemar 1947, Psychometrika 12:153: exact, of the rows that one alone gets right; the "
        "interval is Newcombe 1998, Stat. Med. 17:2635, method 10"
    ),
    "delong": "DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44:837: of paired AUROCs",
    "binomial": "Clopper & Pearson 1934, Biometrika 26:404: exact tails of the binomial",
}
"""Name -> where it comes from; each figure names the one that it was made with."""


class Interval(NamedTuple):
    """Between `low` and `high`, by one of `METHODS`."""

    low: float
    high: float
    method: str


class Difference(NamedTuple):
    """Second minus first, on the same rows."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, of a difference at least as large though there is none."""
    method: str


def wilson(hits: int, of: int) -> Interval:
    """Return the interval of a share; `of` >= 1."""
    share, z2 = hits / of, _Z * _Z
    centre = share + z2 / (2 * of)
    reach = _Z * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    low, high = (centre - reach) / (1 + z2 / of), (centre + reach) / (1 + z2 / of)
    # Of none and of all one end is exact; rounding must not leave [0, 1] nor the share outside.
    return Interval(min(share, max(0.0, low)), max(share, min(1.0, high)), "wilson")


def f1(both: int, either: int) -> Interval:
    """Return the interval of an F1, also of one that is 0 or 1.

    Args:
        both: rows that are of the label and said to be.
        either: rows that are, or said to be, at least one.
    """
    low, high, _ = wilson(both, either)
    return Interval(2 * low / (1 + low), 2 * high / (1 + high), "f_star")


def auroc(scores: Floats, positive: Bools) -> float:
    """Return the chance that a positive scores above a negative, ties counting half.

    Args:
        scores: finite.
        positive: at least one is, and at least one is not.
    """
    m, n = int(positive.sum()), int((~positive).sum())
    return (float(_midranks(scores)[positive].sum()) - m * (m + 1) / 2) / (m * n)


def newcombe(area: float, positives: int, negatives: int) -> Interval:
    """Return the interval of an AUROC, also of one that is 0 or 1."""

    def beyond(theta: float) -> bool:
        return abs(theta - area) > _Z * math.sqrt(_variance(theta, positives, negatives))

    return Interval(_edge(0.0, area, beyond), _edge(1.0, area, beyond), "newcombe")


def _variance(theta: float, m: int, n: int) -> float:
    """Variance of an AUROC: Hanley & McNeil 1982 with both numbers replaced by their mean."""
    more = (m + n) / 2 - 1
    part = (1 - theta) / (2 - theta) + theta / (1 + theta)
    return theta * (1 - theta) * (1 + more * part) / (m * n)


def _edge(outside: float, inside: float, beyond: Callable[[float], bool]) -> float:
    """Return where `beyond` begins between a point inside and the end of the scale."""
    for _ in range(_HALVINGS):
        middle = (outside + inside) / 2
        if beyond(middle):
            outside = middle
        else:
            inside = middle
    return outside


def delong(first: Floats, second: Floats, positive: Bools) -> Difference:
    """Compare the AUROC of two scores of the same rows.

    Args:
        first: finite.
        second: finite.
        positive: at least `LEAST` are, and as many are not: of fewer the variance of so few ranks
            is too small, and chance is told as a difference.
    """
    areas, variance = np.zeros(2), 0.0
    of_positives, of_negatives = [], []
    m, n = int(positive.sum()), int((~positive).sum())
    for i, scores in enumerate((first, second)):
        ranks = _midranks(scores)
        of_positives.append((ranks[positive] - _midranks(scores[positive])) / n)
        of_negatives.append(1 - (ranks[~positive] - _midranks(scores[~positive])) / m)
        areas[i] = of_positives[-1].mean()
    for parts, count in ((of_positives, m), (of_negatives, n)):
        if count > 1:
            variance += float((parts[1] - parts[0]).var(ddof=1)) / count
    value, deviation = float(areas[1] - areas[0]), math.sqrt(variance)
    reach = _Z * deviation
    p = 2 * NormalDist().cdf(-abs(value) / deviation) if deviation else float(not value)
    return Difference(value, max(-1.0, value - reach), min(1.0, value + reach), p, "delong")


def _midranks(values: Floats) -> Floats:
    """Ranks from 1; those that tie share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[place]
    return ranks


def mcnemar(first: Bools, second: Bools) -> Difference:
    """Compare the shares of two on the same rows, at least one."""
    rows = len(first)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    lost, won = int((first & ~second).sum()), int((~first & second).sum())
    before, after = (both + lost) / rows, (both + won) / rows
    low1, high1, _ = wilson(both + lost, rows)
    low2, high2, _ = wilson(both + won, rows)
    phi = _phi(both, lost, won, neither)

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))

    value = after - before
    return Difference(
        value,
        value - reach(after - low2, high1 - before),
        value + reach(high2 - after, before - low1),
        at_most(min(lost, won), lost + won, 0.5, sides=2),
        "mcnemar",
    )


def _phi(both: int, first: int, second: int, neither: int) -> float:
    """Correlation of two verdicts, corrected for continuity as method 10 has it."""
    product = (both + first) * (second + neither) * (both + second) * (first + neither)
    if product == 0:
        return 0.0
    rows = both + first + second + neither
    excess = both * neither - first * second
    return (max(excess - rows / 2, 0.0) if excess > 0 else excess) / math.sqrt(product)


def at_most(count: int, of: int, chance: float, *, sides: int = 1) -> float:
    """Return how likely at most `count` of `of` are, each with `chance`; exact.

    With two sides it is doubled, as befits a chance of one half.
    """
    from scipy.stats import binom  # noqa: PLC0415 -- takes longer to import than `--help` may

    return min(1.0, sides * float(binom.cdf(count, of, chance)))


def at_least(count: int, of: int, chance: float) -> float:
    """Return how likely `count` or more of `of` are, each with `chance`; exact."""
    return at_most(of - count, of, 1 - chance)


Resampled = Callable[[Indices], float]
"""Rows, by number and some of them more than once -> a figure; nan where they cannot tell."""


def bootstrap(figure: Resampled, rows: int, *, shape: Shape = "percentile") -> Interval | None:
    """Return the interval of a figure over `rows` rows; None where resamples cannot tell.

    `basic` is for a figure that chance moves one way: resampling moves it there once more.
    """
    found = _resample(figure, rows)
    if found is None:
        return None
    low, high = _middle(found)
    if shape == "basic":
        value = figure(np.arange(rows))
        low, high = 2 * value - high, 2 * value - low
    return Interval(low, high, shape)


def paired(first: Resampled, second: Resampled, rows: int) -> Difference | None:
    """Compare a figure of two on the same rows; None where resamples cannot tell."""
    found = _resample(lambda i: second(i) - first(i), rows)
    if found is None:
        return None
    whole = np.arange(rows)
    below, above = int((found <= 0).sum()), int((found >= 0).sum())
    p = min(1.0, 2 * (min(below, above) + 1) / (len(found) + 1))
    return Difference(second(whole) - first(whole), *_middle(found), p, "paired")


def _resample(figure: Resampled, rows: int) -> Floats | None:
    random = np.random.default_rng(SEED)
    found: list[float] = []
    together = max(1, _BLOCK // rows)
    while len(found) < RESAMPLES:
        draws = random.integers(rows, size=(min(together, RESAMPLES - len(found)), rows))
        found += map(figure, draws)
    told = np.array(found)
    told = told[~np.isnan(told)]
    return told if len(told) > RESAMPLES // 2 else None


def _middle(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
