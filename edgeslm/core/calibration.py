"""From scores to p-values by conformal calibration, and several p-values to one.

A p-value is the share of normal lines that would score at least as high. Scores inside the range
of the calibration scores get their rank; beyond it the tail is taken as exponential, with the mean
excess of the highest scores over the one below them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import RejectedError

EXACT: Final = 256
"""Highest calibration scores that are all kept; below them ranks are kept geometrically."""
TEXT: Final = "text"
NUMBER: Final = "number"
WINDOW: Final = "window"
SESSION: Final = "session"
TEXT_SHARE: Final = 0.9
SHARES: Final = {TEXT: TEXT_SHARE, NUMBER: 1 - TEXT_SHARE, WINDOW: 0.09, SESSION: 0.1}
"""Weights by which channels share the alarm budget. A new template is far out and rare, while among
a line's numbers one is always near the edge of its range."""
LOG_BESIDE: Final = math.log(0.001)
"""Of the number channel where a window speaks: that holds the reading itself, too, and only what is
far out is left to be seen."""
MIN_P: Final = 1e-300
"""Smallest p-value that is reported; scores go on growing beyond it."""
MIN_DECAY: Final = 1e-6
"""Smallest decay of a tail that is believed."""
LOG_MIN_P: Final = math.log(MIN_P)


class BudgetError(RejectedError):
    """The calibration lines are too few for the alarm budget."""

    code = "calibration.budget"

    def __init__(self, *, budget: float, lines: int) -> None:
        self.budget = budget
        self.lines = lines
        self.needed = lines_needed(budget)
        super().__init__(
            f"an alarm budget of {budget:g} needs at least {self.needed} normal lines to calibrate"
            f" on, and there are {lines}; add lines"
            + (f", or allow a budget of {least_share(lines):g}" if lines > 1 else "")
        )


def lines_needed(budget: float) -> int:
    """Return the fewest calibration lines with which a line can be in the rarest `budget`."""
    return math.ceil(1 / budget)


def least_share(cases: int) -> float:
    """Return the least share, of two digits, that so many cases can tell: one of them or more."""
    exact = 1 / cases
    digits = 10.0 ** (1 - math.floor(math.log10(exact)))
    return math.ceil(exact * digits) / digits


@dataclass(frozen=True, slots=True)
class Tail:
    """Distribution of a score over normal lines.

    Args:
        scores: knots, strictly ascending, at least one.
        log_p: ln of the p-value at each knot, descending, at most 0.
        log_p_above: ln of the p-value just above each knot, never above `log_p` of the same
            knot nor below that of the next: a score that many lines share is a step.
        decay: scores per e-fold of p beyond the last knot, > 0.
    """

    scores: tuple[float, ...]
    log_p: tuple[float, ...]
    log_p_above: tuple[float, ...]
    decay: float

    def p_value(self, score: float) -> float:
        """Return the p-value of `score`, in (0, 1]."""
        return _p_value(self.log_p_value(score))

    def log_p_value(self, score: float) -> float:
        """Return ln of the p-value of `score`, finite and at most 0; it never rises with score.

        Between knots ln p is interpolated, so that it ranks as finely as the score does.
        """
        scores = self.scores
        i = bisect_left(scores, score)
        if i == len(scores):
            return self.log_p_above[-1] - (score - scores[-1]) / self.decay
        if i == 0 or scores[i] == score:
            return self.log_p[i] if scores[i] == score else 0.0
        low, above = scores[i - 1], self.log_p_above[i - 1]
        return above + (self.log_p[i] - above) * (score - low) / (scores[i] - low)


