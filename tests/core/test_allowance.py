"""Within any span, no more than so many; and as soon as one may be, it may be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.core.allowance import Allowance


@given(st.integers(1, 5), st.lists(st.floats(0, 4), max_size=60))
def test_no_span_holds_more(most: int, gaps: list[float]) -> None:
    allowance, now, taken = Allowance(most, 10.0), 0.0, []
    for gap in gaps:
        now += gap
        due = allowance.due_at() <= now
        assert allowance.take(now) == due
        if due:
            taken.append(now)
        assert due == (sum(now - 10.0 < at for at in taken[: -1 if due else None]) < most)
    for first, beyond in zip(taken, taken[most:], strict=False):
        assert beyond - first >= 10.0
