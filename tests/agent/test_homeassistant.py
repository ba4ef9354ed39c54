"""What Home Assistant is told, against its documented schema and on a real broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edgeslm.agent.homeassistant import Discovery, announcements
from edgeslm.contract.messages import ModelState
from edgeslm.contract.settings import AgentSettings, HomeAssistantSettings
from tests.agent.homeassistant_schema import MAX_STATE_CHARS, TOPIC, DeviceDiscovery
from tests.agent.kit import AgentProcess, Plant, poll
from tests.mosquitto import Mosquitto

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DEVICE = "homeassistant/device/edgeslm_dev1/-device/config"
MODEL = "homeassistant/device/edgeslm_dev1/m/config"


def of(tasks: dict[str, str | None], **settings: Any) -> dict[str, bytes | None]:
    """What is told of models with these tasks; None: not loaded."""
    made = AgentSettings(
        device_id=settings.pop("device_id", "dev1"),
        models={name: {"bundle": Path("/b")} for name in tasks},
        homeassistant=HomeAssistantSettings(**settings),
    )
    states: list[ModelState] = []
    for name, task in tasks.items():
        state: ModelState = {
            "name": name,
            "state": "loading" if task is None else "serving",
            **dict.fromkeys(("queue", "answered", "errors", "expired"), 0),  # type: ignore[typeddict-item]
            **dict.fromkeys(("cache_hits", "cache_misses"), 0),
        }
        if task is not None:
            state["task"] = task
        states.append(state)
    return announcements(made, states, profile="x86-64-v3")


def read(payload: bytes | None) -> DeviceDiscovery:
    assert payload
    return DeviceDiscovery.model_validate_json(payload)


def test_what_is_told_is_as_documented() -> None:
    told = of({"press": "anomaly", "orders.v2": "intent"}, alarm_off_s=5)
    seen: set[str] = set()
    for topic, payload in told.items():
        assert (match := TOPIC.fullmatch(topic)) is not None
        assert match["prefix"] == "homeassistant"
        found = read(payload)
        ids = {component.unique_id for component in found.components.values()}
        assert len(ids) == len(found.components)
        assert not ids & seen, "an id twice is an error there"
        seen |= ids
    assert len(told) == 3
    assert len({json.dumps(json.loads(p or b"")["device"]) for p in told.values()}) == 1


def test_an_alarm_has_an_entity_where_there_can_be_one() -> None:
    told = of({"press": "anomaly", "orders": "intent"}, alarm_off_s=5)
    press, orders = (
        read(payload).components
        for topic, payload in told.items()
        if topic.split("/")[-2] in {"press", "orders"}
    )
    assert press["alarm"].model_dump()["off_delay"] == 5
    assert "alarm" not in orders


def test_names_that_differ_get_topics_and_ids_that_differ() -> None:
    told = {*of({"a.b": "intent"}), *of({"a_b": "intent"}), *of({"a.b": "intent"}, device_id="d.1")}
    assert len(told) == 2 + 1 + 2  # the device's own is shared by the first two


def rendered(component: Any, payload: Any) -> str:
    """A template as Home Assistant renders it: what is not there is an error."""
    env = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 -- no page
    return env.from_string(component.value_template).render(value_json=payload)


@pytest.mark.parametrize(
    ("example", "label", "alarm"),
    [
        ("result.anomaly.json", "anomaly", "ON"),
        ("result.intent.json", None, ""),
        ("result.error.json", None, ""),
    ],
)
def test_templates_read_results(example: str, label: str | None, alarm: str) -> None:
    result = json.loads((EXAMPLES / example).read_text())
    components = read(of({"m": "anomaly"})[MODEL]).components
    said = rendered(components["label"], result)
    assert said == label or said in {result.get("label"), result.get("error", {}).get("code")}
    assert rendered(components["score"], result) == str(result.get("score", ""))
    assert rendered(components["alarm"], result) == alarm
    details = components["label"].model_copy(
        update={"value_template": components["label"].json_attributes_template}
    )
    assert json.loads(rendered(details, result))["id"] == result["id"]
    assert "text" not in json.loads(rendered(details, result))
    long = {**result, "label": "x" * 1000}
    assert len(rendered(components["label"], long)) == MAX_STATE_CHARS
    summed = {k: v for k, v in result.items() if k not in {"label", "error", "score"}}
    assert rendered(components["label"], summed) == "summary"


def test_templates_read_states_and_whether_it_is_there() -> None:
    told = of({"press": "anomaly"})
    state = json.loads((EXAMPLES / "state.json").read_text())
    device = read(told[DEVICE])
    assert rendered(device.components["memory"], state) == str(state["rss_mb"])
    assert rendered(device.components["outbox"], state) == str(state["outbox"])
    clock = rendered(device.components["clock"], {**state, "clock": "untrusted"})
    assert clock == "untrusted"
    found = read(told["homeassistant/device/edgeslm_dev1/press/config"]).components["state"]
    state["models"] = [{**state["models"][0], "name": "press", "state": "serving"}]
    assert rendered(found, state) == "serving"
    assert rendered(found, {**state, "models": []}) == "absent"
    assert device.availability is not None
    for status, there in (("online", "online"), ("lost", "offline")):
        payload = json.loads((EXAMPLES / f"status.{status}.json").read_text())
        assert rendered(device.availability[0], payload) == there


def test_what_goes_is_taken_back_until_the_broker_has_heard_it(tmp_path: Path) -> None:
    """Across connections and lives of the agent; what is not known yet stays as it is."""
    path = tmp_path / "held.json"
    discovery = Discovery(path)
    assert [p.topic for p in discovery.tell({"a": b"1", "b": b"1"}, now=0)] == ["a", "b"]
    assert discovery.tell({"a": b"1", "b": None}, now=0) == []
    (lost,) = discovery.tell({"a": b"1"}, now=0)
    assert (lost.topic, lost.payload, lost.retain) == ("b", b"", True)
    discovery = Discovery(path)  # killed before the broker had it
    again = discovery.tell({"a": b"1"}, now=0)
    assert [(p.topic, p.payload) for p in again] == [("b", b""), ("a", b"1")]
    discovery.confirmed([lost])  # of a connection that is gone
    assert json.loads(path.read_bytes()) == ["a", "b"]
    discovery.confirmed(again)
    assert json.loads(path.read_bytes()) == ["a"]
    discovery.up()
    assert [p.topic for p in discovery.tell({"a": b"1"}, now=0)] == ["a"]


def test_what_comes_again_is_not_forgotten(tmp_path: Path) -> None:
    discovery = Discovery(tmp_path / "held.json")
    discovery.tell({"a": b"1"}, now=0)
    gone = discovery.tell({}, now=0)
    assert [p.payload for p in discovery.tell({"a": b"1"}, now=0)] == [b"1"]
    discovery.confirmed(gone)
    assert [p.payload for p in discovery.tell({}, now=0)] == [b""]


@pytest.mark.parametrize("kept", [b"{", b"3", b"\xff"])
def test_a_file_that_is_damaged_is_begun_anew(kept: bytes, tmp_path: Path) -> None:
    (tmp_path / "held.json").write_bytes(kept)
    assert [p.payload for p in Discovery(tmp_path / "held.json").tell({"a": b"1"}, now=0)] == [b"1"]


class House:
    """Hears what Home Assistant hears, and keeps what is retained."""

    def __init__(self, port: int) -> None:
        self.retained: dict[str, bytes] = {}
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._hear
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        client.subscribe([("homeassistant/+/+/config", 1), ("homeassistant/+/+/+/config", 1)])

    def _hear(self, _c: object, _u: object, message: paho.MQTTMessage) -> None:
        self.retained[message.topic] = bytes(message.payload)

    def holds(self) -> set[str]:
        return {topic for topic, payload in list(self.retained.items()) if payload}

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def house(mosquitto: Mosquitto) -> Iterator[House]:
    made = House(mosquitto.port)
    yield made
    made.close()


def test_entities_come_and_go_with_models_and_setting(
    agent: AgentProcess,
    plant: Plant,
    house: House,
    mosquitto: Mosquitto,
    brittle: Path,
) -> None:
    two = {"m": {"bundle": brittle}, "n": {"bundle": brittle}}
    agent.configure(homeassistant={}, models=two)
    agent.start()
    other = MODEL.replace("/m/", "/n/")
    poll(lambda: house.holds() == {DEVICE, MODEL, other}, "entities of two models")
    result = plant.ask("in/a", "hello")
    label = read(house.retained[MODEL]).components["label"]
    assert label.state_topic == "edgeslm/v1/dev1/results/m"
    assert rendered(label, result) == result["label"]
    agent.configure(models={"m": two["m"]})
    agent.hup()
    poll(lambda: house.holds() == {DEVICE, MODEL}, "a model's entities go with it")
    mosquitto.stop()
    mosquitto.start()
    late = House(mosquitto.port)
    poll(lambda: late.holds() == {DEVICE, MODEL}, "they are retained")
    agent.stop()
    del agent.settings["homeassistant"]
    agent.start()
    # The other one may not be back yet, and nobody is told later of what is retained no more.
    poll(lambda: late.holds() == set(), "all go with the setting, changed while it was stopped")
    late.close()


def test_a_setting_that_goes_by_a_reload(agent: AgentProcess, house: House) -> None:
    agent.configure(homeassistant={"discovery_prefix": "homeassistant"})
    agent.start()
    poll(lambda: house.holds() == {DEVICE, MODEL}, "entities")
    del agent.settings["homeassistant"]
    agent.configure()
    agent.hup()
    poll(lambda: house.holds() == set(), "none")


def test_a_route_that_would_read_it_is_refused() -> None:
    with pytest.raises(ValueError, match="Home Assistant"):
        AgentSettings(
            device_id="d",
            models={"m": {"bundle": Path("/b")}},
            routes={"r": {"topic": "homeassistant/#", "models": ("m",)}},
            homeassistant=HomeAssistantSettings(),
        )
