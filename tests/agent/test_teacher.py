"""Messages on `feedback`: each is heeded, refused with a code, or counted."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgeslm.adapters.lessons import NAME, LessonLog
from edgeslm.agent.feedback import Heard, Teacher
from edgeslm.agent.recent import Recent, Said
from edgeslm.contract.feedback import FEEDBACK_REPLY
from edgeslm.contract.learning import FeedbackSettings
from edgeslm.core.memory import LineMemory, TextMemory
from edgeslm.core.operators import Where
from edgeslm.ports import Memory
from tests.agent.lines import Signer

SIGNER = Signer()
NOW = 1_800_000_000.0


@dataclass
class Pupil:
    memory: Memory | None
    alerts: bool = False


class Device:
    """A device without a broker."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.lines: LineMemory[Any] = LineMemory()
        self.texts = TextMemory(["on", "off"])
        self.recent = Recent(16)
        self.drops: Counter[str] = Counter()
        self.pupils = {
            "lines": Pupil(self.lines),
            "texts": Pupil(self.texts),
            "away": Pupil(None),
        }
        self.log = LessonLog(folder / NAME, max_lessons=50, max_bytes=2**20)
        self.teacher = Teacher(
            Where("dev1", {}, (SIGNER.public,), frozenset()),
            FeedbackSettings(**{"per_minute": 1000, **settings}),
            log=lambda: self.log,
            recent=self.recent,
            pupils=lambda: self.pupils,
            drops=self.drops,
        )

    def hears(self, now: float = 0.0, wall: float = NOW, **message: Any) -> dict[str, Any]:
        """Return the reply to a message."""
        heard = self.raw(json.dumps(message).encode(), now, wall)
        assert heard.reply is not None
        return dict(FEEDBACK_REPLY.validate_python(heard.reply))

    def raw(self, payload: bytes, now: float = 0.0, wall: float = NOW) -> Heard:
        return self.teacher.hear(payload, now=now, wall=wall)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def said(id_: str, text: str, *, alert: bool = True) -> Said:
    return Said(id_, text, "a", "anomaly", alert, "text")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({}, "feedback.invalid"),
        ({"kind": "fine", "result": "r"}, "feedback.invalid"),
        ({"kind": "normal"}, "feedback.invalid"),
        ({"kind": "normal", "result": "r", "text": "x"}, "feedback.invalid"),
        ({"kind": "normal", "text": "x"}, "feedback.invalid"),  # whose?
        ({"kind": "intent", "result": "r"}, "feedback.invalid"),
        ({"kind": "normal", "result": "r", "label": "on"}, "feedback.invalid"),
        ({"kind": "undo", "result": "r"}, "feedback.invalid"),
        ({"kind": "normal", "result": "r", "schema": 2}, "feedback.invalid"),
        ({"kind": "normal", "result": "r", "time": -1}, "feedback.invalid"),
        ({"kind": "anomaly", "result": "never heard of"}, "feedback.unknown"),
        ({"kind": "anomaly", "text": "x", "model": "none"}, "feedback.unknown"),
        ({"kind": "undo", "lesson": 99, "token": SIGNER.token()}, "feedback.unknown"),
        ({"kind": "anomaly", "text": "x", "model": "away"}, "feedback.model_away"),
        ({"kind": "normal", "text": "x", "model": "texts"}, "feedback.unfit"),
        ({"kind": "intent", "label": "dim", "text": "x", "model": "texts"}, "feedback.unfit"),
        ({"kind": "intent", "label": "on", "text": "x", "model": "lines"}, "feedback.unfit"),
        ({"kind": "normal", "text": "x", "model": "lines"}, "feedback.token"),
        (
            {"kind": "normal", "text": "x", "model": "lines", "token": Signer().token()},
            "feedback.token",
        ),
        (
            {"kind": "normal", "text": "x", "model": "lines", "token": SIGNER.token(expires=9)},
            "feedback.token_ended",
        ),
        (
            {
                "kind": "anomaly",
                "text": "x",
                "model": "lines",
                "token": SIGNER.token(models=("y",)),
            },
            "feedback.token_scope",
        ),
    ],
)
def test_what_cannot_be_heeded_is_refused_with_a_code_and_teaches_nothing(
    device: Device, message: dict[str, Any], code: str
) -> None:
    reply = device.hears(id="mine", **message)
    assert reply["status"] == "refused"
    assert reply["error"]["code"] == code
    assert reply.get("id") == (None if code == "feedback.invalid" else "mine")
    assert device.log.all() == []
    assert len(device.lines.overlay) == len(device.texts.overlay) == 0


def test_a_result_may_be_of_several_models(device: Device) -> None:
    for model in ("lines", "texts"):
        device.recent.add(model, said("r1", "pump off"))
    assert device.hears(kind="anomaly", result="r1")["error"]["code"] == "feedback.unknown"
    assert device.hears(kind="anomaly", result="r1", model="lines")["status"] == "learnt"


