"""Messages on `feedback`: each is heeded, refused with a code, or counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgeslm.adapters.lessons import NAME, LessonLog
from edgeslm.agent.feedback import Heard, Teacher
from edgeslm.agent.recent import Recent, Said
from edgeslm.contract.feedback import FEEDBACK_REPLY, MAX_FEEDBACK_CHARS
from edgeslm.contract.learning import FeedbackSettings
from edgeslm.core.memory import LineMemory, TextMemory
from edgeslm.core.operators import Where
from edgeslm.core.overlay import Lesson
from edgeslm.core.template import split
from edgeslm.ports import Memory
from tests.agent.lines import Signer

SIGNER = Signer()
NOW = 1_800_000_000.0


def nothing(lesson: Lesson) -> bool:
    del lesson
    return False


@dataclass
class Pupil:
    memory: Memory | None
    serves: bool = True
    alerts: bool = False
    silences: Callable[[Lesson], bool] = nothing


class Device:
    """A device without a broker."""

    def __init__(self, folder: Path, max_lessons: int = 50, **settings: Any) -> None:
        self.lines: LineMemory[Any] = LineMemory()
        self.texts = TextMemory(["on", "off"])
        self.recent = Recent(16)
        self.drops: Counter[str] = Counter()
        self.pupils = {
            "lines": Pupil(self.lines),
            "texts": Pupil(self.texts),
            "away": Pupil(None, serves=False),
            "fixed": Pupil(None),
        }
        self.log = LessonLog(folder / NAME, max_lessons=max_lessons, max_bytes=2**20)
        self.where = Where("dev1", {}, (SIGNER.public,), frozenset())
        self.settings = FeedbackSettings(**{"per_minute": 1000, **settings})
        self.teacher = Teacher(
            self.where,
            self.settings,
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

    def raw(self, payload: bytes, now: float = 0.0, wall: float = NOW, **more: bool) -> Heard:
        return self.teacher.hear(payload, now=now, wall=wall, **more)

    def is_fault(self, text: str) -> bool:
        """Whether lessons make an alarm of a line of new words."""
        entry = self.lines.overlay.at(text)
        return entry is not None and bool(entry.covers([], "a", known=False, seen=()).fault)


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
        ({"kind": "anomaly", "text": "x", "model": "lines", "sorce": "a"}, "feedback.invalid"),
        ({"kind": "anomaly", "text": "x", "model": "lines", "requires": []}, "feedback.invalid"),
        ({"kind": "anomaly", "result": "never heard of"}, "feedback.unknown"),
        ({"kind": "anomaly", "text": "x", "model": "none"}, "feedback.unknown"),
        ({"kind": "undo", "lesson": 99, "token": SIGNER.token()}, "feedback.unknown"),
        ({"kind": "anomaly", "text": "x", "model": "away"}, "feedback.model_away"),
        ({"kind": "anomaly", "text": "x", "model": "fixed"}, "feedback.unfit"),
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
    assert reply["id"] == "mine"
    assert device.log.all() == []
    assert len(device.lines.overlay) == len(device.texts.overlay) == 0


@pytest.mark.parametrize(
    ("payload", "id_"),
    [
        (b'{"kind":"foo","id":"a1"}', "a1"),
        (b'{"id":"a1","kind":"normal","result":"r","result":5}', "a1"),
        (b'{"kind":"foo","id":7}', None),
        (b'{"kind":"foo","id":"a\n"}', None),
        (b'{"kind":"foo","id":"' + b"a" * 129 + b'"}', None),
        (b'["id"]', None),
        (b'{"id":"a1"', None),
        (b'{"id":"a1","text":"' + b"x" * 65_536 + b'"}', None),
        (b'{"id":"a1","x":' + b"[" * 30_000, None),
        (b"", None),
    ],
)
def test_what_is_no_feedback_is_answered_by_its_id_where_that_can_be_read(
    device: Device, payload: bytes, id_: str | None
) -> None:
    reply = device.raw(payload).reply
    assert reply is not None
    assert (reply["status"], reply.get("id")) == ("refused", id_)


def test_a_field_that_there_is_not_is_named_beside_those_that_there_are(device: Device) -> None:
    """Without its `source` a message would teach all of them."""
    for sorce in ("sorce", "s" * 9000):
        message: dict[str, Any] = {"kind": "anomaly", "text": "x", "model": "lines", sorce: "a"}
        error = device.hears(**message)["error"]
        assert error["code"] == "feedback.invalid"
        assert error["message"] == (
            f"{sorce[:40]}: unknown key; there are id, kind, label, lesson, model, result, schema, "
            "source, template, text, time, token"
        )


def test_a_result_may_be_of_several_models(device: Device) -> None:
    for model in ("lines", "texts"):
        device.recent.add(model, said("r1", "pump off"))
    assert device.hears(kind="anomaly", result="r1")["error"]["code"] == "feedback.unknown"
    assert device.hears(kind="anomaly", result="r1", model="lines")["status"] == "learnt"


def test_results_of_one_model_with_the_same_id_are_told_by_their_text(device: Device) -> None:
    device.recent.add("lines", said("r1", "pump off"))
    device.recent.add("lines", said("r1", "pump on", alert=False))
    more: list[dict[str, Any]] = [{}, {"model": "lines"}]
    for model in more:
        error = device.hears(kind="anomaly", result="r1", **model)["error"]
        assert error["code"] == "feedback.unknown"
        assert error["message"] == "lines has several results of this id; name its text or template"


def test_a_line_of_any_length_is_taught_by_its_beginning_and_no_intent_is(device: Device) -> None:
    long = "pump off" + " and on" * 9000
    for model in ("lines", "texts"):
        device.recent.add(model, said(model, long))
    assert device.hears(kind="anomaly", result="lines")["status"] == "learnt"
    assert device.log.all()[0].lesson.text == long[:MAX_FEEDBACK_CHARS]
    assert device.is_fault(split(long).template)
    error = device.hears(kind="anomaly", result="texts", token=SIGNER.token())["error"]
    assert (error["code"], "16,384" in error["message"]) == ("feedback.unfit", True)


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
    loud: list[dict[str, Any]] = [{"text": "y", "model": "texts"}, {"result": "calm"}]
    for result in loud:
        refused = device.hears(kind="intent", label="off", **result)
        assert refused["error"]["code"] == "feedback.token"


def test_that_an_alert_is_none_of_the_intents_takes_a_token_as_well(device: Device) -> None:
    """To say that ends an alert as the wrong intent does."""
    device.recent.add("texts", said("loud", "help"))
    refused = device.hears(kind="anomaly", result="loud")
    assert refused["error"]["code"] == "feedback.token"
    assert device.texts.overlay.of("help") is None
    assert device.hears(kind="anomaly", result="loud", token=SIGNER.token())["status"] == "learnt"
    assert device.hears(kind="anomaly", text="x", model="texts")["status"] == "learnt"
    device.pupils["texts"].alerts = True
    refused = device.hears(kind="anomaly", text="y", model="texts")
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
    earlier = device.hears(kind="anomaly", **common, time=NOW - 9, token=token)
    assert (earlier["flags"], earlier["contradicts"]) == (["overruled"], 1)
    assert not device.is_fault("pump off")
    again = device.hears(kind="anomaly", **common, time=NOW - 9, token=token, id="2")
    assert (again["status"], again["flags"]) == ("known", ["overruled"])
    device.hears(kind="anomaly", **common, time=NOW + 1e6, token=token)
    assert device.log.all()[-1].lesson.time == NOW
    assert device.is_fault("pump off")
    # The clock was set back: what comes later counts later.
    back = device.hears(kind="normal", token=token, **common, wall=NOW - 1000)
    assert back["flags"] == ["contradicts", "known_fault"]
    assert device.log.all()[-1].lesson.time == NOW


def test_what_was_signed_counts_over_what_was_not_though_that_came_later(device: Device) -> None:
    token = SIGNER.token()
    about: dict[str, Any] = {"text": "pump off", "model": "lines"}
    signed = device.hears(kind="normal", token=token, **about)
    strange = device.hears(kind="anomaly", **about, wall=NOW + 9)
    assert strange["status"] == "learnt"
    assert (strange["flags"], strange["contradicts"]) == (["overruled"], signed["lesson"])
    assert not device.is_fault("pump off")
    mine = device.hears(kind="anomaly", token=token, **about, wall=NOW + 10)
    assert mine["flags"] == ["contradicts"]  # and is no "known": it was signed now
    assert device.is_fault("pump off")
    texts: dict[str, Any] = {"text": "Turn it", "model": "texts"}
    device.hears(kind="intent", label="on", token=token, **texts)
    strange = device.hears(kind="intent", label="off", **texts | {"text": "turn IT"})
    assert strange["flags"] == ["overruled"]
    of = device.texts.overlay.of("turn IT")
    assert of is not None
    assert of.label == "on"


def test_a_window_that_alarms_of_a_text_is_silenced_though_the_text_is_known(
    device: Device,
) -> None:
    token = SIGNER.token()
    about: dict[str, Any] = {"text": "temp=70 C", "model": "lines", "source": "a"}
    assert device.hears(kind="normal", **about, token=token)["status"] == "learnt"
    window = Said("w1", "temp=70 C", "a", "anomaly", alert=True, channel="window")
    device.recent.add("lines", window)
    assert device.hears(kind="normal", result="w1", token=token)["status"] == "learnt"
    entry = device.lines.overlay.at("temp=¤ C")
    assert entry is not None
    assert entry.covers(["70"], "a", known=True, seen=[(0, 80)]).silenced.keys() == {"window"}
    device.hears(kind="anomaly", result="w1", token=token)
    entry = device.lines.overlay.at("temp=¤ C")
    assert entry is not None
    assert not entry.covers(["70"], "a", known=True, seen=[(0, 80)]).silenced


def test_what_the_bundle_knows_as_a_fault_is_kept_and_flagged(device: Device) -> None:
    """Nobody has said so before: there is no lesson that it contradicts."""
    asked: list[Lesson] = []

    def silences(lesson: Lesson) -> bool:
        asked.append(lesson)
        return lesson.text == "pump stuck"

    device.pupils["lines"].silences = silences
    token = SIGNER.token()
    stuck = device.hears(kind="normal", text="pump stuck", model="lines", token=token)
    assert (stuck["status"], stuck["flags"]) == ("learnt", ["known_fault"])
    assert "contradicts" not in stuck
    assert device.log.all()[-1].flags == ("known_fault",)
    assert "flags" not in device.hears(kind="normal", text="pump on", model="lines", token=token)
    assert "flags" not in device.hears(kind="anomaly", text="valve stuck", model="lines")
    assert [lesson.text for lesson in asked] == ["pump stuck", "pump on"]


def test_of_an_anomaly_the_reply_says_what_it_covers(device: Device) -> None:
    device.recent.add("lines", said("r1", "valve stuck at 7"))
    device.recent.add(
        "lines", Said("r2", "temp=71 C", "a", "anomaly", alert=True, channel="window")
    )
    message: dict[str, Any] = {"kind": "anomaly", "result": "r1"}
    assert [device.hears(**message)["covers"] for _ in range(2)] == ["template"] * 2
    assert device.log.all()[0].lesson.channel == "text"
    assert device.hears(kind="anomaly", result="r2")["covers"] == "numbers"
    assert "covers" not in device.hears(kind="anomaly", text="turn 1", model="texts")
    token = SIGNER.token()
    assert "covers" not in device.hears(kind="normal", text="x 1", model="lines", token=token)


def test_the_same_again_is_known_and_does_not_grow_the_log(device: Device) -> None:
    message: dict[str, Any] = {"kind": "anomaly", "text": "pump off", "model": "lines"}
    first = device.hears(**message)
    again = device.hears(**message)
    assert (again["status"], again["lesson"]) == ("known", first["lesson"])
    assert len(device.log.all()) == 1


def test_a_flood_is_bounded_answered_for_a_while_and_counted(tmp_path: Path) -> None:
    device = Device(tmp_path, per_minute=3)
    message: dict[str, Any] = {"kind": "anomaly", "text": "x", "model": "away"}
    replies = [device.hears(**message, id=str(i)) for i in range(6)]
    codes = [reply["error"]["code"] for reply in replies]
    assert codes == ["feedback.model_away"] * 3 + ["feedback.flood"] * 3
    assert [reply["id"] for reply in replies] == list("012345")
    assert device.raw(json.dumps(message).encode()).reply is None
    assert device.drops == {"feedback_flood": 4}
    assert device.hears(**message, now=61.0)["error"]["code"] == "feedback.model_away"


def test_a_flood_without_tokens_or_with_forged_ones_does_not_shut_an_operator_out(
    tmp_path: Path,
) -> None:
    device = Device(tmp_path, per_minute=3)
    token, stolen = SIGNER.token(), SIGNER.token(id="f" * 16)
    about: dict[str, Any] = {"kind": "normal", "model": "lines"}
    assert device.hears(**about, text="a", token=token)["status"] == "learnt"
    assert device.hears(**about, text="b", token=stolen)["status"] == "learnt"
    device.teacher.live_by(device.where, device.settings)  # as at a start: nothing is in memory
    for i in range(20):
        for more in ({}, {"token": Signer().token()}, {"token": stolen, "id": str(i)}):
            device.raw(json.dumps({**about, "text": "junk", **more}).encode(), 1.0)
    assert device.drops["feedback_flood"] > 40
    for text in "cd":
        assert device.hears(**about, text=text, token=token, now=1.0)["status"] == "learnt"


def test_lessons_without_a_token_give_way_to_an_operators(tmp_path: Path) -> None:
    device = Device(tmp_path, max_lessons=10)
    junk = [
        device.hears(kind="anomaly", text=f"junk {'x' * i}", model="lines") for i in range(1, 9)
    ]
    assert [x["status"] for x in junk] == ["learnt"] * 5 + ["refused"] * 3
    assert junk[-1]["error"]["code"] == "feedback.full"
    assert device.is_fault("junk x")
    about: dict[str, Any] = {"kind": "normal", "model": "lines", "token": SIGNER.token()}
    for i in range(1, 11):
        assert device.hears(**about, text=f"good {'y' * i}")["status"] == "learnt"
    assert not device.is_fault("junk x"), "what gave way counts no more, without a restart"
    assert set(device.lines.overlay.lessons) == {x.id for x in device.log.counting("lines")}
    assert device.hears(**about, text="another")["error"]["code"] == "feedback.full"
    device.log.close()
    reply = device.hears(kind="anomaly", text="another", model="lines")
    assert reply["error"]["code"] == "feedback.unavailable"


def test_a_signed_message_teaches_once(device: Device) -> None:
    token = SIGNER.token()
    message: dict[str, Any] = {"kind": "normal", "text": "valve odd", "model": "lines"}
    first = device.hears(**message, token=token)
    assert device.hears(**message, token=token)["status"] == "known"  # the broker said it again
    second = device.hears(**message, token=token, id="2")
    assert (second["status"], second["lesson"]) == ("known", first["lesson"])
    device.hears(kind="undo", lesson=first["lesson"], token=token)
    again: list[dict[str, Any]] = [{}, {"id": "2"}]
    for more in again:
        replayed = device.hears(**message, token=token, **more)
        assert replayed["error"]["code"] == "feedback.replayed"
    assert len(device.lines.overlay) == 0
    anew = device.hears(**message, token=token, id="3")
    assert anew["status"] == "learnt"
    device.hears(kind="anomaly", text="valve odd", model="lines", token=token)
    replayed = device.hears(**message, token=token, id="3")
    assert replayed["error"]["code"] == "feedback.replayed"
    assert device.is_fault("valve odd")


def test_an_id_of_a_result_that_comes_again_does_not_make_a_message_good_again(
    device: Device,
) -> None:
    message: dict[str, Any] = {"kind": "normal", "result": "r1", "token": SIGNER.token()}
    for text, status in (("valve odd", "learnt"), ("pump on fire", "refused")):
        device.recent.add("lines", said("r1", text))
        assert device.hears(**message)["status"] == status


def test_what_the_broker_had_retained_or_is_old_is_nobodys_word(device: Device) -> None:
    message = {"kind": "normal", "text": "x", "model": "lines", "token": SIGNER.token()}

    def code(hours: float, **more: bool) -> str | None:
        payload = json.dumps(message | {"time": NOW - 3600 * hours}).encode()
        reply = device.raw(payload, **more).reply
        assert reply is not None
        return reply["error"]["code"] if "error" in reply else None

    assert code(0, retained=True) == "feedback.replayed"
    assert code(169, trusted=True) == "feedback.replayed"
    assert code(167, trusted=True) is None
    assert code(169) is None  # by a clock that nobody has set, nothing is old


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
