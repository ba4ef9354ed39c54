"""A source that is new learns for a while, from what is in order, and is bounded."""

from __future__ import annotations

import math

from edgeslm.core.learning import (
    FEWEST,
    GATHERED,
    MAX_SLOTS,
    PLACES,
    SOURCES,
    Began,
    Gathering,
    Learnt,
    School,
)


def test_it_begins_tells_how_far_it_is_and_ends() -> None:
    school = School(lines=3)
    progress = [school.take("a", "temp=¤", ["7"], alarm=False) for _ in range(2)]
    assert [(p.lines, p.of) for p in progress if p is not None] == [(1, 3), (2, 3)]
    assert school.learning == ("a",)
    assert school.learnt("a") is None
    school.take("a", "once", [], alarm=False)
    learnt = school.learnt("a")
    assert learnt is not None
    assert (learnt.lines, learnt.once) == (3, 1)
    assert learnt.templates == frozenset({"temp=¤", "once"})
    assert learnt.histories["temp=¤"][0].values == (7.0,)
    assert list(school.news) == [Began("a", 3), learnt]


def test_alarms_and_what_nobody_knows_teach_nothing() -> None:
    school = School(lines=3)
    for template, alarm in (("x", True), (None, False), (None, True)):
        progress = school.take("a", template, [], alarm=alarm)
        assert progress is not None
        assert progress.lines == 0


def test_nobody_learns_who_has_no_name_or_where_none_is_to() -> None:
    assert School().take("", "x", [], alarm=False) is None
    assert School(lines=0).take("a", "x", [], alarm=False) is None


def test_sources_beyond_the_bound_are_counted() -> None:
    school = School(lines=3)
    for i in range(SOURCES + 5):
        school.take(f"s{i}", "x", [], alarm=False)
    assert len(school.learning) == SOURCES
    assert school.refused == 5


def test_time_ends_it_where_enough_has_come() -> None:
    school = School(lines=100)
    school.take("a", "x", [], alarm=False)
    assert not school.end("a", fewest=2)
    school.take("a", "x", [], alarm=False)
    assert school.end("a", fewest=2)
    assert not school.end("a")


def test_what_was_learnt_before_is_taken_up() -> None:
    school = School(lines=100)
    school.take("a", "x", [], alarm=False)
    learnt = Learnt("a", 50, 0, frozenset({"x"}), {})
    school.recall(learnt)
    assert school.learning == ()
    assert school.learnt("a") == learnt
    school.forget("a")
    assert school.learnt("a") is None


def test_words_are_a_sources_own_where_another_new_one_is_rarer_than_the_budget() -> None:
    assert Learnt("a", 1000, 3, frozenset(), {}).settled(0.01)
    assert not Learnt("a", 1000, 30, frozenset(), {}).settled(0.01)


NONE = (math.inf, -math.inf)
"""Range of nothing."""


def gathered(lines: int, *, source: str = "a") -> Gathering:
    """Numbers of `lines` lines with a temperature of 20.0 to 20.9, and a name."""
    gathering = Gathering()
    for i in range(lines):
        gathering.take(source, "temp=¤ of ¤", [20 + (7 * i % 10) / 10, math.nan])
    return gathering


def test_numbers_are_tested_as_soon_as_enough_have_come() -> None:
    assert gathered(FEWEST - 1).at("a", "temp=¤ of ¤", 2) is None
    found = gathered(FEWEST).at("a", "temp=¤ of ¤", 2)
    assert found is not None
    assert found.line.seen[0] == (20.0, 20.9)
    assert found.line.score([2000.0, math.nan]) > 6
    assert gathered(FEWEST).at("b", "temp=¤ of ¤", 2) is None, "of another source"
    assert gathered(FEWEST).at("a", "temp=¤ of ¤", 1) is None, "of another width"


def test_what_is_near_needs_no_test() -> None:
    found = gathered(FEWEST).at("a", "temp=¤ of ¤", 2)
    assert found is not None
    numbers = (19.0, 19.2, 20.4, 21.7, 21.9, math.nan)
    near = [found.near([v, math.nan], [NONE, NONE]) for v in numbers]
    assert [one[0] for one in near] == [False, True, True, True, False, False]
    constant = Gathering()
    for _ in range(FEWEST):
        constant.take("a", "level ¤", [50.0])
    level = constant.at("a", "level ¤", 1)
    assert level is not None
    assert [level.near([v], [NONE]) for v in (54.0, 56.0)] == [(True,), (False,)], "a tenth"


def test_what_was_confirmed_is_as_good_as_what_was_seen() -> None:
    found = gathered(FEWEST).at("a", "temp=¤ of ¤", 2)
    assert found is not None
    near = [found.near([v, math.nan], [(30.0, 40.0), NONE])[0] for v in (59.0, 61.0, 1.0, -1.0)]
    assert near == [True, False, True, False]


def test_they_are_tested_better_the_more_have_come_and_then_stay() -> None:
    found = [gathered(n).at("a", "temp=¤ of ¤", 2) for n in (FEWEST, 2 * FEWEST, GATHERED)]
    scores = [one.line.score([30.0, math.nan]) for one in found if one is not None]
    assert len(scores) == 3
    assert scores == sorted(set(scores))
    gathering = gathered(GATHERED)
    settled = gathering.at("a", "temp=¤ of ¤", 2)
    for _ in range(2 * GATHERED):
        gathering.take("a", "temp=¤ of ¤", [30.0, math.nan])
    assert gathering.at("a", "temp=¤ of ¤", 2) is settled


def test_what_is_gathered_is_bounded() -> None:
    gathering = Gathering()
    for i in range(PLACES + 5):
        gathering.take(f"s{i}", "temp=¤", [1.0])
    assert gathering.refused == 5
    for values in ([], [0.0] * (MAX_SLOTS + 1)):
        for _ in range(FEWEST):
            gathering.take("s0", "x", values)
        assert gathering.at("s0", "x", len(values)) is None
