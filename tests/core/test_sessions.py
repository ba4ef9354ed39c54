"""Sessions see what comes after what, and how often; and what is missing at the end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.core.sessions import LATE, NONE, PAIR, REACH, Habits, Oddness, Sessions

OPEN, WORK, CLOSE = range(3)
TRIPLES = {
    (NONE, NONE, OPEN),
    (NONE, OPEN, WORK),
    (OPEN, WORK, WORK),
    (OPEN, WORK, CLOSE),
    (WORK, WORK, CLOSE),
}
HABITS = Habits(frozenset(TRIPLES), frozenset({(WORK, CLOSE)}), {OPEN: 1, WORK: 2, CLOSE: 1}, 60.0)


def said(*templates: int | None) -> list[Oddness]:
    sessions = Sessions(HABITS)
    return [sessions.score("k", template, float(i)) for i, template in enumerate(templates)]


def test_what_was_learnt_is_not_odd_and_ends_well() -> None:
    found = said(OPEN, WORK, WORK, CLOSE)
    assert [one.line for one in found] == [0, 0, 0, 0]
    assert [one.end > 0 for one in found] == [True, True, True, False]


def test_a_line_after_one_it_never_followed_is_odd() -> None:
    assert [one.line > 0 for one in said(OPEN, CLOSE)] == [False, True]
    assert said(OPEN, CLOSE)[1].after == OPEN


def test_one_more_than_ever_is_odd_and_ever_more_so() -> None:
    found = [one.line for one in said(OPEN, WORK, WORK, WORK, WORK)]
    assert found[2] == 0 < found[3] < found[4]


def test_a_new_template_is_left_to_the_text_channel() -> None:
    assert [one.line for one in said(OPEN, None, WORK)] == [0, 0, 0]


def test_keys_do_not_meet() -> None:
    sessions = Sessions(HABITS)
    for template in (OPEN, WORK, CLOSE):
        for key in ("a", "b"):
            assert sessions.score(key, template, None).line == 0


def test_after_a_pause_a_key_is_another_session() -> None:
    sessions = Sessions(HABITS)
    sessions.score("k", OPEN, 0.0)
    assert sessions.score("k", OPEN, 61.0).line == 0
    assert sessions.counts["sessions_expired"] == 1
    assert sessions.score("k", OPEN, 62.0).line > 0


def test_after_its_last_line_a_key_is_another_session() -> None:
    sessions = Sessions(HABITS)
    for time, template in enumerate((OPEN, WORK, CLOSE)):
        ended = sessions.score("k", template, float(time), last=template == CLOSE)
    assert ended.end == 0
    late = sessions.score("k", WORK, 1.5)
    assert late.after == WORK, "it is of the one that has ended"
    assert sessions.score("k", OPEN, 3.0) == Oddness(0.0, PAIR, NONE)
    assert sessions.counts["sessions_expired"] == 0


def at(*lines: tuple[int, float]) -> tuple[list[float], dict[str, int]]:
    """Return how odd each line is, (template, time), and what was counted."""
    sessions = Sessions(HABITS)
    found = [sessions.score("k", template, time, template) for template, time in lines]
    return [one.line for one in found], sessions.counts


def test_a_line_that_comes_again_leaves_its_session_as_it_stands() -> None:
    found, counts = at((OPEN, 0), (OPEN, 0), (WORK, 1), (CLOSE, 2), (CLOSE, 2))
    assert found == [0] * 5
    assert counts["lines_repeated"] == 2


def test_without_a_time_or_a_text_a_line_is_never_one_again() -> None:
    sessions = Sessions(HABITS)
    found = [sessions.score("k", OPEN, None, OPEN).line for _ in range(2)]
    found += [sessions.score("l", OPEN, 1.0).line for _ in range(2)]
    assert [odd > 0 for odd in found] == [False, True, False, True]
    assert not sessions.counts["lines_repeated"]


def test_a_late_line_takes_its_place_and_is_judged_there() -> None:
    found, counts = at((OPEN, 0), (WORK, 2), (WORK, 1), (CLOSE, 3))
    assert found == [0] * 4
    assert counts["lines_late"] == 1
    found, _ = at((OPEN, 0), (CLOSE, 2), (WORK, 1))
    assert [odd > 0 for odd in found] == [False, True, False], "nobody knew of what was to come"
    found, _ = at((WORK, 2), (CLOSE, 3), (CLOSE, 1))
    assert found[2] > 0, "no session began so"


def test_a_line_older_than_all_that_are_kept_is_not_judged() -> None:
    steps = [(OPEN, 0.0), *((WORK, 10.0 + i) for i in range(REACH))]
    _, counts = at(*steps)
    found, counts = at(*steps, (CLOSE, 5.0), (CLOSE, 20.0))
    assert found[-2] == 0
    assert counts["lines_late"] == 1
    assert found[-1] > PAIR, "but it counts"


def test_a_clock_that_was_set_back_is_followed_in_the_end() -> None:
    sessions = Sessions(HABITS)
    sessions.score("k", OPEN, 1000.0)
    for i in range(LATE):
        sessions.score("k", None, float(i))
    assert sessions.counts["lines_late"] == LATE - 1
    assert sessions.score("k", OPEN, 8.0).after == NONE
    assert sessions.score("k", CLOSE, 9.0).line >= PAIR, "it is judged as before"


def test_sessions_beyond_the_bound_give_way_oldest_first() -> None:
    sessions = Sessions(HABITS, limit=2)
    for key in ("a", "b", "a", "c", "a"):
        sessions.score(key, WORK, None)
    assert len(sessions) == 2
    assert sessions.counts["sessions_dropped"] == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.none() | st.integers(0, 5),
            st.none() | st.floats(allow_nan=False, allow_infinity=False),
        ),
        max_size=60,
    )
)
def test_whatever_comes_is_bounded_and_never_below_nothing(
    lines: list[tuple[str, int | None, float | None]],
) -> None:
    sessions = Sessions(HABITS, limit=3)
    for key, template, time in lines:
        odd = sessions.score(key, template, time)
        assert odd.line >= 0
        assert odd.end in {0.0, 1.0}
        assert len(sessions) <= 3
