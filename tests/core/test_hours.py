"""Hours are local, their end is excluded, and they may pass midnight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.core.hours import is_open


@pytest.mark.parametrize(
    ("hours", "at", "open_"),
    [
        ([], "12:00", True),
        (["08:00-17:00"], "07:59", False),
        (["08:00-17:00"], "08:00", True),
        (["08:00-17:00"], "16:59", True),
        (["08:00-17:00"], "17:00", False),
        (["22:00-05:30"], "21:59", False),
        (["22:00-05:30"], "23:59", True),
        (["22:00-05:30"], "00:00", True),
        (["22:00-05:30"], "05:29", True),
        (["22:00-05:30"], "05:30", False),
        (["01:00-02:00", "12:00-13:00"], "12:30", True),
        (["01:00-02:00", "12:00-13:00"], "11:30", False),
        (["06:00-06:00"], "05:59", True),
    ],
)
def test_hours(hours: list[str], at: str, *, open_: bool) -> None:
    assert is_open(hours, int(at[:2]) * 60 + int(at[3:])) is open_


@given(st.integers(0, 1439), st.integers(0, 1439))
def test_a_span_and_its_rest_are_the_day(begin: int, end: int) -> None:
    first, second = (f"{m // 60:02}:{m % 60:02}" for m in (begin, end))
    inside = {m for m in range(1440) if is_open([f"{first}-{second}"], m)}
    rest = {m for m in range(1440) if is_open([f"{second}-{first}"], m)}
    assert inside | rest == set(range(1440))
    assert begin == end or not inside & rest
