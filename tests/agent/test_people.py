"""What the fleet is told of lessons, whoever changed them and whether an agent ran or not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from edgeslm.adapters.clock import DeviceClock
from edgeslm.adapters.lesson_file import LessonsUnavailableError
from edgeslm.adapters.lesson_sources import Attendance
from edgeslm.adapters.lessons import NAME, LessonLog, Taught
from edgeslm.adapters.loopback import Bus, Loopback
from edgeslm.agent.models import ModelSlot
from edgeslm.agent.people import LOOK_S, TOLD, WAITS_S, People, Voices
from edgeslm.contract.learning import FeedbackSettings
from edgeslm.contract.routes import ModelSettings
from edgeslm.contract.settings import AgentSettings
from edgeslm.core.delivery import Parcel
from edgeslm.core.learning import Pupil
from edgeslm.core.memory import LineMemory
from edgeslm.core.overlay import Lesson
from edgeslm.ports import Arrived, Received, Report, Sink, Subscribed, Transport, Up
from tests.agent.lines import Signer

SIGNER = Signer()
Event = tuple[str, str | None, dict[str, Any]]


def opened(folder: Path, *, max_lessons: int = 1000) -> LessonLog:
    return LessonLog(folder / NAME, max_lessons=max_lessons, max_bytes=2**20)


@dataclass
class Parts:
    """A device's disk, and a broker in memory."""

    folder: Path
    clock: DeviceClock = field(default_factory=lambda: DeviceClock(earliest=0))
    bus: Bus = field(default_factory=Bus)

    def feedback(self, settings: AgentSettings, sink: Sink) -> Transport[Parcel]:
        return Loopback(self.bus, settings.device_id, sink)

    def lessons(self, settings: FeedbackSettings, *, make: bool) -> LessonLog | None:
        if not make and not (self.folder / NAME).exists():
            return None
        return opened(self.folder, max_lessons=settings.max_lessons)


class Site:
    """An agent's people, without the rest of it."""

    def __init__(self, folder: Path, *, listens: bool = True, **feedback: Any) -> None:
        self.events: list[Event] = []
        self.sent: list[dict[str, Any]] = []
        self.reports: list[Report] = []
        self.memory: LineMemory[Any] = LineMemory()
        model = SimpleNamespace(silences=lambda _lesson, *, memory: memory is None)
        slot = SimpleNamespace(
            responder=SimpleNamespace(model=model),
            memory=self.memory,
            session=SimpleNamespace(lanes={None}),
            settings=ModelSettings(),
            pool=None,
            serving=object(),
            loading=not listens,
        )
        settings = AgentSettings.model_validate(
            {"device_id": "d", "feedback": {"keys": [SIGNER.public], **feedback}}
        )
        self.settings = settings
        self.parts = Parts(folder)
        self.people = People(
            settings,
            self.parts,
            Voices(self._trouble, self._event, self._sent),
            slots=lambda: {"m": cast("ModelSlot", slot)},
            sink=self._heard,
            drops=Counter(),
        )
        self.people.live_by(settings)
        if listens:
            self.people.listen()
        self._now = 0.0

    def looks(self) -> None:
        """Let the agent look around once."""
        self._now += 2 * LOOK_S
        self.people.tend(self._now)

    def hears(self, *, retain: bool = False, **message: Any) -> dict[str, Any]:
        """Return the reply to a message."""
        raw = json.dumps(message).encode()
        received = Received("edgeslm/v1/d/feedback", raw, 1, 1, False, retain, 1, 0.0)  # noqa: FBT003
        self.people.take(Arrived([received]))
        return self.sent[-1]

    def _heard(self, report: Report) -> None:
        self.reports.append(report)

    def _trouble(self, event: str, code: str, message: str, model: str | None) -> None:
        self.events.append((event, model, {"code": code, "message": message}))

    def _event(self, event: str, model: str | None, detail: Mapping[str, str | float]) -> None:
        self.events.append((event, model, dict(detail)))

    def _sent(self, parcel: Parcel) -> None:
        self.sent.append(json.loads(parcel.payload))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.people.leave()


def teach(folder: Path, count: int) -> list[int]:
    """Keep lessons of an operator, of which the fleet was told."""
    log = opened(folder)
    kept = [
        log.add(Taught("m", Lesson(0, "normal", f"text {'x' * i}"), "Anna", "t" * 16))[0]
        for i in range(count)
    ]
    log.tell(kept, 0)
    log.close()
    return [each.lesson.id for each in kept]


def test_what_was_taken_back_while_no_agent_ran_is_told_when_one_starts(
    site: Site, tmp_path: Path
) -> None:
    ids = teach(tmp_path, TOLD + 3)
    log = opened(tmp_path)
    log.undo(ids, at=1.0, by="root (on the device)")
    log.close()
    site.looks()
    assert len(site.events) == TOLD, "a few at once"
    site.looks()
    site.looks()
    told = {("feedback_undone", "m", detail["lesson"]) for _, _, detail in site.events}
    assert told == {("feedback_undone", "m", id_) for id_ in ids}
    assert len(site.events) == len(ids)
    assert site.events[0][2]["by"] == "root (on the device)"