def tail(scores: Sequence[float] | NDArray[np.float64]) -> Tail:
    """Return the distribution of `scores`, the finite scores of at least one normal line."""
    distinct, counts = np.unique(np.asarray(scores, np.float64), return_counts=True)
    n = int(counts.sum())
    at_least = np.cumsum(counts[::-1])[::-1]  # how many scored at least this
    # A new line beats k - 1 of n others with probability k / (n + 1). Where lines tie, it may be
    # one more of them, and counts itself.
    at = (at_least + (counts > 1)) / (n + 1)
    at[0] = 1.0
    above = np.append(at_least[1:] + 1, 1) / (n + 1)
    top = distinct[-min(len(distinct), max(2, n // 20)) :]
    decay = float((top[1:] - top[0]).mean()) if len(top) > 1 else 0.0
    keep = len(distinct) - 1 - _ranks(len(distinct))
    return Tail(
        scores=tuple(distinct[keep].tolist()),
        log_p=tuple(np.log(at[keep]).tolist()),
        log_p_above=tuple(np.log(above[keep]).tolist()),
        # Lines that all score the same say nothing of a tail; nor does one that is a mere ulp.
        decay=decay if decay > MIN_DECAY else 1.0,
    )


def _ranks(n: int) -> NDArray[np.int64]:
    """Ranks from the top that are kept of `n`: descending, with 0 and n - 1 among them."""
    exact = np.arange(min(n, EXACT))
    coarse = np.geomspace(EXACT, n - 1, EXACT).astype(np.int64) if n > EXACT else exact
    return np.unique(np.concatenate([exact, coarse]))[::-1]


class Verdict(NamedTuple):
    """What the channels say together."""

    score: float
    """-ln of the weighted minimum of the p-values, nats: higher is more anomalous."""
    p_value: float
    """Of that score, in (0, 1]."""
    channel: str
    """The one with the weighted minimum."""
    channels: dict[str, float]
    """The p-value of each, in (0, 1]."""


class Scores(NamedTuple):
    """One score per channel; None: it has nothing to say of this line."""

    text: float
    number: float
    window: float | None = None
    session: float | None = None


class Fusion:
    """Several channels as one: the weighted minimum of their p-values, calibrated again.

    Calibrated again since the minimum of p-values is none, and since many lines have no numbers
    or say nothing new, so that a union bound would waste most of the budget.

    Args:
        channels: by name, among `SHARES`; `TEXT` and `NUMBER` always.
        fused: of the weighted minimum.
        ranks: text that says nothing new leaves the score to the other channels, so that lines far
            from the alarm line rank by them; bundles of before do without.
    """

    def __init__(self, channels: Mapping[str, Tail], fused: Tail, *, ranks: bool = True) -> None:
        self.channels = channels
        self.fused = fused
        self._ranks = ranks
        self._channels = [
            (at, name, channels[name], math.log(share), nothing, _p_value(nothing))
            for at, (name, share) in enumerate(SHARES.items())
            if name in channels
            for nothing in (channels[name].log_p_value(0.0),)
        ]

    def verdict(self, scores: Scores) -> Verdict:
        """Return what a line's scores say together."""
        best, which = -math.inf, ""
        p_values = {}
        beside = scores.window is not None
        for at, name, distribution, log_share, log_p, p in self._channels:  # of nothing odd
            if score := scores[at]:
                log_p = distribution.log_p_value(score)  # noqa: PLW2901 -- it is odd
                p_values[name] = math.exp(log_p) if log_p > LOG_MIN_P else MIN_P
            elif score is None:
                continue
            else:
                p_values[name] = p
            by = (LOG_BESIDE if beside and name == NUMBER else log_share) - log_p
            if by > best and not (self._ranks and name == TEXT and log_p == 0):
                best, which = by, name
        return Verdict(best, _p_value(self.fused.log_p_value(best)), which, p_values)


def fusion(lines: Sequence[Scores], *, ranks: bool = True) -> Fusion:
    """Return the fusion calibrated on the scores of normal lines, at least one.

    A channel that had nothing to say of any of them is left out. `ranks`: see `Fusion`.
    """
    channels = {}
    for name, scores in zip(SHARES, zip(*lines, strict=True), strict=True):
        # Of a line that it does not see, a channel says nothing odd.
        if any(score is not None for score in scores):
            channels[name] = tail([score or 0.0 for score in scores])
    first = Fusion(channels, tail([0.0]), ranks=ranks)
    return Fusion(channels, tail([first.verdict(line).score for line in lines]), ranks=ranks)


def _p_value(log_p: float) -> float:
    return math.exp(log_p) if log_p > LOG_MIN_P else MIN_P


def require(budget: float, lines: int) -> None:
    """Check that `lines` calibration lines can support `budget`, in (0, 1).

    Raises:
        BudgetError: they cannot; says how many would.
    """
    if lines < lines_needed(budget):
        raise BudgetError(budget=budget, lines=lines)
