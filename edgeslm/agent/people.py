"""What goes on between a device and people: feedback comes in, notices and replies go out.

And what of it the models know: each memory is taught the lessons of its model before it is asked
anything, and so is that of the next bundle.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from edgeslm.adapters.lesson_file import LessonsUnavailableError
from edgeslm.adapters.lessons import LessonLog, Taught
from edgeslm.agent.feedback import Teacher
from edgeslm.agent.models import ModelSlot
from edgeslm.agent.notices import Notices, Seen
from edgeslm.agent.pupils import Learners
from edgeslm.agent.recent import Recent, Said
from edgeslm.agent.responder import Model
from edgeslm.agent.session import Job
from edgeslm.contract.feedback import FeedbackReply
from edgeslm.contract.learning import FeedbackSettings
from edgeslm.contract.messages import encode, stamp
from edgeslm.contract.settings import AgentSettings
from edgeslm.core.delivery import Parcel
from edgeslm.core.operators import Where
from edgeslm.core.overlay import Lesson
from edgeslm.logs import Log
from edgeslm.ports import (
    Arrived,
    DeviceClock,
    Down,
    Memory,
    Received,
    Report,
    Sink,
    Subscribed,
    Transport,
    Up,
)

log = Log(__name__)
FEEDBACK: Final = "-feedback"
"""Stands for its session where models have their names: none is called so."""
TOLD: Final = 20
"""Lessons that the fleet is told of at once; of the others at the next look."""
WAITS_S: Final = 30.0
"""After which it is told that feedback waits for models to load."""
LOOK_S: Final = 1.0
"""Between two looks at what a command on the device has changed."""


class PeopleParts(Protocol):
    """What it is made of."""

    @property
    def clock(self) -> DeviceClock: ...

    def feedback(self, settings: AgentSettings, sink: Sink) -> Transport[Parcel]:
        """Return the link that feedback comes by."""

    def lessons(self, settings: FeedbackSettings, *, make: bool) -> LessonLog | None:
        """Return what was taught; None: nothing was yet, and none is to be made.

        Raises:
            LessonsUnavailableError: the disk refused.
        """


@dataclass(frozen=True, slots=True)
class Voices:
    """How it is told.

    Args:
        trouble: tells an event with an error: event, code, message, model.
        event: tells an event: event, model, detail.
        send: publishes, once it is possible.
    """

    trouble: Callable[[str, str, str, str | None], None]
    event: Callable[[str, str | None, Mapping[str, str | float]], None]
    send: Callable[[Parcel], None]


@dataclass(frozen=True, slots=True)
class _Pupil:
    memory: Memory | None
    serves: bool
    alerts: bool
    silences: Callable[[Lesson], bool]


class People:
    """Owned by the agent's main thread.

    Args:
        settings: in force.
        parts: see there.
        voices: see there.
        slots: the models.
        sink: of the link.
        drops: counts what is not answered.
    """

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        settings: AgentSettings,
        parts: PeopleParts,
        voices: Voices,
        *,
        slots: Callable[[], Mapping[str, ModelSlot]],
        sink: Sink,
        drops: Counter[str],
    ) -> None:
        self._parts = parts
        self._clock = parts.clock
        self._voices = voices
        self._slots = slots
        self._sink = sink
        self._settings = settings
        self._link: Transport[Parcel] | None = None
        self._may_listen = False
        self._waits_at = self._clock.monotonic() + WAITS_S
        self._log: LessonLog | None = None
        self._untaught: set[str] = set()  # models whose lessons could not be read
        self._told = False  # that the disk refuses
        self._unnoted: list[Taught] = []  # lessons that the fleet was told of, unknown to the disk
        self._look_at = 0.0
        self._looked = False  # at what was changed while no agent ran
        self._recent = Recent(self._feedback.remember)
        self._notices = Notices(voices.event, self._shown)
        self._learners = Learners(voices.event, self._open, self._disk)
        self._teacher = Teacher(
            _where(settings),
            self._feedback,
            log=self._made_log,
            recent=self._recent,
            pupils=self._pupils,
            drops=drops,
        )

    @property
    def _feedback(self) -> FeedbackSettings:
        return self._settings.feedback or FeedbackSettings()

    def live_by(self, settings: AgentSettings) -> None:
        """Live by these from now on: listen, or no longer."""
        before, self._settings = self._settings, settings
        if _where(before) != _where(settings) or before.feedback != settings.feedback:
            self._teacher.live_by(_where(settings), self._feedback)
        if before.feedback != settings.feedback and self._log is not None:
            self._log.close()  # what it may hold was settled when it was opened
            self._log, self._looked = None, False
        self._recent.limit(self._feedback.remember)
        self._recent.forget(set(settings.models))
        if settings.feedback is None and before.feedback is not None:
            if self._link is None:  # it was not to listen yet, and may have a session from before
                self._link = self._parts.feedback(before, self._sink)
                self._link.start()
            self._link.stop(forget=True)
            self._link = None
        self._listen()

    def listen(self) -> None:
        """Hear what waits on the broker, now that each model is loaded, or could not be."""
        self._may_listen = True
        self._listen()

    def _listen(self) -> None:
        settings = self._settings
        if self._may_listen and settings.feedback is not None and self._link is None:
            self._link = self._parts.feedback(settings, self._sink)
            self._link.subscribe([settings.topics.feedback])
            self._link.start()

    def leave(self) -> Transport[Parcel] | None:
        """Begin to end; return the link, where there is one."""
        if self._link is not None:
            self._link.stop()
        self._learners.leave(self._slots(), self._clock.monotonic())
        if self._log is not None:
            self._save_shown(float("inf"))
            self._log.close()
            self._log = None
        return self._link

    # What comes in.

    def take(self, report: Report) -> None:
        """Take what the link reports."""
        match report:
            case Arrived() if self._link is not None:
                for message in report.messages:
                    self._hear(message)
                self._link.settle(report.messages)
            case Up():
                log.info("feedback_connected", session_present=report.session_present)
            case Down():
                log.info("feedback_disconnected", reason=report.reason)
            case Subscribed() if report.refused:
                for topic in sorted(report.refused):
                    self._voices.trouble("subscription_refused", "input.refused", topic, None)
            case _:
                pass

    def note(self, job: Job) -> None:
        """Remember a result, and tell people of it where it is for them."""
        if job.said is None or job.parcel is None:
            return
        (id_, request, answer), job.said = job.said, None
        model = job.session.model
        if self._settings.feedback is not None:
            cause = answer.explanation[0]["channel"] if answer.explanation else ""
            said = Said(id_, request.text, request.source, answer.label, job.parcel.alert, cause)
            self._recent.add(model, said)
        settings = self._settings.models.get(model)
        seen = Seen(
            model,
            id_,
            job.parcel.born,
            job.alarm,
            job.route.share if job.route else "none",
            review=settings is not None and settings.review,
            again_s=self._settings.notices.again_s,
            per_minute=self._settings.notices.per_minute,
        )
        self._notices.take(seen, answer, request)

    def _hear(self, message: Received) -> None:
        clock = self._clock
        now = clock.monotonic()
        heard = self._teacher.hear(
            message.payload,
            now=now,
            wall=clock.wall(),
            retained=message.retain,
            trusted=clock.trust == "synchronised",
        )
        if heard.changed:
            with self._disk():
                self._tell_all(self._made_log())
        if heard.reply is not None:
            self._reply(heard.reply, message, now)

    def _reply(self, reply: FeedbackReply, message: Received, now: float) -> None:
        clock = self._clock
        stamp(reply, mono=round(now, 3), boot=clock.boot, trust=clock.trust)
        data = message.properties.get("CorrelationData")
        properties = {} if data is None else {"CorrelationData": data}
        topic = self._settings.topics.feedback_reply
        self._voices.send(Parcel(topic, encode(reply), now, properties=properties))

    def _tell_all(self, kept: LessonLog) -> None:
        """Tell the fleet of each lesson that counts, or does not any more, since it was told last.

        What is not known to have been told is told by the next agent.

        Raises:
            LessonsUnavailableError: the disk refused.
        """
        if self._unnoted:
            kept.tell(self._unnoted, 0)
        self._unnoted = kept.untold(TOLD)
        for each in self._unnoted:
            self._tell(each)
        lost, known = kept.lost()
        if self._unnoted or lost > known:
            kept.tell(self._unnoted, lost - known)
            self._unnoted = []
        if lost > known:
            self._voices.event("feedback_record_lost", None, {"lessons": lost - known})

    def _tell(self, taught: Taught) -> None:
        """Let the fleet know who has changed what; the text stays here."""
        lesson, undone = taught.lesson, taught.undone is not None
        if lesson.kind != "anomaly" or undone:
            self._notices.judged(taught.model, lesson.text, lesson.source)
        slot = self._slots().get(taught.model)
        if lesson.kind == "normal" and lesson.signed and lesson.source and not undone:
            self._learners.again(taught.model, slot, lesson.source)
        detail: dict[str, str | float] = {"lesson": lesson.id, "kind": lesson.kind}
        who = (taught.undone_by, taught.undone_token) if undone else (taught.operator, taught.token)
        detail |= {key: value for key, value in zip(("by", "token"), who, strict=True) if value}
        if taught.flags and not undone:
            detail["flags"] = ", ".join(taught.flags)
        memory = None if slot is None else slot.memory
        if memory is not None and memory.ordered and lesson.covers is not None and not undone:
            detail["covers"] = lesson.covers
        event = "feedback_undone" if undone else "feedback_learnt"
        self._voices.event(event, taught.model, detail)

    # What models know.

    def memory(self, name: str, model: Model) -> Memory | None:
        """Return a memory for a model that is about to answer, with all that it was taught."""
        memory = model.memory()
        if memory is not None:
            settings = self._settings.models.get(name)
            if memory.school is not None and settings is not None:
                memory.school.lines = settings.learn.lines
            self._teach(name, memory)
        return memory

    def tend(self, now: float) -> None:
        """Do what is due."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        for name, slot in self._slots().items():
            memory = slot.memory
            if memory is None:
                continue
            if name in self._untaught:
                self._teach(name, memory)
            if memory.school is not None:
                self._learners.attend(name, slot, memory.school, now)
        with self._disk():
            if (kept := self._open(make=False)) is not None:
                if kept.changed() or not self._looked:
                    self._look(kept)
                    self._looked = True
                self._tell_all(kept)
        self._notices.tend(now)
        self._save_shown(now)
        if not self._may_listen and now >= self._waits_at and self._settings.feedback is not None:
            self._waits_at = float("inf")
            loading = sorted(name for name, slot in self._slots().items() if slot.loading)
            self._voices.event("feedback_waits", None, {"models": ", ".join(loading)})

    def _teach(self, name: str, memory: Memory) -> None:
        self._untaught.add(name)
        with self._disk():
            if (kept := self._open(make=False)) is not None:
                memory.overlay.learn(*kept.counting(name))
                if memory.school is not None:
                    for learnt in kept.learnt(name):
                        memory.school.recall(learnt)
                    for each in kept.attendances(name):
                        if each.pupil is not None:
                            memory.school.resume(each.source, each.pupil)
            self._untaught.discard(name)

    def _look(self, kept: LessonLog) -> None:
        """Know what a command on this device has taken back."""
        for name, slot in self._slots().items():
            memory = slot.memory
            if memory is None:
                continue
            counting = {lesson.id: lesson for lesson in kept.counting(name)}
            gone = [id_ for id_ in memory.overlay.lessons if id_ not in counting]
            memory.overlay.unlearn(*gone)
            memory.overlay.learn(*counting.values())
        for forgotten in kept.forgotten():
            if not forgotten.told:
                self._learners.forget(self._slots().get(forgotten.model), forgotten)
                kept.told(forgotten)

    def _pupils(self) -> dict[str, _Pupil]:
        pupils = {}
        for name, slot in self._slots().items():
            responder = slot.responder
            silences: Callable[[Lesson], bool] = _nothing
            if responder is not None:
                silences = partial(responder.model.silences, memory=slot.memory)
            alerts = "alert" in slot.session.lanes
            pupils[name] = _Pupil(slot.memory, slot.serving is not None, alerts, silences)
        return pupils

    # What is on disk.

    def _open(self, *, make: bool) -> LessonLog | None:
        """Return what was taught; None: nothing was, and none is to be made.

        Raises:
            LessonsUnavailableError: the disk refused.
        """
        if self._log is None:
            self._log = self._parts.lessons(self._feedback, make=make)
            if self._log is not None and (aside := self._log.set_aside) is not None:
                why = f"kept as {aside}"
                self._voices.trouble("feedback_set_aside", "feedback.damaged", why, None)
        return self._log

    def _made_log(self) -> LessonLog:
        made = self._open(make=True)
        assert made is not None  # noqa: S101 -- it was to be made
        return made

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Tell once that the disk refuses, and go on without."""
        try:
            yield
        except LessonsUnavailableError as err:
            if not self._told:
                self._told = True
                self._voices.trouble("feedback_unavailable", err.code, str(err), None)
        else:
            self._told = False

    def _shown(self, model: str) -> list[str]:
        found: list[str] = []
        with self._disk():
            if (kept := self._open(make=False)) is not None:
                found = kept.shown(model)
        return found

    def _save_shown(self, now: float) -> None:
        for model, digests in self._notices.unsaved(now).items():
            with self._disk():
                self._made_log().show(model, digests)


def _where(settings: AgentSettings) -> Where:
    told = settings.feedback or FeedbackSettings()
    return Where(settings.device_id, settings.tags, told.keys, frozenset(told.revoked))


def _nothing(lesson: Lesson) -> bool:
    del lesson
    return False
