"""What two looks at the clocks say: every case, by table."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.core.timekeeping import JUMP_S, Look, jump_of, trust_of

MADE = 1_700_000_000.0  # it cannot be earlier
SECONDS = st.floats(-1e9, 1e9)


@pytest.mark.parametrize(
    ("wall", "synchronised", "said"),
    [
        (MADE + 1, True, "synchronised"),
        (MADE + 1, False, "untrusted"),
        (MADE + 1, None, None),
        (0.0, None, "untrusted"),  # 1970: nobody need say so
        (0.0, True, "untrusted"),
        (MADE - 1, True, "untrusted"),
        (math.nan, True, "untrusted"),
    ],
)
def test_what_is_said_of_the_wall_clock(
    *, wall: float, synchronised: bool | None, said: str | None
) -> None:
    assert trust_of(Look(wall, 5.0, synchronised), earliest=MADE) == said


@given(SECONDS, st.floats(0, 1e9), st.floats(0, 1e6), SECONDS)
def test_only_what_the_clock_was_set_by_is_a_jump(
    wall: float, elapsed: float, later_s: float, set_by_s: float
) -> None:
    """However long passes between two looks, and however often it is looked."""
    before = Look(wall, elapsed, None)
    after = Look(wall + later_s + set_by_s, elapsed + later_s, None)
    jump = jump_of(before, after)
    if abs(set_by_s) >= JUMP_S + 1e-3:
        assert jump == pytest.approx(set_by_s, abs=1e-3)
    elif abs(set_by_s) <= JUMP_S - 1e-3:
        assert jump is None
