"""What was taught is kept before it counts, whatever happens to the process, and is bounded."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.adapters import lesson_file
from edgeslm.adapters.lesson_file import LessonsUnavailableError
from edgeslm.adapters.lesson_room import LessonsFullError
from edgeslm.adapters.lesson_sources import Attendance, Forgotten
from edgeslm.adapters.lessons import (
    GAVE_WAY,
    MAX_SHOWN,
    NAME,
    TOKENS,
    LessonLog,
    Taught,
)
from edgeslm.core import records
from edgeslm.core.learning import Learnt, Pupil, School, Snapshot
from edgeslm.core.numbers import history
from edgeslm.core.overlay import Lesson
from tests import kills

PROGRAM = Path(__file__).parent / "teach.py"


def opened(folder: Path, **more: Any) -> LessonLog:
    bounds = {"max_lessons": 100, "max_bytes": 2**20, **more}
    return LessonLog(folder / NAME, **bounds)


def taught(text: str = "pump off", **more: Any) -> Taught:
    fields = {"kind": "normal", "source": "a", "time": 5.0, **more}
    return Taught(
        "m", Lesson(0, text=text, **fields), "Anna", "t" * 16, 6.0, "r1", ("contradicts",)
    )


def test_its_owner_alone_may_read_it(tmp_path: Path) -> None:
    """Texts and people are in it; SQLite by itself asks the umask."""
    before = os.umask(0o022)
    try:
        opened(tmp_path).close()
    finally:
        os.umask(before)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_a_lesson_comes_back_as_it_was_with_who_gave_it(tmp_path: Path) -> None:
    log = opened(tmp_path)
    kept, _ = log.add(taught(kind="intent", label="on", whole=False, channel="window"))
    log.close()
    again = opened(tmp_path)
    assert again.all() == [kept]
    assert again.find(kept.lesson.id) == kept
    assert again.counting("m") == [kept.lesson]
    assert again.counting("other") == []
    assert again.newest() == 6.0


def test_what_is_taken_back_does_not_count_and_stays_on_record(tmp_path: Path) -> None:
    log = opened(tmp_path)
    kept, _ = log.add(taught())
    (undone,) = log.undo([kept.lesson.id, 77], at=9.0, by="Bob", token="u" * 16)
    assert (undone.undone, undone.undone_by, undone.undone_token) == (9.0, "Bob", "u" * 16)
    assert log.counting("m") == []
    assert log.all() == [undone]
    assert log.undo([kept.lesson.id], at=10.0, by="Eve") == []
    assert log.add(taught())[0].lesson.id != kept.lesson.id  # a number is given once


def test_another_process_is_noticed(tmp_path: Path) -> None:
    log, other = opened(tmp_path), opened(tmp_path)
    kept, _ = log.add(taught())
    assert not log.changed()
    other.undo([kept.lesson.id], at=1.0, by="")
    assert log.changed()
    assert not log.changed()


def junk(text: str, **more: Any) -> Taught:
    """What somebody without a token says."""
    return replace(taught(text, kind="anomaly", **more), operator="", token="")


def test_nothing_signed_that_counts_is_dropped_and_the_rest_gives_way_oldest_first(
    tmp_path: Path,
) -> None:
    log = opened(tmp_path, max_lessons=4)
    signed, _ = log.add(taught("pump odd", time=1.0))
    for i in range(2):
        log.add(junk("pump odd", time=2.0 + i))
    with pytest.raises(LessonsFullError, match="--unsigned"):
        log.add(junk("more"))
    assert log.counting("m")[0] == signed.lesson
    log.add(taught("one"))
    _, gone = log.add(taught("two"))
    assert [(x.lesson.id, x.undone_by) for x in gone] == [(2, GAVE_WAY)]
    log.add(taught("three"))
    with pytest.raises(LessonsFullError, match="undo some"):
        log.add(taught("four"))
    assert [x.text for x in log.counting("m")] == ["pump odd", "one", "two", "three"]
    # Taking a later one back is as if it had never been.
    log.undo([each.id for each in log.counting("m")[1:]], at=9.0, by="x")
    assert log.counting("m") == [signed.lesson]


def test_the_record_of_what_was_taken_back_has_bounds_of_its_own_and_says_what_it_lost(
    tmp_path: Path,
) -> None:
    log = opened(tmp_path, max_lessons=4)
    signed, _ = log.add(taught("one"))
    log.undo([signed.lesson.id], at=1.0, by="Bob")
    for i in range(6):
        kept, _ = log.add(junk(f"junk {i}"))
        log.undo([kept.lesson.id], at=2.0 + i, by="Bob")
    for i in range(4):
        log.add(taught(f"text {i}"))
    # Room was needed, and the record is as it was: of the unsigned, the newest three.
    assert [x.lesson.text for x in log.all() if x.undone] == ["one", "junk 3", "junk 4", "junk 5"]
    assert log.lost() == (3, 0)
    log.tell([], 3)
    assert log.lost() == (3, 3)


def test_a_message_is_known_again_though_its_lesson_is_not_on_record_any_more(
    tmp_path: Path,
) -> None:
    log = opened(tmp_path, max_lessons=1)
    for i in range(3):
        kept, _ = log.add(taught(), f"digest {i}")
        log.undo([kept.lesson.id], at=1.0, by="Bob")
    log.heed("again", 3)
    log.close()
    log = opened(tmp_path)
    assert [log.heeded(x) for x in ("digest 0", "digest 2", "again", "other")] == [1, 3, 3, None]
    assert log.find(1) is None


def test_tokens_that_were_right_are_bounded_the_newest_stay(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.raise_floor(7.0)
    for i in range(TOKENS + 3):
        log.note_token(f"d{i}", 1.0)
    assert len(log.tokens()) == TOKENS
    assert "d2" not in log.tokens()
    assert log.time_floor() == 7.0


def test_what_the_fleet_was_not_told_of_is_known_to_the_next_agent(tmp_path: Path) -> None:
    log = opened(tmp_path)
    kept, _ = log.add(taught())
    assert log.untold(9) == [kept]
    (undone,) = log.undo([kept.lesson.id], at=1.0, by="x")
    log.tell([kept], 0)  # it was told as it was before
    log.close()
    again = opened(tmp_path)
    assert again.untold(9) == [undone]
    again.tell([undone], 0)
    assert again.untold(9) == []


def test_a_file_of_the_first_schema_is_read_and_goes_on(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / NAME) as db:
        for table in lesson_file._TABLES:  # noqa: SLF001
            db.execute(table)
        db.execute(
            "INSERT INTO lesson VALUES (5, 'm', 'normal', '', 'x', 1, NULL, 1, 1, 'Anna', 't', "
            "'', '', NULL, NULL, NULL, '')"
        )
        db.execute("PRAGMA user_version = 1")
    db.close()
    assert [x.lesson.id for x in opened(tmp_path, readonly=True).all()] == [5]
    log = opened(tmp_path)
    assert log.untold(9) == []
    assert log.add(taught())[0].lesson.id == 6
    assert log.counting("m")[0].signed


def test_its_bytes_are_bounded(tmp_path: Path) -> None:
    log = opened(tmp_path, max_bytes=4000)
    for i in range(3):
        log.add(taught(f"{i} {'x' * 900}"))
    with pytest.raises(LessonsFullError):
        log.add(taught("x" * 900))
    log.add(taught("short"))


def test_what_sources_learnt_and_what_was_shown_comes_back(tmp_path: Path) -> None:
    log = opened(tmp_path)
    learnt = Learnt("a", 9, 2, frozenset({"t", "u=¤"}), {"u=¤": (history([1.0, 2.0, 2.0]),)})
    log.keep("m", learnt)
    log.keep("m", learnt)
    log.show("m", [f"k{i}" for i in range(MAX_SHOWN + 5)])
    log.raise_floor(7.0)
    log.close()
    again = opened(tmp_path)
    assert again.learnt("m") == [learnt]
    assert again.shown("m")[0] == "k5"
    assert len(again.shown("m")) == MAX_SHOWN
    assert again.time_floor() == 7.0
    assert again.models_of("a") == ["m"]
    assert again.forget("m", "a", at=5.0, by="Eve")
    assert not again.forget("m", "a", at=6.0, by="Eve")
    assert again.learnt("m") == []
    (forgotten,) = again.forgotten()
    assert forgotten == Forgotten(1, "m", "a", 5.0, "Eve")
    again.told(forgotten)
    assert again.forgotten()[0].told


def pupil(lines: int) -> Pupil:
    school = School(lines=10_000)
    for i in range(lines):
        school.take("a", "temp=¤ at ¤", [str(i / 7), "x"], alarm=False)
    school.snapshot(["a"])
    found = school.news.pop()
    assert isinstance(found, Snapshot)
    return found.pupil


def test_how_far_sources_have_come_comes_back(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.attend("m", [Attendance("a", 7.0, 0.0, pupil(40)), Attendance("b", 1.0, 2.0)])
    log.attend("m", [Attendance("a", 9.0, 3.0)])
    log.close()
    again = opened(tmp_path)
    first, second = again.attendances("m")
    assert (first.source, first.spent_s, first.silent_s) == ("a", 9.0, 3.0)
    assert first.pupil is not None
    assert records.of_pupil(first.pupil) == records.of_pupil(pupil(40))
    assert second == Attendance("b", 1.0, 2.0)
    again.keep("m", Learnt("a", 40, 0, frozenset({"t"}), {}))
    assert [each.pupil for each in again.attendances("m")] == [None, None]
    again.drop("m", ["a", "b", "c"])
    assert (again.attendances("m"), again.learnt("m"), again.forgotten()) == ([], [], [])


def test_what_sources_learn_is_bounded_on_disk(tmp_path: Path) -> None:
    log = opened(tmp_path, max_bytes=4000)
    for i in range(9):
        histories = {"t": (history([j / 7 for j in range(40)]),)}
        log.keep("m", Learnt(f"s{i}", 40, 0, frozenset({"t"}), histories))
        log.attend("m", [Attendance(f"p{i}", 0.0, 0.0, pupil(40))])
    kept = [each.source for each in log.learnt("m")]
    assert 0 < len(kept) < 9
    assert kept[-1] == "s8"
    assert log.attendances("m")[-1].source == "p8"
    assert sum(len(records.of_learnt(each)) for each in log.learnt("m")) <= 4000


def test_a_file_of_before_gets_what_it_lacks(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / NAME) as db:
        db.execute("DROP TABLE pupil")
        db.execute("DROP TABLE forgotten")
        db.execute("PRAGMA user_version = 2")
    assert opened(tmp_path).attendances("m") == []


WHOLE = json.loads(records.of_pupil(pupil(3)))


@pytest.mark.parametrize(
    "change",
    [
        {"lines": "x"}, {"lines": -1}, {"lines": True}, {"templates": []}, {"readings": None},
        {"heard": 2}, {"alarms": -1},
        {"templates": {"t": 0}}, {"readings": {"temp=¤ at ¤": [2, 1, 3, "!"]}},
        {"readings": {"temp=¤ at ¤": [0, 1, 3, ""]}}, {"readings": {"temp=¤ at ¤": [2, 1, 3]}},
        {"readings": {"temp=¤ at ¤": [2, 1, 3, "AAAAAAAAAAA="]}},
        {"readings": {"u": [1, 1, 1, ""]}},
    ],
)  # fmt: skip
def test_a_record_of_a_pupil_that_is_damaged_is_refused(change: dict[str, Any]) -> None:
    records.pupil_of(json.dumps(WHOLE))
    with pytest.raises(ValueError, match="damaged"):
        records.pupil_of(json.dumps(WHOLE | change))


def test_a_record_of_before_tells_only_what_was_learnt() -> None:
    old = {key: WHOLE[key] for key in ("lines", "templates", "readings")}
    found = records.pupil_of(json.dumps(old))
    assert (found.lines, found.heard, found.alarms, found.ended) == (3, 3, 0, False)
    nothing = Pupil(0, 60, 60, ended=True)
    assert records.pupil_of(records.of_pupil(nothing)) == nothing


@given(
    st.text()
    | st.recursive(
        st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    ).map(json.dumps)
)
def test_whatever_a_record_holds_is_a_pupil_or_refused(record: str) -> None:
    for read in (records.pupil_of, lambda text: records.learnt_of("a", text)):
        with contextlib.suppress(ValueError):
            read(record)


@pytest.mark.parametrize("record", ["", "{}", "[]", '{"lines": "x"}', "null"])
def test_what_a_source_learnt_is_left_out_where_it_is_damaged(tmp_path: Path, record: str) -> None:
    log = opened(tmp_path)
    with sqlite3.connect(tmp_path / NAME) as db:
        db.execute("INSERT INTO learnt VALUES ('m', 'a', ?)", (record,))
    assert log.learnt("m") == []


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no database" * 100)
    log = opened(tmp_path)
    assert log.set_aside is not None
    assert log.set_aside.read_bytes().startswith(b"no database")
    assert log.all() == []


def test_a_command_makes_nothing(tmp_path: Path) -> None:
    for more in ({"readonly": True}, {"make": False}):
        with pytest.raises(LessonsUnavailableError):
            opened(tmp_path, **more)
    (tmp_path / NAME).write_bytes(b"no database" * 100)
    with pytest.raises(LessonsUnavailableError):
        opened(tmp_path, readonly=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_disk_that_refuses_is_said_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LessonsUnavailableError):
        opened(tmp_path)


def counting(said: str) -> tuple[set[int], set[int]]:
    """Return which lessons were kept, and which of them were taken back, by what was printed."""
    ids = [int(line) for line in said.split()]
    return {i for i in ids if i > 0}, {-i for i in ids if i < 0}


def test_what_was_said_to_be_kept_is_kept_though_the_process_is_killed(tmp_path: Path) -> None:
    command = kills.python(str(PROGRAM), str(tmp_path / NAME), "100000")
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    said = "".join(writer.stdout.readline() for _ in range(40))
    writer.kill()
    said += writer.stdout.read().rpartition("\n")[0]
    writer.wait()
    writer.stdout.close()
    kept, undone = counting(said)
    found = {x.lesson.id: x.undone is not None for x in opened(tmp_path).all()}
    assert kept <= found.keys()
    assert all(found[id_] for id_ in undone)
    assert len(found.keys() - kept) <= 1  # one that was on its way
    assert len([id_ for id_ in kept - undone if found[id_]]) <= 1


@pytest.mark.slow
def test_wherever_it_is_killed_the_file_is_whole(tmp_path: Path) -> None:
    kills.need_strace()
    calm = tmp_path / "calm"
    calm.mkdir()
    command = kills.python(str(PROGRAM), str(calm / NAME), "4")
    for at in kills.some(kills.points(command, calm), 24):
        folder = tmp_path / str(at).replace(" ", "-")
        folder.mkdir()
        assert kills.kill(kills.python(str(PROGRAM), str(folder / NAME), "4"), at) == -9
        log = opened(folder)
        assert log.set_aside is None
        texts = [x.lesson.text for x in log.all()]
        assert texts == [f"text {i}" for i in range(len(texts))]
        log.add(taught())


def test_its_rows_are_json_that_can_be_read_by_people(tmp_path: Path) -> None:
    """An auditor needs no program of ours: sqlite3 and eyes will do."""
    log = opened(tmp_path)
    log.keep("m", Learnt("a", 1, 1, frozenset({"t"}), {}))
    with sqlite3.connect(tmp_path / NAME) as db:
        (record,) = db.execute("SELECT record FROM learnt").fetchone()
    assert json.loads(record)["templates"] == ["t"]
