"""Text and number scores of lines, from what training lines and their sources said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.core.detector import Detector, Repertoire
from edgeslm.core.novelty import UNSEEN, Familiar, Vocabulary
from edgeslm.core.numbers import history
from edgeslm.core.template import split

TEMPLATES = ["Valve ¤ opened", "door ¤ closed", "robot started by operator", "oven temp=¤ F"]


def repertoire(*templates: int, lines: int, once: int, level: float = 5.0) -> Repertoire:
    readings = [history([level + i % 3 for i in range(60)])]
    slots = {i: readings for i in templates if "¤" in TEMPLATES[i]}
    return Repertoire(lines, once, frozenset(templates), slots)


@pytest.fixture
def detector() -> Detector:
    return Detector(
        TEMPLATES,
        repertoire(0, 1, 2, 3, lines=1000, once=10),
        {
            "valve": repertoire(0, lines=800, once=0, level=100.0),
            "operator": repertoire(2, lines=60, once=20),
        },
    )


def text(detector: Detector, line: str, source: str, distance: float = 0.0) -> float:
    return detector.scores(split(line), source, distance).text


def test_what_its_source_said_before_scores_nothing(detector: Detector) -> None:
    assert text(detector, "valve 3 opened", "valve", 2.0) == 0
    assert text(detector, "Valve 3 OPENED", "valve", 2.0) == 0


def test_a_template_new_to_its_source_scores_less_than_one_new_to_all(detector: Detector) -> None:
    known, new = text(detector, "door 3 closed", "valve"), text(detector, "valve 3 closed", "valve")
    assert 0 < known < new
    assert text(detector, "door 3 closed", "never seen") == 0


def test_new_words_far_meanings_and_terse_sources_score_more(detector: Detector) -> None:
    pair = text(detector, "valve 3 closed", "operator")
    assert pair < text(detector, "valve 3 exploded", "operator")
    assert pair < text(detector, "valve 3 closed", "operator", 0.5)
    assert pair < text(detector, "valve 3 closed", "valve")


def test_numbers_are_held_against_their_own_source_first(detector: Detector) -> None:
    def surprise(line: str, source: str) -> float:
        return detector.scores(split(line), source, 0.0).number

    assert surprise("valve 101 opened", "valve") < 1
    assert surprise("valve 6 opened", "valve") > 4
    assert surprise("valve 6 opened", "never seen") < 1
    assert surprise("valve 101 opened", "never seen") > 4
    assert surprise("door 6 closed", "valve") < 1
    assert surprise("valve 101 exploded", "valve") == 0


def test_sources_are_known_by_name_and_the_empty_one_is_a_name(detector: Detector) -> None:
    assert detector.knows("valve")
    assert not detector.knows("")
    assert Detector(TEMPLATES, repertoire(0, 1, 2, 3, lines=9, once=1), {
        "": repertoire(0, lines=9, once=1)
    }).knows("")  # fmt: skip


def test_the_first_new_words_are_named_or_else_new_pairs() -> None:
    vocabulary = Vocabulary(TEMPLATES)
    assert vocabulary.look("valve ¤ exploded").unseen == ("exploded",)
    assert vocabulary.look("a b a valve ¤ c d").unseen == ("a", "b", "c")
    assert vocabulary.look("valve ¤ closed door").unseen == ("closed door",)
    assert vocabulary.look("closed").unseen == ("closed",)


@given(st.text(max_size=60), st.floats(0, 2))
def test_scores_of_any_text_are_finite_and_bounded(line: str, distance: float) -> None:
    detector = Detector(TEMPLATES, repertoire(0, 1, 2, 3, lines=1000, once=10), {})
    scores = detector.scores(split(line), "", distance)
    assert 0 <= scores.text < 4
    assert scores.number >= 0


@given(st.text(max_size=60))
def test_a_new_template_is_at_least_a_little_new_and_at_most_entirely(line: str) -> None:
    index, words, _ = Vocabulary(TEMPLATES).look(split(line).template)
    assert words == 0 if index is not None else UNSEEN <= words <= 1 + 1e-9


WORDS = ["valve", "closed", "door", "pump", "5", "¤", "mA", "ma"]
LINES = st.builds(" ".join, st.lists(st.sampled_from(WORDS), max_size=6))


@given(st.lists(LINES, max_size=4), LINES)
def test_familiar_words_are_known_as_those_of_training_are(taught: list[str], line: str) -> None:
    familiar = Familiar()
    for each in taught:
        familiar.add(each)
    vocabulary = Vocabulary(TEMPLATES)
    found = vocabulary.look_beside(line, familiar)
    trained = Vocabulary([*TEMPLATES, *dict.fromkeys(taught)]).look(line)
    if trained.place is None:
        assert found == trained
    else:  # it is no known template by that
        known = vocabulary.look(line).place
        assert found.place == known
        assert known is not None or found.words == UNSEEN
    for each in taught:
        familiar.remove(each)
    assert not familiar
    assert vocabulary.look_beside(line, familiar) == vocabulary.look(line)
