"""Who learns, and for how long: over any number of restarts, and seldom written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from edgeslm.adapters.lesson_sources import Attendance
from edgeslm.adapters.lessons import NAME, LessonLog
from edgeslm.agent.models import ModelSlot
from edgeslm.agent.pupils import BEGUN, SAVE_S, SILENT_S, Learners, Pupils
from edgeslm.contract.learning import LearnSettings
from edgeslm.core.learning import FEWEST, HEARD, KEPT, SOURCES, TERMS, Pupil, School, Snapshot
from edgeslm.core.memory import LineMemory

HOUR_S = 3600.0


def hear(memory: LineMemory[object], source: str, lines: int, *, alarm: bool = False) -> None:
    for i in range(lines):
        memory.school.take(source, "temp=¤", [str(i)], alarm=alarm)


def wait(pupils: Pupils, memory: LineMemory[object], now: float, hours: float = 24.0) -> int:
    """Let time pass; return how many changes it made."""
    changes = list(pupils.pass_time(memory.school, now, hours=hours))
    for change in changes:
        change(memory)
    return len(changes)


def snapshots(memory: LineMemory[object]) -> list[Snapshot]:
    found = [each for each in memory.school.news if isinstance(each, Snapshot)]
    memory.school.news.clear()
    return found


def started(kept: Iterable[Attendance]) -> tuple[Pupils, LineMemory[object]]:
    memory: LineMemory[object] = LineMemory()
    kept = list(kept)
    for each in kept:
        if each.pupil is not None:
            memory.school.resume(each.source, each.pupil)
    return Pupils(kept, now=0.0), memory


def test_a_machine_that_is_off_at_night_has_learnt_in_the_end(tmp_path: Path) -> None:
    log = LessonLog(tmp_path / NAME, max_lessons=10, max_bytes=2**20)
    for day in range(3):
        pupils, memory = started(log.attendances("m"))
        assert memory.school.learning == (("new",) if day else ())
        hear(memory, "new", 12)
        wait(pupils, memory, 1.0)
        assert wait(pupils, memory, 9.9 * HOUR_S, hours=24) == (2 if day == 2 else 1)
        log.attend("m", pupils.last(memory.school))
    learnt = memory.school.learnt("new")
    assert learnt is not None
    assert learnt.lines == 36


def test_lines_are_counted_over_restarts_too(tmp_path: Path) -> None:
    log = LessonLog(tmp_path / NAME, max_lessons=10, max_bytes=2**20)
    for _ in range(4):
        pupils, memory = started(log.attendances("m"))
        memory.school.lines = 100
        hear(memory, "new", 25)
        wait(pupils, memory, 1.0)
        log.attend("m", pupils.last(memory.school))
    assert memory.school.learnt("new") is not None


def test_who_was_forgotten_is_told(tmp_path: Path) -> None:
    told: list[object] = []
    log = LessonLog(tmp_path / NAME, max_lessons=10, max_bytes=2**20)

    def opened(*, make: bool) -> LessonLog | None:
        assert not make
        return log

    learners = Learners(lambda *event: told.append(event), opened, contextlib.nullcontext)
    log.attend("m", [Attendance("a", 1.0, 0.0)])
    log.forget("m", "a", at=5.0, by="Eve")
    learners.forget(None, log.forgotten()[0])
    assert told == [("learning_forgotten", "m", {"source": "a", "by": "Eve"})]


class Class:
    """A model, and who learns of it."""

    def __init__(self, log: LessonLog, lines: int = 1000) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.memory: LineMemory[Any] = LineMemory()
        self.memory.school.lines = lines
        for each in log.attendances("m"):
            if each.pupil is not None:
                self.school.resume(each.source, each.pupil)
        pool = SimpleNamespace(put=lambda lesson: lesson(self.memory))
        responder = SimpleNamespace(lesson=lambda change: change)
        settings = SimpleNamespace(learn=LearnSettings())
        made = SimpleNamespace(
            pool=pool, responder=responder, memory=self.memory, settings=settings
        )
        self.slot = cast("ModelSlot", made)
        self.learners = Learners(
            lambda event, _, detail: self.told.append((event, dict(detail))),
            lambda *, make: log,  # noqa: ARG005 -- there is one
            contextlib.nullcontext,
        )

    @property
    def school(self) -> School:
        return self.memory.school

    def looks(self, now: float) -> list[str]:
        """Return what is told."""
        before = len(self.told)
        self.learners.attend("m", self.slot, self.school, now)
        return [event for event, _ in self.told[before:]]


def test_who_learns_is_told_of_from_its_first_line_though_it_be_an_alarm(tmp_path: Path) -> None:
    one = Class(LessonLog(tmp_path / NAME, max_lessons=10, max_bytes=2**20))
    hear(one.memory, "new", 1, alarm=True)
    assert one.looks(1.0) == ["learning_began"]
    assert one.told == [("learning_began", {"source": "new", "lines": 1000})]
    hear(one.memory, "new", 1)
    assert one.looks(2.0) == []
    for i in range(BEGUN + 9):
        hear(one.memory, f"uuid {i}", 1)
    assert len(one.looks(3.0)) == BEGUN - 1, "names that come once flood nobody"
    assert len(one.looks(64.0)) == 10, "the rest in the next minute"


def test_who_works_elsewhere_is_told_to_have_learnt_nothing_and_a_confirmation_begins_anew(
    tmp_path: Path,
) -> None:
    log = LessonLog(tmp_path / NAME, max_lessons=10, max_bytes=2**20)
    one = Class(log)
    hear(one.memory, "hot", HEARD * 1000 - 1, alarm=True)
    one.learners.leave({"m": one.slot}, 1.0)
    one = Class(log)
    hear(one.memory, "hot", 3, alarm=True)
    assert one.looks(2.0) == ["learning_failed"], "lines count over restarts"
    detail = one.told[-1][1]
    assert "confirm" in detail.pop("remedy")
    assert detail == {"source": "hot", "heard": 2000, "alarms": 2000, "lines": 0}
    assert one.memory.counts()["sources_unlearnt"] == 1

    # A power cut later it is still so, until an operator has said that it is in order.
    one = Class(log)
    hear(one.memory, "hot", 3)
    assert one.looks(3.0) == []
    assert one.memory.counts()["sources_unlearnt"] == 1
    one.learners.again("m", one.slot, "other")
    assert one.school.learning == ()
    one.learners.again("m", one.slot, "hot")
    assert Class(log).memory.counts()["sources_unlearnt"] == 0, "at once on disk"
    hear(one.memory, "hot", 1000)
    assert one.looks(4.0) == ["learning_began", "learning_ended"]
    assert one.school.learnt("hot") is not None


def test_a_confirmation_while_it_learns_gives_it_as_long_again(tmp_path: Path) -> None:
    one = Class(LessonLog(tmp_path / NAME, max_lessons=10, max_bytes=2**20))
    hear(one.memory, "hot", 1990, alarm=True)
    one.looks(0.0)
    one.looks(23 * HOUR_S)
    one.learners.again("m", one.slot, "hot")
    one.looks(46 * HOUR_S)
    hear(one.memory, "hot", 1000)
    assert one.looks(46.1 * HOUR_S) == ["learning_ended"]


def test_a_model_that_is_away_knows_of_a_confirmation_later(tmp_path: Path) -> None:
    log = LessonLog(tmp_path / NAME, max_lessons=10, max_bytes=2**20)
    log.attend("m", [Attendance(name, 1.0, 0.0, Pupil(0, 60, 60, ended=True)) for name in "ab"])
    Class(log).learners.again("m", None, "a")
    assert [each.source for each in log.attendances("m")] == ["b"]


def test_time_ends_it_whatever_was_learnt() -> None:
    pupils, memory = started(())
    hear(memory, "hot", HEARD * FEWEST, alarm=True)
    hear(memory, "slow", KEPT)
    wait(pupils, memory, 0.0, hours=1.0)
    for hour in range(1, TERMS + 1):
        assert "slow" in memory.school.learning
        wait(pupils, memory, hour * HOUR_S, hours=1.0)
        assert memory.school.unlearnt == (2 if hour == TERMS else 1)
    assert memory.school.learning == ()
    assert len(memory.school.sources) <= SOURCES


def test_too_few_lines_are_waited_for() -> None:
    pupils, memory = started(())
    hear(memory, "new", 2)
    wait(pupils, memory, 0.0, hours=0.1)
    assert wait(pupils, memory, 0.2 * HOUR_S, hours=0.1) == 1
    assert wait(pupils, memory, 0.25 * HOUR_S, hours=0.1) == 0
    hear(memory, "new", 50)
    assert wait(pupils, memory, 0.31 * HOUR_S, hours=0.1) == 1
    assert memory.school.learnt("new") is not None


def test_what_is_learnt_so_far_is_written_once_an_hour_if_there_is_more() -> None:
    pupils, memory = started(())
    hear(memory, "new", 5)
    hear(memory, "once", 1)
    for second in range(0, int(SAVE_S), 60):
        wait(pupils, memory, second)
    assert not snapshots(memory)
    wait(pupils, memory, SAVE_S)
    (written,) = pupils.written(snapshots(memory))
    assert (written.source, written.pupil is not None) == ("new", True), "nobody knows of the other"
    wait(pupils, memory, 2 * SAVE_S)
    assert [x.source for x in pupils.written(snapshots(memory))] == []


def test_who_is_silent_for_long_may_give_way_and_is_told_of_seldom() -> None:
    pupils, memory = started(())
    hear(memory, "gone", 40)
    hear(memory, "here", 40)
    for source in ("gone", "here"):
        memory.school.end(source)
    wait(pupils, memory, 0.0)
    writes = 0
    hours = int(SILENT_S / HOUR_S) + 2
    for hour in range(1, hours):
        memory.school.hear("here")
        wait(pupils, memory, hour * HOUR_S)
        writes += len(pupils.silences(memory.school))
    assert set(memory.school.silent) == {"gone"}
    assert writes == SILENT_S // 86_400
    (last,) = [each for each in pupils.last(memory.school) if each.source == "gone"]
    learnt = memory.school.learnt("gone")
    assert learnt is not None
    again, memory = started([last])
    memory.school.recall(learnt)
    wait(again, memory, SAVE_S)
    assert memory.school.silent == {"gone"}, "before this start, too"
    memory.school.hear("gone")
    wait(again, memory, 2 * SAVE_S)
    assert not memory.school.silent