def test_what_the_disk_does_not_know_to_be_told_is_not_told_without_end(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(tmp_path, 1)
    log = opened(tmp_path)
    log.undo([1], at=1.0, by="x")
    log.close()

    def fail(*_: object) -> None:
        raise LessonsUnavailableError("full")  # noqa: EM101

    monkeypatch.setattr(LessonLog, "tell", fail)
    for _ in range(5):
        site.looks()
    assert [event for event, _, _ in site.events] == ["feedback_undone", "feedback_unavailable"]


def test_what_gave_way_and_what_the_record_lost_is_told(tmp_path: Path) -> None:
    site = Site(tmp_path, max_lessons=2)
    token = SIGNER.token()
    site.hears(kind="anomaly", text="junk", model="m")
    for text in ("a", "b"):
        assert site.hears(kind="normal", text=text, model="m", token=token)["status"] == "learnt"
    assert [(event, detail["lesson"]) for event, _, detail in site.events] == [
        ("feedback_learnt", 1),
        ("feedback_learnt", 2),
        ("feedback_undone", 1),
        ("feedback_learnt", 3),
    ]
    assert "gave way" in site.events[2][2]["by"]
    for lesson in (2, 3):
        site.hears(kind="undo", lesson=lesson, token=token)
    assert site.events[-1] == ("feedback_record_lost", None, {"lessons": 1})
    site.people.leave()


def test_what_is_confirmed_of_a_source_lets_it_learn_anew(site: Site, tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.attend("m", [Attendance("hot", 1.0, 0.0, Pupil(0, 60, 60, ended=True))])
    message: dict[str, Any] = {"text": "temp=95 C", "model": "m"}
    message["token"] = SIGNER.token()
    site.hears(kind="anomaly", source="hot", **message)
    site.hears(kind="normal", **message)
    assert log.attendances("m"), "of nobody, and of somebody that is none"
    assert site.hears(kind="normal", source="hot", **message)["status"] == "learnt"
    assert not log.attendances("m")
    log.close()


def test_what_the_broker_had_retained_teaches_nothing(site: Site) -> None:
    message: dict[str, Any] = {"kind": "normal", "text": "a", "model": "m"}
    message["token"] = SIGNER.token()
    refused = site.hears(retain=True, **message)
    assert refused["error"]["code"] == "feedback.replayed"
    assert site.hears(**message)["status"] == "learnt"


def test_nothing_is_heard_before_there_are_models_to_teach(tmp_path: Path) -> None:
    site = Site(tmp_path, listens=False)
    assert site.people.leave() is None
    site.people.live_by(site.settings)
    assert site.reports == [], "a reload does not listen either"
    site.people.listen()
    assert [type(each) for each in site.reports] == [Up, Subscribed]
    site.people.leave()


def test_that_feedback_waits_for_a_model_is_told_once_after_a_while(tmp_path: Path) -> None:
    site = Site(tmp_path, listens=False)
    begun = site.parts.clock.monotonic()
    site.people.tend(begun + WAITS_S - 1)
    assert site.events == []
    for more in (1, 60):
        site.people.tend(begun + WAITS_S + more)
    assert site.events == [("feedback_waits", None, {"models": "m"})]
    site.people.leave()


@pytest.mark.parametrize("feedback", [None, FeedbackSettings()])
def test_where_no_feedback_waits_nothing_is_told_of_it(
    tmp_path: Path, feedback: FeedbackSettings | None
) -> None:
    site = Site(tmp_path, listens=feedback is not None)
    site.people.live_by(site.settings.model_copy(update={"feedback": feedback}))
    site.people.tend(site.parts.clock.monotonic() + WAITS_S + 1)
    assert site.events == []
    site.people.leave()


def test_who_stops_listening_before_it_began_leaves_no_session_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One from before a restart may be with the broker, and would fill."""
    site = Site(tmp_path, listens=False)
    links = Mock()
    monkeypatch.setattr(site.parts, "feedback", links)
    site.people.live_by(site.settings.model_copy(update={"feedback": None}))
    links.return_value.start.assert_called_once_with()
    links.return_value.stop.assert_called_once_with(forget=True)
    site.people.listen()
    links.assert_called_once()
    site.people.leave()


def test_more_room_for_lessons_is_there_with_the_reload_that_gives_it(tmp_path: Path) -> None:
    site = Site(tmp_path, max_lessons=1)
    says: dict[str, Any] = {"kind": "normal", "model": "m", "token": SIGNER.token()}
    assert site.hears(text="a", **says)["status"] == "learnt"
    assert site.hears(text="b", **says)["error"]["code"] == "feedback.full"
    feedback = FeedbackSettings(keys=[SIGNER.public], max_lessons=2)
    site.people.live_by(site.settings.model_copy(update={"feedback": feedback}))
    assert site.hears(text="b", **says)["status"] == "learnt"
    site.people.leave()


def test_what_a_command_takes_back_as_settings_change_is_not_missed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    (lesson,) = teach(tmp_path, 1)
    site.looks()
    assert list(site.memory.overlay.lessons) == [lesson]
    log = opened(tmp_path)
    log.undo([lesson], at=1.0, by="root (on the device)")
    log.close()
    feedback = FeedbackSettings(keys=[SIGNER.public], max_lessons=2)
    site.people.live_by(site.settings.model_copy(update={"feedback": feedback}))
    site.looks()
    assert list(site.memory.overlay.lessons) == []
    site.people.leave()
