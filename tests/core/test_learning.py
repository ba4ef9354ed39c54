"""A source that is new learns for a while, from what is in order, and is bounded."""

from __future__ import annotations

import math
import tracemalloc

import pytest

from edgeslm.core import learning
from edgeslm.core.gathering import GATHERED, PLACES, Gathering
from edgeslm.core.learning import (
    FEWEST,
    HEARD,
    MAX_SLOTS,
    ROOM,
    SOURCES,
    Dropped,
    Learnt,
    Progress,
    Pupil,
    Readings,
    School,
    Snapshot,
)
from edgeslm.core.numbers import history


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
    assert list(school.news) == [learnt]
    assert school.learns_no_more("a")


def test_alarms_and_what_nobody_knows_teach_nothing() -> None:
    school = School(lines=3)
    for template, alarm in (("x", True), (None, False), (None, True)):
        progress = school.take("a", template, [], alarm=alarm)
        assert progress is not None
        assert progress.lines == 0
    assert progress == (0, 3, 3)


@pytest.mark.parametrize("normal", [0, FEWEST - 1, FEWEST])
def test_its_period_ends_after_so_many_lines_whatever_it_has_learnt(normal: int) -> None:
    school = School(lines=100)
    teach(school, "a", normal)
    for i in range(HEARD * 100 - normal):
        assert school.take("a", "x", [], alarm=True) == (normal, 100, normal + i + 1)
    assert school.learning == ()
    assert school.learns_no_more("a")
    (news,) = school.news
    if normal == FEWEST:
        assert news == school.learnt("a")
        return
    assert news == Snapshot("a", Pupil(normal, 200, 200 - normal, ended=True))
    assert (school.learnt("a"), school.unlearnt, school.size) == (None, 1, 0)
    school.heard = set()
    assert school.take("a", "x", [], alarm=False) is None, "normal lines come too late"
    assert school.heard == {"a"}


def test_few_lines_that_are_to_be_learnt_from_leave_time_to_hear_them() -> None:
    school = School(lines=1)
    for _ in range(HEARD * FEWEST - 1):
        assert school.take("a", "x", [], alarm=True) is not None
    assert teach(school, "a") == (1, 1, HEARD * FEWEST)
    assert school.learnt("a") is not None


def test_who_has_learnt_nothing_begins_anew_when_lines_of_it_are_confirmed() -> None:
    school = School(lines=100)
    for _ in range(HEARD * 100):
        school.take("a", "x", [], alarm=True)
    school.again("b")
    school.again("a")
    assert (school.unlearnt, school.sources) == (0, ())
    teach(school, "a", 100)
    assert school.learnt("a") is not None
    school.again("a")
    assert school.learnt("a") is not None, "who has learnt is judged by that"


def test_who_learns_when_lines_of_it_are_confirmed_has_as_long_again() -> None:
    school = School(lines=100)
    teach(school, "a", 20)
    for _ in range(170):
        school.take("a", "x", [], alarm=True)
    school.again("a")
    assert teach(school, "a", 80) == (100, 100, 100), "what it has learnt stays"


def test_who_has_learnt_nothing_is_known_again_and_gives_way_when_silent_for_long() -> None:
    school = School(lines=100)
    school.resume("a", Pupil(0, 200, 200, ended=True))
    assert teach(school, "a") is None
    for i in range(SOURCES - 1):
        teach(school, f"s{i}", FEWEST)
    assert teach(school, "new") is None
    school.silent = {"a"}
    assert teach(school, "new") == (1, 100, 1)
    assert [news.source for news in school.news if isinstance(news, Dropped)] == ["a"]


def test_nobody_learns_who_has_no_name_or_where_none_is_to() -> None:
    assert School().take("", "x", [], alarm=False) is None
    assert School(lines=0).take("a", "x", [], alarm=False) is None


def teach(school: School, source: str, lines: int = 1) -> Progress | None:
    found = None
    for _ in range(lines):
        found = school.take(source, "x", [], alarm=False)
    return found


def test_names_that_come_once_keep_nobody_from_learning() -> None:
    school = School(lines=1000)
    teach(school, "slow", 3)
    for i in range(3 * SOURCES):
        school.take(f"uuid {i}", "x", [], alarm=i % 2 == 0)
    assert len(school.learning) == SOURCES
    assert teach(school, "press-9") == (1, 1000, 1)
    assert teach(school, "slow") == (4, 1000, 4), "who was heard more stays"
    assert (school.dropped, school.refused) == (2 * SOURCES + 2, 0)
    assert not [news for news in school.news if isinstance(news, Dropped)], "nobody kept them"


