"""What operators say is learnt at once, lasts, can be taken back, and is no stranger's to say."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgeslm.core.learning import FEWEST, HEARD
from tests.agent import lines
from tests.agent.kit import BASE, WAIT_S, AgentProcess, Plant, poll
from tests.mosquitto import Mosquitto

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]
ODD = "valve stuck at 7"
ROUTES = {"all": {"topic": "in/#", "models": ["m"], "text": "/text", "id": "/id"}}


class Operator:
    """Somebody at the plant who publishes lines, and judges what is said of them."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._count = 0

    def asks(self, topic: str, text: str) -> dict[str, Any]:
        """Publish a line until it is answered, since subscriptions take a while; return that."""
        self._count += 1
        id_ = f"q{self._count}"
        found: list[dict[str, Any]] = []

        def heard() -> bool:
            if self._plant.unconfirmed == 0 and not found:
                self._plant.publish(topic, json.dumps({"text": text, "id": id_}))
            time.sleep(0.1)
            found[:] = [
                x for x in list(self._plant.results) if x["id"] == id_ and x["topic"] == topic
            ]
            return bool(found)

        poll(heard, f"an answer to {text}")
        return found[0]

    def says(self, **message: Any) -> dict[str, Any]:
        """Publish it until it is answered; return the reply."""
        self._count += 1
        id_ = f"m{self._count}"
        self._plant.publish(f"{BASE}/feedback", json.dumps({"id": id_, **message}))
        poll(lambda: self._plant.last.get("feedback", {}).get("id") == id_, f"a reply to {message}")
        return self._plant.last["feedback"]


def says_by_3_1_1(port: int, **message: Any) -> dict[str, Any]:
    """Say something by MQTT 3.1.1, which has no properties; return the reply."""
    replies: SimpleQueue[dict[str, Any]] = SimpleQueue()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)

    def ask(*_: Any) -> None:
        client.subscribe(f"{BASE}/feedback/reply", 1)

    def say(*_: Any) -> None:
        client.publish(f"{BASE}/feedback", json.dumps(message), 1)

    client.on_connect, client.on_subscribe = ask, say
    client.on_message = lambda _c, _u, heard: replies.put(json.loads(heard.payload))
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        return replies.get(timeout=WAIT_S)
    finally:
        client.disconnect()
        client.loop_stop()


