"""The anomaly task: parameters are hostile until parsed, answers are finite for any text."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.contract.feedback import MAX_FEEDBACK_CHARS
from edgeslm.core.learning import FEWEST
from edgeslm.core.overlay import WORDS, Kind, Lesson
from edgeslm.core.template import MAX_CHARS
from edgeslm.errors import InvalidFileError
from edgeslm.ports import Request
from edgeslm.tasks.anomaly import FEEDBACK, Anomaly, Past, load

HISTORY = {
    "values": [70.0, 71.0, 72.0], "counts": [100, 200, 300], "once": 0, "others": 0,
    "effective": 300.0, "scale": 0.8,
}  # fmt: skip
TAIL = {"scores": [0.0], "log_p": [0.0], "log_p_above": [-5.7], "decay": 1.0}
REPERTOIRE = {"lines": 300, "once": 0, "templates": [0], "histories": {"0": [HISTORY]}}
PARAMETERS: dict[str, Any] = {
    "alarm_budget": 0.01, "calibration_lines": 300, "masks": 2, "templates": ["motor temp=¤ C"],
    "everyone": REPERTOIRE, "sources": {"": REPERTOIRE},
    "text": TAIL, "number": {**TAIL, "scores": [0.0, 3.0], "log_p": [0.0, -5.0],
    "log_p_above": [-0.1, -5.7]}, "fused": {**TAIL, "scores": [-0.1]},
}  # fmt: skip


def encoded(parameters: dict[str, Any]) -> bytes:
    return json.dumps(parameters).encode()


TASK = load(encoded(PARAMETERS))


def changed(path: str, value: Any) -> bytes:
    """PARAMETERS with one field, by dotted path, replaced."""
    parameters = copy.deepcopy(PARAMETERS)
    *parents, last = path.split(".")
    place: Any = parameters
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    place[last] = value
    return encoded(parameters)


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        (b"", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[1]", "object"),
        (b"{}", "templates"),
        (changed("alarm_budget", 0), "alarm_budget"),
        (changed("alarm_budget", "0.01"), "alarm_budget"),
        (changed("surprise", 1), "surprise: unknown key"),
        (changed("masks", 1), "masks: 1, this build splits by 2"),
        (changed("masks", 3), "masks: 3, this build"),
        (encoded({k: v for k, v in PARAMETERS.items() if k != "masks"}), "masks: 1, this build"),
        (changed("templates", []), "templates"),
        (changed("templates", ["two ¤ slots ¤"]), "one per slot"),
        (changed("everyone.templates", [0, 1]), "not there"),
        (changed("everyone.templates", [-1]), "everyone.templates"),
        (changed("everyone.histories", {}), "every template with slots"),
        (changed("everyone.histories", {"7": [HISTORY]}), "that is there"),
        (changed("everyone.histories", {"x": [HISTORY]}), "everyone.histories"),
        (changed("everyone.lines", 0), "everyone.lines"),
        (changed("everyone.histories.0", [{**HISTORY, "values": [2.0, 1.0, 3.0]}]), "ascend"),
        (changed("everyone.histories.0", [{**HISTORY, "counts": [1, 1, 3]}]), "ascend"),
        (changed("everyone.histories.0", [{**HISTORY, "counts": [1]}]), "length"),
        (changed("everyone.histories.0", [{**HISTORY, "scale": 0.0}]), "scale"),
        (changed("everyone.histories.0", [{**HISTORY, "effective": -1.0}]), "effective"),
        (encoded(PARAMETERS).replace(b"72.0", b"1e999"), "values"),
        (encoded(PARAMETERS).replace(b"72.0", b"NaN"), "values"),
        (changed("text.scores", []), "text.scores"),
        (changed("text.scores", [0.0, 1.0]), "length"),
        (changed("text.decay", 0.0), "text.decay"),
        (changed("text.log_p", [0.5]), "text.log_p"),
        (changed("number.log_p", [-5.0, 0.0]), "never rise"),
    ],
)
def test_parameters_that_are_none_are_refused_by_name(raw: bytes, names: str) -> None:
    with pytest.raises(InvalidFileError, match=names) as caught:
        load(raw)
    assert "edgeslm-export anomaly" in str(caught.value)


@given(st.binary(max_size=60))
def test_garbage_raises_only_the_typed_error(raw: bytes) -> None:
    with pytest.raises(InvalidFileError):
        load(raw)


def answered(task: Anomaly, text: str, distance: float = 0.5, source: str = "") -> Any:
    prepared = task.prepare(Request(text, source))
    return task.finish(prepared, {"distance": np.array(distance, np.float32)}, truncated=False)


@given(st.text(st.characters(), max_size=80), st.floats(), st.text(max_size=4))
def test_every_text_distance_and_source_gets_finite_fields(
    text: str, distance: float, source: str
) -> None:
    with np.errstate(over="ignore"):
        got = answered(TASK, text, distance, source)
    assert got.label in {"normal", "anomaly"}
    assert 0 < got.p_value <= 1
    assert (got.label == "anomaly") == (got.p_value <= 0.01)
    assert 0 <= got.confidence <= 1
    assert math.isfinite(got.score)
    assert got.source_known == (source == "")
    assert all(0 < p <= 1 for p in got.channels.values())
    assert set(got.channels) == {"text", "number"}


@given(st.floats())
def test_every_number_in_a_known_template_gets_a_finite_score(value: float) -> None:
    got = answered(TASK, f"motor temp={value!r} C")
    assert math.isfinite(got.score)
    assert got.channels["text"] == 1
    if not 70 <= value <= 72:  # NaN too
        assert got.label == "anomaly"


def test_the_key_of_the_cache_is_the_masked_template_and_it_is_bounded() -> None:
    one, two = (TASK.prepare(Request(f"motor temp={t} C")) for t in ("72.4", "-1e5"))
    assert one.model_text == two.model_text == "motor temp=0 C"
    assert len(TASK.prepare(Request("a b " * 100_000)).model_text or "") <= MAX_CHARS + 1


def test_quotes_in_explanations_are_bounded() -> None:
    long = "9" * 3000
    (cause,) = answered(TASK, f"motor temp={long} C").explanation
    assert len(cause["value"]) <= 80
    (cause,) = answered(TASK, "x" * 3000).explanation
    assert len(cause["token"]) <= 80


def test_confidence_is_none_at_the_alarm_line_and_grows_away_from_it() -> None:
    answers = [answered(TASK, f"motor temp={t} C") for t in (71, 74, 100, 1e9)]
    assert answers[0].label == "normal"
    assert answers[0].confidence == pytest.approx(0.99)
    alarms = [a.confidence for a in answers if a.label == "anomaly"]
    assert alarms == sorted(alarms)
    assert alarms[-1] > 0.99


def test_truncation_is_passed_on() -> None:
    prepared = TASK.prepare(Request("motor temp=71.0 C"))
    assert TASK.finish(prepared, {"distance": np.array(0, np.float32)}, truncated=True).truncated


@pytest.mark.parametrize("outputs", [None, {}, {"logits": np.zeros(3, np.float32)}])
def test_a_graph_of_another_task_is_a_clear_fault(outputs: Any) -> None:
    with pytest.raises(ValueError, match="no output 'distance'"):
        TASK.finish(TASK.prepare(Request("x")), outputs, truncated=False)


class Stream:
    """Lines of a source, and what an operator says of them."""

    def __init__(self, *lessons: Lesson) -> None:
        self.past: Past = TASK.memory()
        self.past.overlay.learn(*lessons)

    def hears(self, text: str, source: str = "") -> Any:
        prepared = TASK.prepare(Request(text, source))
        outputs = {"distance": np.array(0.5, np.float32)}
        return TASK.finish(prepared, outputs, truncated=False, memory=self.past)


FLOW = Lesson(1, "normal", "flow 20.4 l")


def test_numbers_of_a_new_template_are_tested_once_enough_of_them_have_come() -> None:
    """A lesson silences its words for good, and its numbers only as long as nothing is known."""
    stream = Stream(FLOW)
    assert stream.hears("flow 900 l").label == "normal"
    stream = Stream(FLOW)
    for i in range(FEWEST):
        assert stream.hears(f"flow {20 + (7 * i % 10) / 10} l").label == "normal"
    assert stream.hears("flow 20.4 l").label == "normal"
    wild = stream.hears("flow 900 l")
    assert (wild.label, wild.lesson) == ("anomaly", FLOW.id)
    cause = wild.explanation[0]
    assert (cause["channel"], cause["expected"]) == ("number", "20 to 20.9")
    assert stream.hears("flow 900 l", source="else").label == "normal", "nothing is known of it"

    # What an operator then confirms is covered, and so is the way there; no further.
    stream.past.overlay.learn(Lesson(2, "normal", "flow 900 l"))
    said = {n: stream.hears(f"flow {n} l").label for n in (500, 900, 5000)}
    assert said == {500: "normal", 900: "normal", 5000: "anomaly"}
    stream.past.overlay.learn(Lesson(3, "anomaly", "flow 500 l"))
    assert stream.hears("flow 700 l").explanation[0]["channel"] == FEEDBACK


HOT, HOTTER = (
    Lesson(i, "normal", f"motor temp={t} C", source="a", time=float(i))
    for i, t in ((1, 80), (2, 90))
)
ELSEWHERE = Lesson(3, "normal", "motor temp=60 C", source="b", time=3.0)
FAULT = Lesson(4, "anomaly", "motor temp=75 C", source="b", time=4.0)
MISSED = Lesson(5, "anomaly", "motor temp=71 C", source="a", time=5.0, channel=WORDS)
MENDED = Lesson(6, "normal", "motor temp=¤ C", whole=False, source="a", time=6.0)


@pytest.mark.parametrize(
    ("lessons", "source", "number", "named"),
    [
        ([HOT, HOTTER, ELSEWHERE], "a", 76, 1),
        ([HOT, HOTTER, ELSEWHERE], "a", 85, 2),
        ([HOT, HOTTER, ELSEWHERE], "a", 71, None),  # ordinary without any
        ([HOT, HOTTER, ELSEWHERE], "a", 140, None),  # an alarm all the same
        ([HOT, HOTTER, ELSEWHERE], "a", 60, None),
        ([HOT, HOTTER, ELSEWHERE], "b", 65, 3),
        ([HOT, HOTTER, ELSEWHERE], "b", 80, None),
        ([HOT, FAULT], "b", 76, 4),
        ([HOT, FAULT], "b", 74, None),
        ([HOT, FAULT], "a", 76, 1),
        ([MISSED], "a", 71, 5),
        ([MISSED], "b", 71, None),
        ([MISSED, MENDED], "a", 70, 6),  # what was an anomaly is none by it
        ([MISSED, MENDED], "a", 71, 5),  # the very line
        ([MENDED], "a", 71, None),
    ],
)
def test_a_lesson_is_named_where_it_counts(
    lessons: list[Lesson], source: str, number: int, named: int | None
) -> None:
    assert Stream(*lessons).hears(f"motor temp={number} C", source).lesson == named


def test_a_lesson_of_new_words_is_named_whoever_says_them() -> None:
    said = Stream(HOT, FLOW).hears("flow 900 l", "b")
    assert (said.label, said.lesson) == ("normal", FLOW.id)


@pytest.mark.parametrize("kind", ["normal", "anomaly"])
def test_a_line_of_any_length_is_covered_by_its_beginning(kind: Kind) -> None:
    long = "pump off at 3" + " and on" * 9000
    said = Stream(Lesson(1, kind, long[:MAX_FEEDBACK_CHARS])).hears(long)
    assert (said.label, said.lesson) == (kind, 1)


JUDGED = st.lists(
    st.builds(
        Lesson,
        st.just(0),
        st.sampled_from(["normal", "anomaly"]),
        st.sampled_from([f"motor temp={t} C" for t in (60, 71, 75, 80, "nan")] + ["flow 9 l"]),
        source=st.sampled_from(["a", "b", None]),
        channel=st.sampled_from(["", WORDS, "number"]),
        signed=st.booleans(),
    ),
    max_size=5,
)


@settings(deadline=None)
@given(JUDGED)
def test_where_no_lesson_is_named_none_has_changed_what_is_said(lessons: list[Lesson]) -> None:
    numbered = [replace(each, id=i, time=float(i)) for i, each in enumerate(lessons, 1)]
    taught, untaught = Stream(*numbered), Stream()
    for source in ("a", "b"):
        for text in ("motor temp=71 C", "motor temp=78 C", "motor temp=65 C", "flow 9 l"):
            said, bare = taught.hears(text, source), untaught.hears(text, source)
            if said.lesson is None:
                assert (said.label, said.p_value) == (bare.label, bare.p_value)


def test_a_lesson_of_numbers_is_named_only_where_they_would_be_odd_without_it() -> None:
    ordinary = Stream(Lesson(1, "normal", "motor temp=71 C", source=""))
    assert ordinary.hears("motor temp=71 C").lesson is None
    odd = Stream(Lesson(1, "normal", "motor temp=80 C", source=""))
    assert odd.hears("motor temp=78 C").lesson == 1
    assert odd.hears("motor temp=71 C").lesson is None
    fault = Lesson(1, "anomaly", "motor temp=71 C", source="", channel="number")
    assert Stream(fault).hears("motor temp=71 C").lesson == 1
    outdone = Stream(fault, Lesson(2, "normal", "motor temp=71 C", source="", time=1.0))
    assert (outdone.hears("motor temp=71 C").label, outdone.hears("motor temp=71 C").lesson) == (
        "normal", 2,
    )  # fmt: skip


def test_alarms_of_a_new_template_teach_nothing() -> None:
    stream = Stream(FLOW)
    for i in range(FEWEST):
        stream.hears(f"flow {20 + (7 * i % 10) / 10} l")
    for _ in range(4 * FEWEST):
        assert stream.hears("flow 900 l").label == "anomaly"


def test_a_new_source_that_works_elsewhere_learns_once_its_extremes_are_confirmed() -> None:
    stream = Stream()
    stream.past.school.lines = 60

    def hears(lines: int) -> list[Any]:
        return [stream.hears(f"motor temp={95 + i % 10 / 10} C", "press-9") for i in range(lines)]

    alarms = hears(120)
    assert {each.label for each in alarms} == {"anomaly"}
    assert alarms[-1].learning == (0, 60, 120)
    (after,) = hears(1)
    assert (after.label, after.learning, after.source_known) == ("anomaly", None, False)
    assert stream.hears("motor temp=71 C", "press-9").label == "normal", "as all sources are"

    # What the agent does where an operator confirms the highest.
    stream.past.overlay.learn(Lesson(1, "normal", "motor temp=95.9 C", source="press-9"))
    stream.past.school.again("press-9")
    assert {each.label for each in hears(60)} == {"normal"}
    assert hears(1)[0].source_known
    said = {n: stream.hears(f"motor temp={n} C", "press-9").label for n in (71, 95.4, 120)}
    assert said == {71: "anomaly", 95.4: "normal", 120: "anomaly"}, "its own numbers count"


def test_what_came_since_makes_no_confirmed_fault_smaller() -> None:
    """Lines of 30 have come before somebody said that 25 is a fault: 30 is one, too."""
    stream = Stream(FLOW)
    for i in range(FEWEST):
        stream.hears(f"flow {20 + i % 11} l")
    stream.past.overlay.learn(Lesson(2, "anomaly", "flow 25 l"))
    assert stream.hears("flow 30 l").label == "anomaly"


@pytest.mark.parametrize(
    ("text", "channel", "kept"),
    [
        ("motor temp=71 C", "", "text"),  # missed, and nothing is odd about its numbers
        ("motor temp=71.5 C", "", "number"),  # one that nobody has seen
        ("motor temp=71 C", FEEDBACK, "text"),
        ("motor temp=72.3 C", "", "number"),  # beyond the range, if by too little for an alarm
        ("motor temp=90 C", "number", "number"),
        ("motor temp=nan C", "", "number"),
        ("motor temp=71 C", "number", "number"),
        ("motor temp=71 C", "window", "window"),
        ("valve stuck at 7", "text", "text"),
        ("flow 25 l", "text", "number"),  # the template is normal, by an operator's word
        ("flow 20.4 l", "text", "text"),
    ],
)
def test_what_an_anomaly_speaks_of_is_settled_when_it_is_said(
    text: str, channel: str, kept: str
) -> None:
    past = Stream(FLOW).past
    lesson = Lesson(2, "anomaly", text, source="", channel=channel)
    assert past.understood(lesson).channel == kept
    normal = Lesson(2, "normal", text, source="", channel=channel)
    assert past.understood(normal) == normal


def test_a_missed_fault_of_ordinary_numbers_covers_its_template() -> None:
    stream = Stream()
    assert stream.hears("motor temp=71 C").label == "normal"
    lesson = Lesson(1, "anomaly", "motor temp=71 C", source="")
    stream.past.overlay.learn(stream.past.understood(lesson))
    said = stream.hears("motor temp=70 C")
    assert (said.label, said.lesson, said.explanation[0]["channel"]) == ("anomaly", 1, FEEDBACK)


def test_numbers_that_were_a_fault_are_no_template_where_the_next_bundle_has_seen_them() -> None:
    """Else an update would make an alarm of every line."""
    kept = Stream().past.understood(Lesson(1, "anomaly", "motor temp=75 C", source=""))
    wider = {**HISTORY, "values": [70.0, 71.0, 80.0]}
    task = load(changed("sources.", {**REPERTOIRE, "histories": {"0": [wider]}}))
    past = task.memory()
    past.overlay.learn(kept)
    for number, label in ((71, "normal"), (75, "anomaly")):
        prepared = task.prepare(Request(f"motor temp={number} C"))
        outputs = {"distance": np.array(0.5, np.float32)}
        answer = task.finish(prepared, outputs, truncated=False, memory=past)
        assert answer.label == label


def test_a_template_is_less_odd_where_one_like_it_was_said_to_be_normal() -> None:
    stream = Stream()
    before = stream.hears("valve loose at 7")
    stream.past.overlay.learn(Lesson(1, "normal", "valve stuck at 7", source=""))
    after = stream.hears("valve loose at 7")
    assert before.score > after.score
    assert after.label == "anomaly"  # it is new all the same, and no lesson speaks of it
    assert after.lesson is None


def test_tells_that_a_fault_would_be_none_since_its_words_are_known() -> None:
    # All of its words new: 1.57; one of six: .95.
    text = {**TAIL, "scores": [1.2], "log_p": [-1.0], "log_p_above": [-1.0], "decay": 0.05}
    task = load(changed("text", text))
    fault = [Request("valve stuck at 7 bar now", "")]
    assert answered(task, fault[0].text, 0.0).label == "anomaly"
    assert task.silences(Lesson(1, "normal", "valve stuck at 7 bar today"), fault)
    assert not task.silences(Lesson(1, "normal", "pump on"), fault)
    assert not task.silences(Lesson(1, "anomaly", "valve stuck at 7 bar today"), fault)


def test_tells_that_a_fault_would_be_none_since_all_its_words_are_known_by_several() -> None:
    text = {**TAIL, "scores": [1.2], "log_p": [-1.0], "log_p_above": [-1.0], "decay": 0.05}
    task = load(changed("text", text))
    fault, past = [Request("valve stuck at 7 bar now", "")], task.memory()
    lessons = [
        Lesson(i, "normal", known, time=float(i))
        for i, known in enumerate(("valve open", "pump stuck", "look at 7", "bar low", "go now"))
    ]
    assert not any(task.silences(lesson, fault) for lesson in lessons)  # none alone
    told = []
    for lesson in lessons:
        told.append(task.silences(lesson, fault, past))
        past.overlay.learn(lesson)
    assert told.count(True) == 1  # by the one that made it so, and then it is none any more
    outputs = {"distance": np.array(0, np.float32)}
    said = task.finish(task.prepare(fault[0]), outputs, truncated=False, memory=past)
    assert said.label == "normal"
    last = lessons[told.index(True)]
    past.overlay.unlearn(*(each.id for each in lessons[last.id :]))
    assert task.silences(last, fault, past)
    past.overlay.learn(Lesson(9, "anomaly", fault[0].text, time=9.0))
    assert not task.silences(last, fault, past)  # somebody says that it is one, and it stays one


FAULTS = [Request("valve stuck at 7"), Request("motor temp=90 C")]


@pytest.mark.parametrize(
    ("text", "whole", "silent"),
    [
        ("valve stuck at 9", True, True),  # of new words: the template
        ("valve stuck at ¤", False, True),
        ("valve stuck", True, False),
        ("motor temp=95 C", True, True),  # beyond that fault
        ("motor temp=90 C", True, True),
        ("motor temp=80 C", True, False),  # not as far
        ("motor temp=60 C", True, False),  # the other way
        ("motor temp=¤ C", False, False),  # says nothing of numbers
    ],
)
def test_tells_which_lesson_would_silence_a_known_fault(
    text: str, *, whole: bool, silent: bool
) -> None:
    assert {answered(TASK, fault.text).label for fault in FAULTS} == {"anomaly"}
    assert TASK.silences(Lesson(1, "normal", text, whole), FAULTS) == silent
    assert not TASK.silences(Lesson(1, "anomaly", text, whole), FAULTS)


def test_a_fault_of_a_window_is_silenced_by_what_silences_windows() -> None:
    fault = [Request("motor temp=71 C")]  # no alarm by itself
    assert answered(TASK, fault[0].text).label == "normal"
    said = {
        channel: TASK.silences(Lesson(1, "normal", "motor temp=71 C", channel=channel), fault)
        for channel in ("number", "window", "session")
    }
    assert said == {"number": False, "window": True, "session": True}
