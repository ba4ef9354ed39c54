"""A promise holds to the end of its last day."""

from __future__ import annotations

import pytest

from edgeslm.core.support import has_ended

DAY_S = 86_400.0
LAST = 1_956_441_600.0  # 2031-12-31, 00:00 UTC


@pytest.mark.parametrize(
    ("until", "wall", "ended"),
    [
        ("2031-12-31", LAST - 1, False),
        ("2031-12-31", LAST + DAY_S - 1, False),
        ("2031-12-31", LAST + DAY_S, True),
        ("2031-12-31", 0.0, False),
        (None, LAST + 100 * DAY_S, False),
    ],
)
def test_it_ends_when_its_last_day_is_over(until: str | None, wall: float, ended: bool) -> None:  # noqa: FBT001
    assert has_ended(until, wall=wall) is ended