def command(agent: AgentProcess, *argv: str, status: int = 0) -> str:
    """Run `edgeslm feedback` on the device; return what it prints."""
    words = [sys.executable, "-m", "edgeslm", "feedback", *argv, "--config", str(agent.config)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == status, done.stderr
    return done.stdout


def test_what_an_operator_says_is_learnt_lasts_and_can_be_taken_back(  # noqa: PLR0915 -- a life
    make_agent: MakeAgent, plant: Plant, tmp_path: Path
) -> None:
    signer, operator = lines.Signer(), Operator(plant)
    agent = make_agent(
        models={"m": {"bundle": lines.bundle(tmp_path / "one")}},
        routes=ROUTES,
        feedback={"keys": [signer.public]},
    )
    agent.start()
    agent.wait_for("feedback_connected")
    assert operator.asks("in/a", "pump on")["label"] == "normal"
    odd = operator.asks("in/a", ODD)
    assert odd["label"] == "anomaly"

    # Without a token, or with a stranger's, nothing is silenced.
    for more in ({}, {"token": lines.Signer().token()}, {"token": "edgeslm-operator.x.y"}):
        refused = operator.says(kind="normal", result=odd["id"], **more)
        assert (refused["status"], refused["error"]["code"]) == ("refused", "feedback.token")
    assert operator.asks("in/a", ODD)["label"] == "anomaly"

    token = signer.token()
    learnt = operator.says(kind="normal", result=odd["id"], token=token)
    assert learnt["status"] == "learnt"
    lesson = learnt["lesson"]
    again = operator.asks("in/a", ODD)
    assert (again["label"], again["lesson"]) == ("normal", lesson)
    assert (
        operator.says(kind="normal", text=ODD, model="m", source="in/a", token=token)
        == (plant.last["feedback"])
    )
    assert plant.last["feedback"]["status"] == "known"
    # Its template is covered, whoever says it.
    assert operator.asks("in/b", "valve stuck at 8")["label"] == "normal"

    # Numbers: the way from what was seen to what was confirmed, in that source alone.
    hot = operator.asks("in/a", "motor temp=90 C")
    assert hot["label"] == "anomaly"
    operator.says(kind="normal", result=hot["id"], token=token)
    said = {t: operator.asks("in/a", f"motor temp={t} C")["label"] for t in (80, 90, 140)}
    assert said == {80: "normal", 90: "normal", 140: "anomaly"}
    assert operator.asks("in/b", "motor temp=90 C")["label"] == "anomaly"

    # A restart, then another bundle: they know it, too.
    agent.kill()
    agent.start()
    assert operator.asks("in/a", ODD)["label"] == "normal"
    agent.configure(models={"m": {"bundle": lines.bundle(tmp_path / "two", version=2)}})
    agent.mark()
    agent.hup()
    agent.wait_for("model_loaded", version=2)
    newer = operator.asks("in/a", ODD)
    assert (newer["model"]["version"], newer["label"]) == (2, "normal")

    # It is listed, exported, and taken back on the device while the agent runs.
    listed = [json.loads(line) for line in command(agent, "list", "--json").splitlines()]
    assert [(x["lesson"], x["operator"], x["token"]) for x in listed] == [
        (lesson, "Anna", "0123456789abcdef"),
        (lesson + 1, "Anna", "0123456789abcdef"),
    ]
    exported = [json.loads(line) for line in command(agent, "export").splitlines()]
    assert {(x["text"], x["label"], x["source"]) for x in exported} == {
        (ODD, "normal", "in/a"),
        ("motor temp=90 C", "normal", "in/a"),
    }
    agent.mark()
    command(agent, "undo", str(lesson))
    agent.wait_for("feedback_undone", lesson=lesson)
    assert operator.asks("in/a", ODD)["label"] == "anomaly"
    command(agent, "undo", str(lesson), status=65)

    # And by a message, which takes a token; and what was undone may be said again.
    assert operator.says(kind="undo", lesson=lesson + 1)["error"]["code"] == "feedback.token"
    assert operator.says(kind="undo", lesson=lesson + 1, token=token)["status"] == "undone"
    assert operator.asks("in/a", "motor temp=90 C")["label"] == "anomaly"
    assert operator.says(kind="normal", text=ODD, model="m", token=token)["status"] == "learnt"
    assert operator.asks("in/a", ODD)["label"] == "normal"

    # An anomaly takes no token, and is no match for what was signed; of those the later one wins.
    strange = operator.says(kind="anomaly", text=ODD, model="m", source="in/a")
    assert (strange["status"], strange["flags"]) == ("learnt", ["overruled"])
    assert operator.asks("in/a", ODD)["label"] == "normal"
    wrong = operator.says(kind="anomaly", text=ODD, model="m", source="in/a", token=token)
    assert (wrong["status"], wrong["flags"]) == ("learnt", ["contradicts"])
    assert operator.asks("in/a", ODD)["label"] == "anomaly"
    back = operator.says(kind="normal", text=ODD, model="m", source="in/a", token=token)
    assert back["flags"] == ["contradicts", "known_fault"]
    assert operator.asks("in/a", ODD)["label"] == "normal"

    # So is what the bundle itself has as a fault; it is kept, told to the fleet, and undone.
    alike = lines.FAULT.replace("3", "9")
    agent.mark()
    fault = operator.says(kind="normal", text=alike, model="m", source="in/a", token=token)
    assert (fault["status"], fault["flags"]) == ("learnt", ["known_fault"])
    assert agent.wait_for("feedback_learnt", lesson=fault["lesson"])["flags"] == "known_fault"
    assert operator.asks("in/a", lines.FAULT)["label"] == "normal"
    listed = [json.loads(line) for line in command(agent, "list", "--json").splitlines()]
    assert {x["lesson"]: x["flags"] for x in listed}[fault["lesson"]] == ["known_fault"]
    operator.says(kind="undo", lesson=fault["lesson"], token=token)
    assert operator.asks("in/a", lines.FAULT)["label"] == "anomaly"

    # A fault that was missed, of words and numbers as ever: its template is one from then on.
    missed = operator.asks("in/a", "motor temp=71 C")
    assert missed["label"] == "normal"
    agent.mark()
    learnt = operator.says(kind="anomaly", result=missed["id"])
    assert (learnt["status"], learnt["covers"]) == ("learnt", "template")
    assert agent.wait_for("feedback_learnt", lesson=learnt["lesson"])["covers"] == "template"
    assert operator.asks("in/a", "motor temp=70 C")["label"] == "anomaly"
    assert operator.asks("in/b", "motor temp=70 C")["label"] == "normal"

    # What is said while the device is off waits on the broker until there is a model to teach.
    agent.kill()
    plant.publish(
        f"{BASE}/feedback",
        json.dumps({"id": "off", "kind": "anomaly", "text": "pump hums", "model": "m"}),
    )
    agent.start()
    poll(lambda: plant.last["feedback"].get("id") == "off", "a reply to what was said meanwhile")
    assert plant.last["feedback"]["status"] == "learnt"
    agent.stop()


def test_people_are_told_once_new_templates_are_shown_and_new_sources_learn(
    make_agent: MakeAgent, plant: Plant, tmp_path: Path
) -> None:
    operator = Operator(plant)
    model = {
        "bundle": lines.bundle(tmp_path / "one"),
        "review": True,
        "learn": {"lines": 4, "hours": 1.0},
    }
    agent = make_agent(models={"m": model}, routes=ROUTES)
    agent.start()
    odd = [operator.asks("in/a", f"valve stuck at {i}") for i in range(3)]
    assert {each["label"] for each in odd} == {"anomaly"}
    raised = agent.wait_for("alarm_raised")
    assert (raised["count"], raised["review"]) == (1, True)
    assert raised["result"] in {each["id"] for each in odd}

    # A machine that was not in training learns what is its own, and is judged by it then.
    first = operator.asks("in/new", "motor temp=71 C")
    assert (first["source_known"], first["learning"]["of"]) == (False, 4)
    while "learning" in (said := operator.asks("in/new", "motor temp=71 C")):
        assert not said["source_known"]
    agent.wait_for("learning_began", source="in/new")
    agent.wait_for("learning_ended", source="in/new")
    assert operator.asks("in/new", "pump on")["source_known"]

    # After a restart it has not forgotten that, nor what it has shown.
    agent.kill()
    agent.start()
    assert operator.asks("in/new", "motor temp=71 C")["source_known"]
    assert "learns anew" in command(agent, "forget", "in/new")
    agent.wait_for("learning_forgotten", source="in/new")
    assert not operator.asks("in/new", "motor temp=71 C")["source_known"]
    agent.stop()
    told = [each for each in agent.events() if each["event"] in {"alarm_raised", "template_shown"}]
    assert len(told) == 1


def test_a_machine_that_is_an_alarm_whatever_it_says_learns_once_an_operator_confirms_it(
    make_agent: MakeAgent, plant: Plant, tmp_path: Path
) -> None:
    signer, operator = lines.Signer(), Operator(plant)
    agent = make_agent(
        models={"m": {"bundle": lines.bundle(tmp_path / "one"), "learn": {"lines": 4}}},
        routes=ROUTES,
        feedback={"keys": [signer.public]},
    )
    agent.start()
    agent.wait_for("feedback_connected")
    hot = "motor temp=200 C"
    assert operator.asks("in/hot", hot)["label"] == "anomaly"
    agent.wait_for("learning_began", source="in/hot")
    for i in range(HEARD * FEWEST):
        plant.publish("in/hot", json.dumps({"text": hot, "id": f"hot {i}"}))
    failed = agent.wait_for("learning_failed", source="in/hot")
    assert (failed["heard"], failed["alarms"], failed["lines"]) == (60, 60, 0)
    said = {"kind": "normal", "text": hot, "model": "m", "source": "in/hot"}
    operator.says(token=signer.token(), **said)
    assert operator.asks("in/hot", hot)["learning"]["lines"] > 0
    agent.stop()


def test_an_intent_is_learnt_by_its_text_and_by_mqtt_3_1_1_as_well(
    make_agent: MakeAgent, plant: Plant, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    operator = Operator(plant)
    agent = make_agent(
        models={"m": {"bundle": lines.intents(tmp_path / "colours")}}, routes=ROUTES, feedback={}
    )
    agent.settings["uplink"]["protocol"] = "3.1.1"
    agent.start()
    agent.wait_for("feedback_connected")
    asked = operator.asks("in/a", "Hot pump")
    other = next(label for label in ("red", "green") if label != asked["label"])
    said = {"kind": "intent", "label": other, "result": asked["id"], "id": "old"}
    learnt = says_by_3_1_1(mosquitto.port, **said)
    assert (learnt["status"], learnt["id"]) == ("learnt", "old")
    said = operator.asks("in/a", "hot PUMP")
    assert (said["label"], said["accepted"], said["lesson"]) == (other, True, learnt["lesson"])
    none = operator.says(kind="anomaly", text="hot pump", model="m")
    assert none["flags"] == ["contradicts"]
    assert operator.asks("in/a", "hot pump")["accepted"] is False
    unknown = operator.says(kind="intent", label="mauve", result=asked["id"])
    assert unknown["error"]["code"] == "feedback.unfit"
    exported = command(agent, "export").splitlines()
    labels = {row["text"]: row["label"] for row in map(json.loads, exported)}
    assert labels == {"Hot pump": other, "hot pump": "oos"}
    agent.stop()
