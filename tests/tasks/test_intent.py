"""The intent task: from logits to an answer."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import InvalidFileError
from edgeslm.ports import Answer, Request
from edgeslm.tasks.intent import DISTANCE, LOGITS, IntentParameters, energy, energy_of, load

GOOD = {
    "labels": ["fault", "start", "stop"],
    "threshold": -2.0,
    "reject_share": 0.25,
    "temperature": 1.0,
    "calibration": [-9.0, -7.0, -5.0, -1.0],
}
TASK = load(json.dumps(GOOD).encode())
logits = st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3)


def answer(*values: float, truncated: bool = False) -> Answer:
    prepared = TASK.prepare(Request("start pump 1", source="press"))
    outputs = {LOGITS: np.array(values, np.float32)}
    return TASK.finish(prepared, outputs, truncated=truncated)


def test_the_model_reads_the_text_itself() -> None:
    assert TASK.prepare(Request("Start  Pump 1")).model_text == "Start  Pump 1"


def test_the_best_logit_names_the_label_and_its_softmax_the_confidence() -> None:
    got = answer(1.0, 4.0, 2.0)
    assert got.label == "start"
    assert got.confidence == pytest.approx(math.exp(4) / sum(map(math.exp, (1, 4, 2))))
    assert got.score == pytest.approx(-math.log(sum(map(math.exp, (1, 4, 2)))))


def test_little_evidence_for_any_label_is_rejected() -> None:
    assert answer(0.0, 9.0, 0.0).accepted is True
    assert answer(-3.0, -2.0, -3.0).accepted is False


@given(logits)
def test_the_energy_of_one_text_is_that_of_many(values: list[float]) -> None:
    row = np.array(values, np.float32)
    assert energy_of(row, float(row.max())) == pytest.approx(float(energy(row)), rel=1e-14)


def test_a_score_on_the_threshold_is_accepted() -> None:
    parameters = {**GOOD, "threshold": float(energy(np.zeros(3, np.float32)))}
    task = load(json.dumps(parameters).encode())
    outputs = {LOGITS: np.zeros(3, np.float32)}
    assert task.finish(task.prepare(Request("x")), outputs, truncated=False).accepted is True


@pytest.mark.parametrize(
    ("score", "p"), [(-10, 5 / 5), (-9, 5 / 5), (-8, 4 / 5), (-2, 2 / 5), (-1, 2 / 5), (0, 1 / 5)]
)
def test_p_is_the_share_of_in_scope_texts_at_least_as_far_out(score: float, p: float) -> None:
    # Two logits so low that the third alone makes the energy.
    assert answer(-score, -1e4, -1e4).p_value == pytest.approx(p)


@given(logits)
def test_any_finite_logits_give_a_finite_answer(values: list[float]) -> None:
    got = answer(*values)
    assert 1 / 3 - 1e-6 <= got.confidence <= 1
    assert math.isfinite(got.score)
    assert got.p_value is not None
    assert 0 < got.p_value <= 1


@given(logits, logits)
def test_a_higher_score_never_has_a_higher_p(one: list[float], other: list[float]) -> None:
    low, high = sorted((answer(*one), answer(*other)), key=lambda a: a.score)
    assert low.p_value is not None
    assert high.p_value is not None
    assert low.p_value >= high.p_value
    assert low.accepted or not high.accepted


def test_a_cut_text_is_said_to_be() -> None:
    assert answer(1.0, 2.0, 3.0, truncated=True).truncated is True
    assert answer(1.0, 2.0, 3.0).truncated is False


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"labels": ["one"]}, "labels"),
        ({"labels": ["a", "a"]}, "labels"),
        ({"threshold": "high"}, "threshold"),
        ({"threshold": float("nan")}, "JSON|threshold"),
        ({"reject_share": 1.0}, "reject_share"),
        ({"temperature": 0.0}, "temperature"),
        ({"calibration": []}, "calibration"),
        ({"calibration": [2.0, 1.0]}, "calibration"),
        ({"surprise": 1}, "surprise"),
        ({"schema_version": 2}, "schema_version"),
    ],
)
def test_wrong_parameters_are_refused_by_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidFileError, match=field):
        load(json.dumps({**GOOD, **change}).encode())


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff", b"{}", b"nonsense"])
def test_bytes_that_are_no_parameters_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidFileError, match=r"parameters\.json"):
        load(raw)


def test_parameters_survive_their_own_json() -> None:
    parameters = IntentParameters.model_validate_json(json.dumps(GOOD))
    assert IntentParameters.model_validate_json(parameters.model_dump_json()) == parameters


MIXTURE = {"softmax": 1.0, "energy": 2.0, "knn": 3.0, "bias": 0.5}


def scored(**more: object) -> Answer:
    task = load(json.dumps({**GOOD, **more}).encode())
    outputs = {
        LOGITS: np.array([1.0, 4.0, 2.0], np.float32),
        DISTANCE: np.array(0.25, np.float32),
    }
    return task.finish(task.prepare(Request("x")), outputs, truncated=False)


def test_each_scorer_scores_as_it_says_and_leaves_label_and_confidence() -> None:
    free = float(energy(np.array([1.0, 4.0, 2.0], np.float32)))
    unsure = -math.log(math.exp(4) / sum(map(math.exp, (1, 4, 2))))
    expected = {
        "energy": free,
        "softmax": unsure,
        "knn": 0.25,
        "calibrated": unsure + 2 * free + 3 * 0.25 + 0.5,
    }
    plain = scored()
    for scorer, score in expected.items():
        more = {"mixture": MIXTURE} if scorer == "calibrated" else {}
        got = scored(scorer=scorer, **more)
        assert got.score == pytest.approx(score)
        assert (got.label, got.confidence) == (plain.label, plain.confidence)
        assert got.accepted == (got.score <= -2.0)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"scorer": "calibrated"}, "mixture: of the calibrated score"),
        ({"scorer": "knn", "mixture": MIXTURE}, "mixture: of the calibrated score"),
        ({"scorer": "guess"}, "scorer"),
        ({"scorer": "calibrated", "mixture": {**MIXTURE, "knn": 1e300}}, r"mixture\.knn"),
    ],
)
def test_scorers_that_are_none_are_refused(more: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidFileError, match=said):
        load(json.dumps({**GOOD, **more}).encode())


def test_of_the_plain_score_nothing_is_said_that_older_readers_do_not_know() -> None:
    parameters = IntentParameters.model_validate_json(json.dumps(GOOD))
    assert json.loads(parameters.to_bytes()).keys() == {*GOOD, "schema_version"}
    other = parameters.model_copy(update={"scorer": "knn"})
    assert IntentParameters.model_validate_json(other.to_bytes()) == other
