"""Whether a model keeps the share of normal traffic that its bundle promises."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from exporters.evaluation import chance

SURE: Final = 0.01
"""A rate that a model which keeps its promise would show as rarely is told."""
METHOD: Final = "binomial"
Verdict = Literal["kept", "over", "under"]


class Promise(NamedTuple):
    """How a rate compares with what was promised; see `judge`."""

    rows: int
    flagged: int
    p_over: float
    """How likely so many or more are, where the promise is just kept."""
    p_under: float
    """How likely so few or fewer are."""

    @property
    def verdict(self) -> Verdict:
        """`under`: it is kept, and could flag more."""
        if self.p_over < SURE:
            return "over"
        return "under" if self.p_under < SURE else "kept"


def judge(flagged: int, rows: int, share: float) -> Promise:
    """Hold `flagged` of `rows` rows against a promised `share` in (0, 1), exactly.

    Source:
        Clopper & Pearson 1934: tails of the binomial, one-sided each.
    """
    return Promise(
        rows,
        flagged,
        chance.at_least(flagged, rows, share),
        chance.at_most(flagged, rows, share),
    )