def test_who_has_learnt_enough_gives_way_only_when_silent_for_long() -> None:
    school = School(lines=1000)
    for i in range(SOURCES):
        teach(school, f"s{i}", FEWEST)
    school.end("s0")
    assert teach(school, "new") is None
    assert school.refused == 1
    school.silent = {"s0"}
    school.news.clear()
    assert teach(school, "new") == (1, 1000, 1)
    assert school.learnt("s0") is None
    assert teach(school, "newer", FEWEST) == (FEWEST, 1000, FEWEST), (
        "it takes the place of the other new one"
    )
    assert [news.source for news in school.news if isinstance(news, Dropped)] == ["s0"]


def test_a_source_that_is_heard_is_noted() -> None:
    school = School(lines=3)
    teach(school, "a", 3)
    school.heard = set()
    school.hear("a")
    school.hear("nobody")
    teach(school, "b")
    assert school.heard == {"a", "b"}


@pytest.mark.parametrize("templates", [1, 900])
def test_what_sources_learn_is_bounded_by_bytes(templates: int) -> None:
    school = School(lines=100_000)
    history([i / 7 for i in range(200)])  # what numpy loads for it is not of the school
    tracemalloc.start()
    try:
        for source in range(2):
            for i in range(1200):
                slots = [f"{i}.{k}{source}" for k in range(32)]
                school.take(f"s{source}", f"template {i % templates}", slots, alarm=False)
        held, _ = tracemalloc.get_traced_memory()
        assert held < 1.5 * school.size
        assert school.size <= 2 * ROOM
        for source in range(2):
            school.end(f"s{source}")
        school.news.clear()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.5 * school.size
    assert school.size <= 2 * 2 * ROOM
    learnt = school.learnt("s0")
    assert learnt is not None
    assert learnt.lines == 1200
    assert school.unkept > 0 or templates == 1
    assert learnt.histories


def test_all_sources_together_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "MAX_BYTES", 60_000)
    school = School(lines=400)
    for i in range(300):
        for source in range(10):
            slots = [str(i + k / 7) for k in range(10)]
            school.take(f"s{source}", "x", slots, alarm=False)
            assert school.size <= 60_000
    for source in range(10):
        assert school.end(f"s{source}")
        assert school.size <= 60_000
    kept = [found for i in range(10) if (found := school.learnt(f"s{i}")) is not None]
    assert len(kept) == 10
    other = School()
    for found in kept:
        other.recall(found)
    assert other.size == school.size


def test_readings_that_were_thinned_are_of_all_the_time() -> None:
    readings = Readings(1)
    for i in range(100):
        readings.take([float(i)])
        if i == 49:
            assert readings.thin() == 25
    assert list(readings.values) == [float(i) for i in range(0, 100, 2)]


def test_a_pupil_goes_on_where_it_was() -> None:
    school, other = School(lines=100), School(lines=100)
    for i in range(40):
        school.take("a", "temp=¤", [str(i)], alarm=False)
    school.snapshot(["a", "nobody"])
    (kept,) = [news for news in school.news if isinstance(news, Snapshot)]
    other.resume(kept.source, kept.pupil)
    assert other.size == school.size
    for one in (school, other):
        assert one.take("a", "temp=¤", ["9"], alarm=False) == (41, 100, 41)
        one.end("a")
    assert school.learnt("a") == other.learnt("a")


def test_time_ends_it_where_enough_has_come() -> None:
    school = School(lines=100)
    school.take("a", "x", [], alarm=False)
    assert not school.end("a", fewest=2)
    school.take("a", "x", [], alarm=False)
    assert school.end("a", fewest=2)
    assert not school.end("a")


def test_time_waits_where_too_few_lines_have_come_to_tell() -> None:
    school = School(lines=100)
    teach(school, "a", FEWEST - 1)
    school.close("nobody", waits=True)
    for _ in range(FEWEST):
        school.close("a", waits=True)
        assert school.learning == ("a",)
        school.take("a", "x", [], alarm=True)
    school.take("a", "x", [], alarm=True)
    school.close("a", waits=True)
    assert (school.learning, school.unlearnt) == ((), 1)
    teach(school, "slow", 2)
    school.close("slow")
    assert school.unlearnt == 2, "not for ever"


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