def test_who_has_said_what_is_kept(device: Device) -> None:
    device.recent.add("lines", said("r1", "pump off"))
    reply = device.hears(kind="normal", result="r1", token=SIGNER.token(operator="Anna"))
    (kept,) = device.log.all()
    assert (reply["lesson"], kept.operator, kept.result) == (kept.lesson.id, "Anna", "r1")
    assert (kept.token, kept.lesson.source, kept.arrived) == ("0123456789abcdef", "a", NOW)


def test_the_right_intent_takes_a_token_where_it_may_end_an_alert(device: Device) -> None:
    device.recent.add("texts", said("calm", "turn it on", alert=False))
    device.recent.add("texts", said("loud", "help"))
    assert device.hears(kind="intent", label="on", result="calm")["status"] == "learnt"
    refused = device.hears(kind="intent", label="on", result="loud")
    assert refused["error"]["code"] == "feedback.token"
    assert device.hears(kind="intent", label="on", text="x", model="texts")["status"] == "learnt"
    device.pupils["texts"].alerts = True
    refused = device.hears(kind="intent", label="on", text="y", model="texts")
    assert refused["error"]["code"] == "feedback.token"


def test_all_of_it_may_take_a_token(tmp_path: Path) -> None:
    device = Device(tmp_path, signed="always")
    message: dict[str, Any] = {"kind": "anomaly", "text": "x", "model": "lines"}
    assert device.hears(**message)["error"]["code"] == "feedback.token"
    assert device.hears(**message, token=SIGNER.token())["status"] == "learnt"


def test_the_last_by_time_counts_and_no_later_one_than_now(device: Device) -> None:
    token = SIGNER.token()
    common: dict[str, Any] = {"text": "pump off", "model": "lines"}
    assert device.hears(kind="normal", token=token, **common, time=NOW - 5)["status"] == "learnt"
    earlier = device.hears(kind="anomaly", **common, time=NOW - 9)
    assert earlier["flags"] == ["contradicts"]
    assert device.lines.overlay.at("pump off").covers([], "a", known=True, seen=()).fault is None  # type: ignore[union-attr]
    device.hears(kind="anomaly", **common, time=NOW + 1e6)
    assert device.log.all()[-1].lesson.time == NOW
    # The clock was set back: what comes later counts later.
    back = device.hears(kind="normal", token=token, **common, wall=NOW - 1000)
    assert back["flags"] == ["contradicts", "known_fault"]
    assert device.log.all()[-1].lesson.time == NOW


def test_the_same_again_is_known_and_does_not_grow_the_log(device: Device) -> None:
    message: dict[str, Any] = {"kind": "anomaly", "text": "pump off", "model": "lines"}
    first = device.hears(**message)
    again = device.hears(**message)
    assert (again["status"], again["lesson"]) == ("known", first["lesson"])
    assert len(device.log.all()) == 1


def test_a_flood_is_bounded_answered_for_a_while_and_counted(tmp_path: Path) -> None:
    device = Device(tmp_path, per_minute=3)
    message: dict[str, Any] = {"kind": "anomaly", "text": "x", "model": "away"}
    codes = [device.hears(**message)["error"]["code"] for _ in range(6)]
    assert codes == ["feedback.model_away"] * 3 + ["feedback.flood"] * 3
    assert device.raw(json.dumps(message).encode()).reply is None
    assert device.drops == {"feedback_flood": 4}
    assert device.hears(**message, now=61.0)["error"]["code"] == "feedback.model_away"


def test_a_full_log_and_a_closed_one_are_said_to_be(tmp_path: Path) -> None:
    device = Device(tmp_path)
    codes = [
        device.hears(kind="anomaly", text=f"word {'x' * i}", model="lines") for i in range(1, 60)
    ]
    assert codes[-1]["error"]["code"] == "feedback.full"
    assert len(device.lines.overlay) == 50
    device.log.close()
    reply = device.hears(kind="anomaly", text="another", model="lines")
    assert reply["error"]["code"] == "feedback.unavailable"


def test_half_a_character_is_not_kept(device: Device) -> None:
    device.recent.add("lines", said("r1", "pump \ud800"))
    assert device.hears(kind="anomaly", result="r1")["error"]["code"] == "feedback.unfit"


def test_a_clock_before_what_a_token_has_shown_is_not_believed(device: Device) -> None:
    common: dict[str, Any] = {"kind": "normal", "model": "lines"}
    late = SIGNER.token(issued=int(NOW), expires=int(NOW) + 1000)
    assert device.hears(**common, text="x", token=late)["status"] == "learnt"
    old = SIGNER.token(issued=int(NOW) - 999, expires=int(NOW) - 10)
    refused = device.hears(**common, text="y", token=old, wall=NOW - 500)
    assert refused["error"]["code"] == "feedback.token_ended"
