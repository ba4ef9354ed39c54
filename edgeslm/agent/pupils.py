"""The sources that were not in training: how long each has learnt, and was silent.

Time counts while the agent runs, so that it ends over any number of restarts. What they have learnt
so far is written seldom: flash wears.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from edgeslm.adapters.lesson_sources import Attendance, Forgotten
from edgeslm.adapters.lessons import LessonLog
from edgeslm.agent.models import ModelSlot
from edgeslm.core.allowance import Allowance
from edgeslm.core.learning import KEPT, SOURCES, TERMS, Dropped, Learnt, School, Snapshot
from edgeslm.ports import Memory

SAVE_S: Final = 3600.0
"""Between two times that what sources have learnt so far is written."""
SAVED_BYTES: Final = 2**20
"""Written at once, about, but at the end: a source that does not fit waits for the next time."""
SILENT_S: Final = 30 * 86_400.0
"""After so long without a line, while the agent ran, a source may give way to another one."""
BEGUN: Final = 60
"""Sources of a model that are told of in a minute, at most; of others in the next one."""
REMEDY: Final = (
    "if its alarms are normal, confirm them: it learns anew; if not, it may be faulty; or export "
    "the model anew with its lines"
)
_MINUTE_S: Final = 60.0
_HOUR_S: Final = 3600.0
_DAY_S: Final = 86_400.0

Lesson = Callable[[Memory], None]
"""Changes a memory, in its turn among the inputs."""


@dataclass(slots=True)
class _Source:
    spent_s: float = 0.0
    silent_s: float = 0.0
    tried_s: float = 0.0  # of `spent_s`, when it was to end last
    heard: bool = False  # since it was saved
    told: bool = False  # that it learns
    saved_s: float = 0.0  # `silent_s` as it was written


class Pupils:
    """Owned by the agent's main thread; those of one model.

    Args:
        attendances: as they were kept.
        now: monotonic seconds.
    """

    def __init__(self, attendances: Iterable[Attendance], *, now: float) -> None:
        self._now = now
        self._save_at = now + SAVE_S
        self._tells = Allowance(BEGUN, _MINUTE_S)
        self._sources = {
            each.source: _Source(each.spent_s, each.silent_s, saved_s=each.silent_s, told=True)
            for each in attendances
        }

    def forget(self, source: str) -> None:
        """Know nothing of a source."""
        self._sources.pop(source, None)

    def again(self, source: str, school: School) -> None:
        """Let the time of a source begin anew, which learns or is to."""
        if (known := self._sources.get(source)) is not None and school.learnt(source) is None:
            known.spent_s = known.tried_s = 0.0
            known.told = known.told and source in school.learning

    def begun(self, school: School, now: float) -> Iterator[str]:
        """Yield who learns, and was not told of; not all at once where they are many."""
        for source in school.learning:
            known = self._sources.get(source)
            if (known is None or not known.told) and self._tells.take(now):
                yield source

    def tell(self, source: str) -> bool:
        """Note that it is told that a source learns; return whether it was not."""
        known = self._sources.setdefault(source, _Source())
        told, known.told = known.told, True
        return not told

    def pass_time(self, school: School, now: float, *, hours: float) -> Iterator[Lesson]:
        """Let time pass; yield what ends those whose time is over, and takes what is to be saved.

        Args:
            school: where they learn.
            now: monotonic seconds.
            hours: that a source learns.
        """
        passed, self._now = now - self._now, now
        heard, school.heard = school.heard, set()
        learning = school.learning
        held = school.sources
        for name in held:
            if name not in self._sources:
                self._sources[name] = _Source()
        for name, source in self._sources.items():
            source.silent_s = 0.0 if name in heard else source.silent_s + passed
            source.heard |= name in heard
        for name in learning:
            if (pupil := self._sources.get(name)) is None:
                continue  # it gave way just now
            pupil.spent_s += passed
            if pupil.spent_s >= pupil.tried_s + _HOUR_S * hours:
                pupil.tried_s = pupil.spent_s  # for another while, if too few lines have come
                waits = pupil.spent_s < TERMS * _HOUR_S * hours
                yield partial(_close, source=name, waits=waits)
        if len(self._sources) > 2 * SOURCES or now >= self._save_at:
            self._sources = {name: self._sources[name] for name in held}
        if now >= self._save_at:
            self._save_at = now + SAVE_S
            school.silent = {n for n, each in self._sources.items() if each.silent_s >= SILENT_S}
            if names := self._due(school):
                yield partial(_snapshot, sources=names)

    def written(self, snapshots: Iterable[Snapshot]) -> Iterator[Attendance]:
        """Yield what is to be written of these."""
        for snapshot in snapshots:
            source = self._sources.get(snapshot.source)
            if source is not None and snapshot.pupil.heard >= KEPT:
                source.heard, source.saved_s = False, source.silent_s
                yield Attendance(snapshot.source, source.spent_s, source.silent_s, snapshot.pupil)

    def silences(self, school: School) -> list[Attendance]:
        """Return what is to be written of who learns no more: a day of silence, or its end."""
        found = []
        for name, source in self._sources.items():
            if school.learns_no_more(name) and abs(source.silent_s - source.saved_s) >= _DAY_S:
                source.saved_s = source.silent_s
                found.append(Attendance(name, source.spent_s, source.silent_s))
        return found

    def last(self, school: School) -> Iterator[Attendance]:
        """Yield what is to be written at the end, when nobody learns any more."""
        for name in school.learning:
            if name in self._sources:
                school.snapshot([name])
                snapshot = school.news.pop()
                if isinstance(snapshot, Snapshot):
                    yield from self.written([snapshot])
        for name, source in self._sources.items():
            if school.learns_no_more(name) and source.silent_s != source.saved_s:
                yield Attendance(name, source.spent_s, source.silent_s)

    def _due(self, school: School) -> Collection[str]:
        """Return who has learnt since it was saved, as many as may be written at once."""
        left, found = SAVED_BYTES, []
        for name in school.learning:
            if (source := self._sources.get(name)) is not None and source.heard:
                left -= school.weight(name)
                if left >= 0:
                    found.append(name)
        return found


class Opened(Protocol):
    """Opens what was taught."""

    def __call__(self, *, make: bool) -> LessonLog | None:
        """Return it; None: nothing was taught, and none is to be made.

        Raises:
            LessonsUnavailableError: the disk refused.
        """


class Learners:
    """The pupils of every model. Owned by the agent's main thread.

    Args:
        event: tells an event: event, model, detail.
        opened: see there.
        disk: within it the disk may refuse.
    """

    def __init__(
        self,
        event: Callable[[str, str | None, Mapping[str, str | float]], None],
        opened: Opened,
        disk: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._event = event
        self._opened = opened
        self._disk = disk
        self._pupils: dict[str, Pupils] = {}

    def attend(self, name: str, slot: ModelSlot, school: School, now: float) -> None:
        """See who has begun to learn, and who has ended; end those whose time is over."""
        if name not in self._pupils:
            with self._disk():
                kept = self._opened(make=False)
                found = () if kept is None else kept.attendances(name)
                self._pupils[name] = Pupils(found, now=now)
        if (pupils := self._pupils.get(name)) is None:
            return  # the disk refused: at the next look
        snapshots = self._read(name, pupils, school)
        for source in pupils.begun(school, now):
            self._began(name, pupils, source, school)
        if written := [*pupils.written(snapshots), *pupils.silences(school)]:
            self._write(name, written)
        for change in pupils.pass_time(school, now, hours=slot.settings.learn.hours):
            _teach(slot, change)

    def forget(self, slot: ModelSlot | None, forgotten: Forgotten) -> None:
        """Let a source learn anew, and let the fleet know who wished so."""
        if slot is not None:
            _teach(slot, partial(_forget, source=forgotten.source))
        if (pupils := self._pupils.get(forgotten.model)) is not None:
            pupils.forget(forgotten.source)
        detail = {"source": forgotten.source, "by": forgotten.by}
        self._event("learning_forgotten", forgotten.model, detail)

    def again(self, name: str, slot: ModelSlot | None, source: str) -> None:
        """Let the period of a source begin anew: an operator has confirmed lines of it."""
        memory = None if slot is None else slot.memory
        if slot is not None and memory is not None and memory.school is not None:
            _teach(slot, partial(_again, source=source))
            if (pupils := self._pupils.get(name)) is not None:
                pupils.again(source, memory.school)
        with self._disk():
            if (kept := self._opened(make=False)) is not None:
                kept.readmit(name, source)

    def leave(self, slots: Mapping[str, ModelSlot], now: float) -> None:
        """Write how far all have come: nobody learns any more."""
        for name, slot in slots.items():
            memory = slot.memory
            if memory is not None and memory.school is not None:
                self.attend(name, slot, memory.school, now)
                if (pupils := self._pupils.get(name)) is not None:
                    self._write(name, pupils.last(memory.school), make=bool(memory.school.learning))

    def _read(self, name: str, pupils: Pupils, school: School) -> list[Snapshot]:
        """Read a school's news; return what is to be written of who learns."""
        snapshots, dropped = [], []
        while school.news:
            match school.news.popleft():
                case Learnt(source) as learnt:
                    self._began(name, pupils, source, school)
                    self._keep(name, learnt)
                case Dropped(source):
                    pupils.forget(source)
                    dropped.append(source)
                case Snapshot(source, pupil) as snapshot:
                    if pupil.ended:
                        self._began(name, pupils, source, school)
                        self._failed(name, snapshot)
                    snapshots.append(snapshot)
        if dropped:
            with self._disk():
                if (kept := self._opened(make=False)) is not None:
                    kept.drop(name, dropped)
        return snapshots

    def _began(self, name: str, pupils: Pupils, source: str, school: School) -> None:
        if pupils.tell(source):
            self._event("learning_began", name, {"source": source, "lines": school.lines})

    def _failed(self, name: str, ended: Snapshot) -> None:
        pupil = ended.pupil
        detail: dict[str, str | float] = {
            "source": ended.source,
            "heard": pupil.heard,
            "alarms": pupil.alarms,
            "lines": pupil.lines,
            "remedy": REMEDY,
        }
        self._event("learning_failed", name, detail)

    def _keep(self, name: str, learnt: Learnt) -> None:
        detail: dict[str, str | float] = {
            "source": learnt.source,
            "lines": learnt.lines,
            "templates": len(learnt.templates),
        }
        self._event("learning_ended", name, detail)
        with self._disk():
            if (kept := self._opened(make=True)) is not None:
                kept.keep(name, learnt)

    def _write(self, name: str, found: Iterable[Attendance], *, make: bool = True) -> None:
        with self._disk():
            if (kept := self._opened(make=make)) is not None:
                kept.attend(name, found)


def _teach(slot: ModelSlot, change: Lesson) -> None:
    """Let a change take its turn among the inputs."""
    if slot.responder is not None and slot.pool is not None:
        lesson = slot.responder.lesson(change)
        if lesson is not None:
            slot.pool.put(lesson)


def _close(memory: Memory, *, source: str, waits: bool) -> None:
    if memory.school is not None:
        memory.school.close(source, waits=waits)


def _again(memory: Memory, *, source: str) -> None:
    if memory.school is not None:
        memory.school.again(source)


def _snapshot(memory: Memory, *, sources: Collection[str]) -> None:
    if memory.school is not None:
        memory.school.snapshot(sources)


def _forget(memory: Memory, *, source: str) -> None:
    if memory.school is not None:
        memory.school.forget(source)
