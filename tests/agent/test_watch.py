"""What the agent tells of drift: when, of what, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from edgeslm.agent.watch import OVER, SHOWN, SUSPECTED, Watch, sighting_of
from edgeslm.contract.routes import ModelSettings
from edgeslm.core.drift import INTENT, Sighting, Trained
from edgeslm.ports import Answer, Request

PLANT = Trained({"text": 1.0, "number": 1.0}, 0.04)


def watch(trained: Trained = PLANT, *, task: str = "anomaly", **settings: Any) -> Watch:
    made = Watch(ModelSettings(**settings))
    assert list(made.begin(bundle="b", task=task, version=3, trained=trained)) == []
    return made


def hear(made: Watch, *sightings: Sighting, times: int = 1) -> list[tuple[str, dict[str, Any]]]:
    return [
        (event, dict(detail))
        for n in range(times)
        for one in sightings
        for event, detail in made.take(one, wall=1000.0 + n)
    ]


def odd(
    *, template: str = "pump \x00 odd", channel: str = "text", text: str | None = None
) -> Sighting:
    return Sighting(("s1", template), {channel: 0.01}, text)


USUAL = Sighting(("s2", "usual"), {"text": 1.0})


def test_drift_is_told_once_with_what_changed_and_what_to_do() -> None:
    made = watch()
    state = made.state()
    assert state is None, "nothing was heard"
    hear(made, USUAL, times=50)
    state = made.state()
    assert state is not None
    assert state["evidence"] < 1
    assert state | {"evidence": 0} == {
        "evidence": 0,
        "suspected": False, "channels": [], "limit": 4.6, "new_rate": 0.0,
        "trained_new_rate": 0.04,
    }  # fmt: skip
    ((event, detail),) = hear(made, odd(), odd(template="other"), USUAL, times=200)
    assert event == SUSPECTED
    assert detail["channels"] == "text"
    assert detail["sources"].startswith("s1 ")
    assert detail["unusual"].startswith("2 kinds of message, in ")
    assert 0.1 < detail["new_rate"] < 0.7
    assert detail["trained_new_rate"] == 0.04
    assert "feedback" in detail["proposal"]
    assert "edgeslm-export anomaly --version 4" in detail["proposal"]
    assert "odd" not in str(detail), "no route shares texts"
    state = made.state()
    assert state is not None
    assert state["suspected"]
    assert 1000 < state["since"] < 1200


def test_texts_are_quoted_where_their_route_shares_them() -> None:
    made = watch()
    ((_, detail),) = hear(made, odd(text="pump \x00 odd"), odd(template="secret"), times=200)
    assert "odd" in detail["texts"]
    assert "secret" not in str(detail)


def test_numbers_are_told_from_words() -> None:
    made = watch()
    ((_, detail),) = hear(made, odd(channel="number"), times=200)
    assert detail["channels"] == "number"
    assert "sensors" in detail["proposal"]


def test_its_end_is_told_with_how_long_it_was() -> None:
    made = watch()
    hear(made, odd(), times=200)
    ((event, detail),) = hear(made, USUAL, times=1000)
    assert event == OVER
    assert detail["for_s"] > 0
    state = made.state()
    assert state is not None
    assert not state["suspected"]
    assert "since" not in state


def test_another_bundle_is_watched_anew() -> None:
    made = watch()
    hear(made, odd(), times=200)
    assert list(made.begin(bundle="b", task="anomaly", version=3, trained=PLANT)) == []
    ((event, _),) = made.begin(bundle="c", task="anomaly", version=4, trained=PLANT)
    assert event == OVER
    assert made.state() is None


def test_it_can_be_turned_off_and_bound_while_it_runs() -> None:
    made = watch(drift=False)
    assert hear(made, odd(), times=300) == []
    assert made.state() is None
    made.live_by(ModelSettings(drift=True, drift_false_rate=1e-9))
    assert hear(made, odd(), times=70) == []
    made.live_by(ModelSettings(drift=True, drift_false_rate=0.01))
    assert [event for event, _ in hear(made, odd(), times=5)] == [SUSPECTED]


def test_each_channel_is_told_when_it_comes_and_when_it_goes() -> None:
    made = watch()
    ((_, detail),) = hear(made, odd(), times=200)
    assert detail["channels"] == "text"
    both = Sighting(("s1", "both"), {"text": 0.01, "number": 0.01})
    ((event, detail),) = hear(made, both, times=200)
    assert (event, detail["channels"]) == (SUSPECTED, "number")
    assert "sensors" in detail["proposal"]
    state = made.state()
    assert state is not None
    assert state["channels"] == ["number", "text"]
    ((event, detail),) = hear(made, odd(channel="number"), times=1000)
    assert (event, detail["channels"], detail["still"]) == (OVER, "text", "number")
    ((event, detail),) = hear(made, USUAL, times=1000)
    assert (event, detail["channels"]) == (OVER, "number")
    assert "still" not in detail


def test_what_training_was_too_short_for_is_said() -> None:
    made = watch(Trained({"text": 1.0, "number": 0.0}, 0.04))
    hear(made, odd(channel="number"), times=300)
    state = made.state()
    assert state is not None
    assert (state["suspected"], state["untested"]) == (False, ["number"])


def intent(text: str, p: float) -> Sighting:
    answer = Answer("x", 1, 1, p_value=p)
    sighting = sighting_of(Request(text, "s"), answer, "none")
    assert sighting is not None
    return sighting


def test_intents_have_a_channel_and_words_of_their_own() -> None:
    made = watch(Trained(), task="intent")
    hear(made, *(intent(f"text {i}", 0.3 + i / 1000) for i in range(500)))
    state = made.state()
    assert state is not None
    assert not state["suspected"]
    assert not state.keys() & {"new_rate", "trained_new_rate", "untested"}, "it knows no templates"
    ((event, detail),) = hear(made, *(intent(f"secret {i}", 0.001) for i in range(300)))
    assert (event, detail["channels"]) == (SUSPECTED, INTENT)
    assert "intents" in detail["proposal"]
    assert "normal" not in detail["proposal"], "intent models do not know that"
    assert "new_rate" not in detail
    assert "secret" not in str(detail)


def test_whatever_is_said_little_of_it_is_kept() -> None:
    text = "x" * 65_536 + "\ud800"
    for share in ("none", "explanation", "text"):
        found = sighting_of(Request(text, "s"), Answer("x", 1, 1, p_value=0.1), share)
        assert found is not None
        assert len(str(found)) < 2 * SHOWN
        assert (found.text is not None) == (share == "text")
    same = intent("a text", 0.1), intent("a text", 0.2), intent("another", 0.1)
    assert same[0].kind == same[1].kind != same[2].kind


@pytest.mark.parametrize(
    ("answer", "channels"),
    [
        (Answer("x", 1, 1), None),
        (Answer("x", 1, 1, p_value=0.5), {INTENT: 0.5}),
        (Answer("x", 1, 1, p_value=0.5, channels={"number": 0.1}, template="a"), {"number": 0.1}),
    ],
    ids=["no p-value", "an intent", "a line"],
)
def test_what_an_answer_tells(answer: Answer, channels: Any) -> None:
    found = sighting_of(Request("a text", "s"), answer, "none")
    assert (found and found.channels) == channels
