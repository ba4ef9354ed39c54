"""Lessons: what each covers, which of them counts, and that taking one back restores all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.core.novelty import Vocabulary
from edgeslm.core.overlay import WORDS, Lesson, Overlay
from edgeslm.core.template import split

SEEN = ((70.0, 72.0),)


def taught(*lessons: Lesson) -> Overlay:
    overlay = Overlay(by_template=True)
    overlay.learn(*lessons)
    return overlay


def said(
    overlay: Overlay, text: str, source: str = "a", *, known: bool = True
) -> tuple[str | None, tuple[bool, ...], bool]:
    """Return what lessons say of the words, which numbers are confirmed, and whether it alarms."""
    template, slots = split(text)
    entry = overlay.at(template)
    if entry is None:
        return None, (), False
    seen = SEEN * len(slots) if known else ()
    covered = entry.covers(slots, source, known=known, seen=seen)
    words = None if covered.words is None else covered.words.kind
    return words, covered.quiet, covered.fault is not None


def test_a_line_is_covered_by_its_template_whoever_says_it() -> None:
    overlay = taught(Lesson(1, "normal", "Valve stuck at 7", source="a"))
    assert said(overlay, "valve STUCK at 9", "b", known=False) == ("normal", (False,), False)
    assert said(overlay, "valve loose at 9", known=False)[0] is None


@pytest.mark.parametrize(
    ("value", "quiet"),
    [("75", True), ("80", True), ("80.1", False), ("72.5", True), ("69", False), ("nan", False)],
)
def test_numbers_are_covered_on_the_way_to_what_was_confirmed(value: str, quiet: object) -> None:
    overlay = taught(Lesson(1, "normal", "temp=80 C", source="a"))
    assert said(overlay, f"temp={value} C")[1] == (quiet,)
    assert said(overlay, f"temp={value} C", "b")[1] == (False,)  # in that source alone


def test_below_the_range_it_is_the_same() -> None:
    overlay = taught(Lesson(1, "normal", "temp=60 C", source="a"))
    for value, quiet in ((65, True), (60, True), (59, False), (75, False)):
        assert said(overlay, f"temp={value} C")[1] == (quiet,)


def test_what_is_no_number_is_covered_where_it_was_none() -> None:
    overlay = taught(Lesson(1, "normal", "temp=nan C", source="a"))
    assert said(overlay, "temp=NaN C")[1] == (True,)
    assert said(overlay, "temp=80 C")[1] == (False,)


def test_an_anomaly_alarms_beyond_its_value() -> None:
    overlay = taught(Lesson(1, "anomaly", "temp=75 C", source="a"))
    alarms = {v: said(overlay, f"temp={v} C")[2] for v in (71, 74, 75, 90, 60)}
    assert alarms == {71: False, 74: False, 75: True, 90: True, 60: False}


def test_an_anomaly_within_the_range_is_that_line() -> None:
    overlay = taught(Lesson(1, "anomaly", "temp=71 C", source="a"))
    assert said(overlay, "temp=71 C")[2]
    assert not said(overlay, "temp=71.5 C")[2]


def test_an_anomaly_of_known_words_alarms_by_them_in_that_source() -> None:
    missed = Lesson(1, "anomaly", "temp=71 C", source="a", channel=WORDS)
    overlay = taught(missed)
    assert said(overlay, "temp=70.5 C")[2]
    assert said(overlay, "temp=90 C")[2]
    assert not said(overlay, "temp=71 C", "b")[2], "others say it with good reason"
    assert said(overlay, "temp=71 C", "b", known=False)[2]
    # What is normal elsewhere makes no numbers of it; what is said later does.
    overlay.learn(Lesson(2, "normal", "temp=80 C", source="b", time=-1.0))
    assert said(overlay, "temp=70.5 C")[2]
    overlay.learn(Lesson(3, "normal", "temp=70 C", source="a"))
    assert not said(overlay, "temp=70.5 C")[2]
    plain = taught(Lesson(1, "anomaly", "pump off", source="a"))
    assert [said(plain, "pump off", source)[2] for source in "ab"] == [True, False]


@pytest.mark.parametrize(
    ("lesson", "covers"),
    [
        (Lesson(1, "anomaly", "temp=71 C", channel="number"), "numbers"),
        (Lesson(1, "anomaly", "temp=71 C", channel="window"), "numbers"),
        (Lesson(1, "anomaly", "temp=71 C", channel=WORDS), "template"),
        (Lesson(1, "anomaly", "temp=¤ C", whole=False), "template"),
        (Lesson(1, "anomaly", "pump off", channel="session"), "template"),
        (Lesson(1, "normal", "temp=71 C"), None),
        (Lesson(1, "intent", "on", label="on"), None),
    ],
)
def test_an_anomaly_tells_what_it_covers(lesson: Lesson, covers: str | None) -> None:
    assert lesson.covers == covers


def test_the_same_line_said_of_its_words_is_said_anew() -> None:
    overlay = taught(Lesson(1, "anomaly", "temp=71 C", channel="window"))
    assert overlay.same(Lesson(0, "anomaly", "temp=71 C", channel=WORDS)) is None


def test_an_anomaly_of_new_words_alarms_by_them() -> None:
    overlay = taught(Lesson(1, "anomaly", "fan 3 failed", source="a"))
    assert said(overlay, "fan 9 failed", "b", known=False)[2]


def test_numbers_of_a_new_template_are_held_against_what_was_confirmed() -> None:
    overlay = taught(
        Lesson(1, "normal", "flow=20", source="a", time=1),
        Lesson(2, "normal", "flow=30", source="a", time=2),
        Lesson(3, "anomaly", "flow=999", source="a", time=3),
    )
    assert said(overlay, "flow=25", known=False) == ("normal", (False,), False)
    assert said(overlay, "flow=999", known=False)[2]
    assert said(overlay, "flow=2000", known=False)[2]
    # The same numbers as before: it is the words that are wrong.
    overlay.learn(Lesson(4, "anomaly", "flow=25", source="a", time=4))
    assert said(overlay, "flow=21", known=False)[2]


def test_the_last_by_time_counts_then_by_number() -> None:
    late = Lesson(1, "anomaly", "pump off", time=9)
    overlay = taught(late, Lesson(2, "normal", "pump off", time=5))
    assert said(overlay, "pump off")[2]
    overlay.learn(Lesson(3, "normal", "pump off", time=9))
    assert said(overlay, "pump off") == ("normal", (), False)


def test_a_template_says_nothing_of_numbers_and_may_be_of_one_source() -> None:
    overlay = taught(Lesson(1, "normal", "temp=¤ C", whole=False, source="a"))
    assert said(overlay, "temp=99 C") == ("normal", (False,), False)
    assert said(overlay, "temp=99 C", "b")[0] is None
    fault = taught(Lesson(1, "anomaly", "temp=¤ C", whole=False))
    assert said(fault, "temp=71 C", "b")[2]


def test_a_later_number_counts_over_an_earlier_one() -> None:
    overlay = taught(
        Lesson(1, "normal", "temp=90 C", source="a", time=1),
        Lesson(2, "anomaly", "temp=80 C", source="a", time=2),
    )
    assert said(overlay, "temp=78 C") == ("normal", (True,), False)
    assert said(overlay, "temp=90 C")[2]
    overlay.learn(Lesson(3, "normal", "temp=90 C", source="a", time=3))
    assert said(overlay, "temp=85 C") == ("normal", (True,), False)


def test_words_of_what_is_normal_are_known_until_something_else_is_said() -> None:
    vocabulary = Vocabulary(["motor temp=¤ C"])
    overlay = Overlay(by_template=True)

    def unseen() -> tuple[str, ...]:
        return vocabulary.look_beside("valve loose at ¤", overlay.familiar).unseen

    assert unseen() == ("valve", "loose", "at")
    overlay.learn(Lesson(1, "anomaly", "valve stuck at 7"), Lesson(2, "normal", "Valve 3 on"))
    assert unseen() == ("loose", "at")
    overlay.learn(Lesson(3, "normal", "valve stuck at 9", time=1))
    assert unseen() == ("loose",)
    overlay.learn(Lesson(4, "anomaly", "valve stuck at 9", time=2))
    assert unseen() == ("loose", "at")
    overlay.unlearn(2, 4)
    assert unseen() == ("loose",)
    overlay.unlearn(3)
    assert unseen() == ("valve", "loose", "at")


def test_an_intent_is_found_by_its_text_in_any_case_the_exact_one_first() -> None:
    overlay = Overlay(by_template=False)
    overlay.learn(
        Lesson(1, "intent", "Turn ON", label="on", time=1),
        Lesson(2, "intent", "TURN on", label="off", time=2),
    )
    found = {text: overlay.of(text) for text in ("Turn ON", "TURN on", "turn on", "turn it on")}
    labels = {text: each and each.label for text, each in found.items()}
    assert labels == {"Turn ON": "on", "TURN on": "off", "turn on": "off", "turn it on": None}


def test_the_same_said_twice_is_known_unless_it_was_contradicted() -> None:
    first = Lesson(1, "normal", "pump off", time=1)
    overlay = taught(first)
    assert overlay.same(Lesson(0, "normal", "pump off", time=2)) == first
    assert overlay.same(Lesson(0, "normal", "Pump off", time=2)) is None
    wrong = Lesson(2, "anomaly", "pump off", time=2)
    assert overlay.contradicted(wrong) == first
    overlay.learn(wrong)
    assert overlay.same(Lesson(0, "normal", "pump off", time=3)) is None
    assert overlay.contradicted(Lesson(0, "normal", "pump off", time=3)) == wrong


TEXTS = st.sampled_from(
    ["temp=60 C", "temp=71 C", "Temp=80 C", "temp=nan C", "temp=¤ C", "pump on", "PUMP on", "x 1 y"]
)
LESSONS = st.lists(
    st.builds(
        Lesson,
        id=st.integers(1, 12),
        kind=st.sampled_from(["normal", "anomaly"]),
        text=TEXTS,
        whole=st.booleans(),
        source=st.sampled_from([None, "a", "b"]),
        time=st.floats(0, 3),
        channel=st.sampled_from(["", WORDS, "number"]),
    ),
    max_size=12,
    unique_by=lambda each: each.id,
)


def everything(overlay: Overlay) -> list[Any]:
    """All that it says of all lines."""
    lines = ["temp=59 C", "temp=65 C", "temp=71 C", "temp=79 C", "temp=81 C", "temp=NaN C"]
    lines += ["pump on", "pump ON", "x 1 y", "x 2 y"]
    vocabulary = Vocabulary(["temp=¤ C"])
    looks = [vocabulary.look_beside(each, overlay.familiar) for each in ("pump ¤ y", "x on")]
    return looks + [
        said(overlay, line, source, known=known)
        for line in lines
        for source in ("a", "b", "c")
        for known in (True, False)
    ]


@settings(deadline=None, max_examples=60)
@given(LESSONS, st.data())
def test_learning_is_idempotent_in_any_order_and_unlearning_restores(
    lessons: list[Lesson], data: st.DataObject
) -> None:
    overlay = taught(*lessons)
    before = everything(overlay)
    again = Overlay(by_template=True)
    for lesson in data.draw(st.permutations(lessons)):
        again.learn(lesson)
        again.learn(lesson)
    assert everything(again) == before
    gone = data.draw(st.lists(st.sampled_from(lessons), unique=True)) if lessons else []
    overlay.unlearn(*(each.id for each in gone))
    assert everything(overlay) == everything(taught(*(x for x in lessons if x not in gone)))
    overlay.unlearn(*(each.id for each in lessons))
    assert len(overlay) == 0
    assert everything(overlay) == everything(taught())
    overlay.learn(*lessons)
    assert everything(overlay) == before
