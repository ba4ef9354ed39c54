"""Who learns, and for how long: over any number of restarts, and seldom written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from edgeslm.adapters.lesson_sources import Attendance
from edgeslm.adapters.lessons import NAME, LessonLog
from edgeslm.agent.pupils import SAVE_S, SILENT_S, Learners, Pupils
from edgeslm.core.learning import Snapshot
from edgeslm.core.memory import LineMemory

HOUR_S = 3600.0


def hear(memory: LineMemory[object], source: str, lines: int) -> None:
    for i in range(lines):
        memory.school.take(source, "temp=¤", [str(i)], alarm=False)


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
