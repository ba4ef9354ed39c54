"""From scores to p-values by conformal calibration, and several p-values to one.

A p-value is the share of normal lines that would score at least as high. Scores inside the range
of the calibration scores get their rank; beyond it the tail is taken as exponential, with the mean
excess of the highest scores over the one below them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import RejectedError

EXACT: Final = 256
"""Highest calibration scores that are all kept; below them ranks are kept geometrically."""
TEXT_SHARE: Final = 0.9
"""Share of the alarm budget that text has; the rest is for numbers. A new template is far out and
rare, while among a line's numbers one is always near the edge of its range."""
LOG_TEXT: Final = math.log(TEXT_SHARE)
LOG_NUMBER: Final = math.log(1 - TEXT_SHARE)
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
            f" on, and there are {lines}; add lines, or allow a budget of {1 / max(lines, 1):.2g}"
        )


def lines_needed(budget: float) -> int:
    """Return the fewest calibration lines with which a line can be in the rarest `budget`."""
    return math.ceil(1 / budget)


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


@dataclass(frozen=True, slots=True)
class Fusion:
    """Two channels as one: the weighted minimum of their p-values, calibrated again.

    Calibrated again since the minimum of p-values is none, and since many lines have no numbers
    or say nothing new, so that a union bound would waste most of the budget.
    """

    text: Tail
    number: Tail
    fused: Tail

    def verdict(self, text: float, number: float) -> Verdict:
        """Return what a line's two scores say together."""
        log_text, log_number = self.text.log_p_value(text), self.number.log_p_value(number)
        by_text, by_number = LOG_TEXT - log_text, LOG_NUMBER - log_number
        score = max(by_text, by_number)
        return Verdict(
            score,
            _p_value(self.fused.log_p_value(score)),
            "text" if by_text >= by_number else "number",
            {"text": _p_value(log_text), "number": _p_value(log_number)},
        )


def fusion(text: Sequence[float], number: Sequence[float]) -> Fusion:
    """Return the fusion calibrated on the scores of normal lines, at least one.

    Args:
        text: text score of each line.
        number: number score of each, in the same order.
    """
    first = Fusion(tail(text), tail(number), tail([0.0]))
    scores = [first.verdict(t, n).score for t, n in zip(text, number, strict=True)]
    return replace(first, fused=tail(scores))


def _p_value(log_p: float) -> float:
    return math.exp(log_p) if log_p > LOG_MIN_P else MIN_P


def require(budget: float, lines: int) -> None:
    """Check that `lines` calibration lines can support `budget`, in (0, 1).

    Raises:
        BudgetError: they cannot; says how many would.
    """
    if lines < lines_needed(budget):
        raise BudgetError(budget=budget, lines=lines)
