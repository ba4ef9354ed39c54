"""A source that is new learns for a while, from what is in order, and is bounded."""

from __future__ import annotations

from edgeslm.core.learning import SOURCES, Began, Learnt, School


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
