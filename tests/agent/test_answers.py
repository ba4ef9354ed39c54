"""Text in, result out: every input gets an answer, and never a wrong, lost or silent one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeslm.agent.agent import CHANGES
from edgeslm.agent.reading import read
from edgeslm.agent.responder import EXPLAINED
from edgeslm.contract.routes import Route
from edgeslm.contract.settings import load_settings
from edgeslm.contract.vocabulary import INPUT_ERRORS
from edgeslm.errors import ConfigError
from edgeslm.ports import Received, Request
from edgeslm.runtime.model import load_model
from edgeslm.runtime.profiles import detect_profile
from tests.agent.kit import AgentProcess, Plant, poll

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]


def by_score(results: list[dict[str, Any]]) -> list[float]:
    return [r["score"] for r in results]


def test_two_real_models_answer_as_their_bundles_do(
    make_agent: MakeAgent, plant: Plant, anomaly_bundle: Path, intent_bundle: Path
) -> None:
    """What `infer` says of a text, MQTT says too."""
    agent = make_agent(
        models={"alarms": {"bundle": anomaly_bundle}, "orders": {"bundle": intent_bundle}},
        routes={
            "lines": {"topic": "line/+", "models": ["alarms", "orders"]},
            "shared": {"topic": "open/+", "models": ["alarms"], "share": "text"},
        },
    )
    agent.start()
    texts = ["filler 3 temp=71.9 C ok", "stop line 4 now", "zzz unseen §§ 99999"]
    for text in texts:
        plant.publish("line/4", text)
    plant.publish("open/4", texts[2])
    results = plant.wait_for(7)
    for name, bundle in (("plant", anomaly_bundle), ("orders", intent_bundle)):
        model = load_model(bundle, golden=False)
        mine = [r for r in results if r["model"]["name"] == name and r["topic"] == "line/4"]
        for text, result in zip(texts, mine, strict=True):
            answer = model.answer(Request(text, "line/4"))
            assert result["label"] == answer.label
            assert result["score"] == answer.score
            assert result["confidence"] == answer.confidence
            assert result["source"] == "line/4"
            assert "text" not in result
    found = agent.wait_for("alarm_explained")
    assert found["model"] == "plant"
    assert found["causes"][0]["channel"] == "text"
    assert texts[2] not in json.dumps(found, ensure_ascii=False), "a word of it, not all"
    (shared,) = [r for r in results if r["topic"] == "open/4"]
    assert shared["text"] == texts[2]
    assert agent.stop() < 5


def test_of_a_flood_of_alarms_the_log_has_the_first_of_each_template(
    make_agent: MakeAgent, plant: Plant, anomaly_bundle: Path
) -> None:
    agent = make_agent(
        models={"alarms": {"bundle": anomaly_bundle, "workers": 1}},
        routes={"lines": {"topic": "line/+", "models": ["alarms"]}},
    )
    agent.start()
    flood = ["zzz unseen §§"] * (1 + EXPLAINED + 9)
    for text in (*flood, "yyy unseen §§", "xxx unseen §§"):
        plant.publish("line/4", text)
    assert {r["label"] for r in plant.wait_for(len(flood) + 2)} == {"anomaly"}
    agent.stop()
    said = [e["unexplained"] for e in agent.events() if e["event"] == "alarm_explained"]
    assert said == [0] * (1 + EXPLAINED) + [9, 0]


def test_a_line_is_answered_in_order_whatever_the_workers_do(
    agent: AgentProcess, plant: Plant
) -> None:
    agent.start()
    for i in range(60):
        plant.publish("in/a", "sleep 0.05" if i % 10 == 0 else "x" * (i + 20))
    results = plant.wait_for(60)
    assert by_score(results) == [10.0 if i % 10 == 0 else i + 20.0 for i in range(60)]
    numbers = [int(r["id"].rsplit(":", 1)[1]) for r in results]
    assert numbers == sorted(numbers)


PAYLOADS: list[tuple[str, bytes, str | None]] = [
    ("plain", b"ok", None),
    ("emoji", "🔥 hot 🔥".encode(), None),
    ("nul", b"a\0b", None),
    ("hostile dots", b"1.1.1." * 10_000, None),
    ("hostile slashes", b"/" * 60_000, None),
    ("hostile hex", b"0x" + b"f" * 60_000, None),
    ("not utf-8", b"\xff\xfe\xfd", "input.encoding"),
    ("binary", bytes(range(256)), "input.encoding"),
    ("empty", b"", "input.empty"),
    ("white space", b" \t\r\n", "input.empty"),
    ("a megabyte", b"x" * 1_000_000, "input.too_long"),
    ("one byte too long", b"x" * 65_537, "input.too_long"),
    ("as long as it may be", b"x" * 65_536, None),
    ("raising", b"raise x", "internal"),
]


def test_every_payload_is_answered(agent: AgentProcess, plant: Plant) -> None:
    agent.start()
    for _, payload, _ in PAYLOADS:
        plant.publish("in/a", payload)
    results = plant.wait_for(len(PAYLOADS))
    for (name, _, code), result in zip(PAYLOADS, results, strict=True):
        assert result.get("error", {}).get("code") == code, name
        assert ("label" in result) == (code is None), name
        assert "ffff" not in json.dumps(result.get("error", {})), name
    plant.publish("in/a", "still here")
    assert plant.wait_for(len(PAYLOADS) + 1)[-1]["score"] == 10
    poll(lambda: plant.last["state"]["models"][0]["queue"] == 0, "all acknowledged")
    assert agent.stop() < 5


def test_hostile_lines_do_not_hold_up_a_real_model(
    make_agent: MakeAgent, plant: Plant, anomaly_bundle: Path
) -> None:
    agent = make_agent(
        models={"m": {"bundle": anomaly_bundle}},
        routes={"all": {"topic": "in/#", "models": ["m"], "max_bytes": 200_000}},
    )
    agent.start()
    hostile = [payload for _, payload, code in PAYLOADS if code is None]
    hostile += ["1.1.1." * 17_000, "NaN 1e308 -0 1,234.5 12:30:01", '{"a": "\\ud800"}']  # type: ignore[list-item]
    for payload in hostile:
        plant.publish("in/a", payload)
    results = plant.wait_for(len(hostile))
    assert all("label" in r for r in results)


JSON_ROUTE = {
    "topic": "in/#",
    "models": ["m"],
    "text": "/d/0/text",
    "source": "/machine",
    "time": "/at",
    "key": "/order",
    "last": "/done",
    "id": "/id",
    "id_property": "msg-id",
}


def line(**fields: Any) -> str:
    return json.dumps({"d": [{"text": "hello"}], **fields})


def test_fields_are_read_by_pointers(make_agent: MakeAgent, plant: Plant, brittle: Path) -> None:
    agent = make_agent(models={"m": {"bundle": brittle}}, routes={"json": JSON_ROUTE})
    agent.start()
    plant.publish("in/a", line(machine="press 3", at=12.5, order="A7", id="mine"))
    plant.publish("in/a", line(machine=3, at=12, order=7, id=9))
    plant.publish("in/a", line())
    plant.publish("in/a", line(id="x"), properties={"UserProperty": [("a", "b"), ("msg-id", "u1")]})
    plant.publish("in/a", '{"d": [{"text": "a \\ud800 b"}]}')
    first, second, bare, user, lone = plant.wait_for(5)
    assert (first["id"], first["source"], first["time"], first["key"]) == (
        "mine",
        "press 3",
        12.5,
        "A7",
    )
    assert (second["id"], second["source"], second["time"], second["key"]) == ("9", "3", 12, "7")
    assert bare["source"] == "in/a"
    assert bare["id"].startswith("dev1:in/a:")
    assert "time" not in bare
    assert user["id"] == "u1"
    assert lone["score"] == 5


def test_the_last_line_of_a_key_is_what_says_true() -> None:
    route = Route.model_validate(JSON_ROUTE)

    def last(payload: str) -> bool:
        message = Received("in/a", payload.encode(), 1, 1, False, False, 1, 0.0)  # noqa: FBT003
        request = read(message, route).request
        assert request is not None
        return request.last

    said = [line(), line(done=None), line(done=False), line(done=True)]
    assert list(map(last, said)) == [False, False, False, True]


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ("not json", "input.not_json"),
        ("[" * 50_000, "input.not_json"),
        ('{"d": ' + "9" * 5000 + "}", "input.not_json"),
        ("{}", "input.field_missing"),
        ('{"d": {}}', "input.field_missing"),
        ('{"d": []}', "input.field_missing"),
        ('{"d": [{"text": 5}]}', "input.field_type"),
        ('{"d": [{"text": null}]}', "input.field_type"),
        ('{"d": [{"text": " "}]}', "input.empty"),
        (line(at="noon"), "input.field_type"),
        (line(at=True), "input.field_type"),
        ('{"d": [{"text": "x"}], "at": 1e999}', "input.field_type"),
        (line(done=1), "input.field_type"),
        (line(done="true"), "input.field_type"),
    ],
    ids=range(14),
)
def test_what_cannot_be_read_says_why(payload: str, code: str) -> None:
    route = Route.model_validate(JSON_ROUTE)
    reading = read(Received("in/a", payload.encode(), 1, 1, False, False, 1, 0.0), route)  # noqa: FBT003
    assert reading.request is None
    assert reading.code == code
    assert code in INPUT_ERRORS


def test_correlation_data_comes_back(agent: AgentProcess, plant: Plant) -> None:
    agent.start()
    plant.publish("in/a", "ask", properties={"CorrelationData": b"\0c1", "ResponseTopic": "r"})
    plant.publish("in/a", "tell")
    plant.wait_for(2)
    assert plant.properties[0].CorrelationData == b"\0c1"
    assert not hasattr(plant.properties[1], "CorrelationData")


def test_an_expired_message_is_counted_and_not_answered(
    make_agent: MakeAgent, plant: Plant, brittle: Path
) -> None:
    agent = make_agent(
        models={"m": {"bundle": brittle, "workers": 1}},
        routes={"all": {"topic": "in/#", "models": ["m"]}},
        state_interval_s=1,
    )
    agent.start()
    plant.publish("in/a", "sleep 2.5")
    plant.publish("in/a", "too late", properties={"MessageExpiryInterval": 1})
    plant.publish("in/a", "in time", properties={"MessageExpiryInterval": 100})
    results = plant.wait_for(2)
    assert by_score(results) == [9, 7]
    poll(lambda: plant.last["state"]["models"][0]["expired"] == 1, "counted")
    assert plant.last["state"]["models"][0]["queue"] == 0


def test_a_state_says_who_it_is_of_and_how_its_models_fare(
    make_agent: MakeAgent, plant: Plant, anomaly_bundle: Path, brittle: Path
) -> None:
    tags = {"hall": "3", "line": "bottles \u20ac"}
    agent = make_agent(
        models={"alarms": {"bundle": anomaly_bundle}, "calm": {"bundle": brittle}},
        routes={"all": {"topic": "line/#", "models": ["alarms", "calm"]}},
        profile=detect_profile().name,
        tags=tags,
        state_interval_s=1,
    )
    agent.start()
    before = plant.last.get("state") or {}
    assert "p50_ms" not in before.get("models", [{}])[0]
    for _ in range(5):
        plant.publish("line/4", "zzz unseen \u00a7\u00a7 99999")
    results = plant.wait_for(10)
    assert [r["label"] for r in results].count("anomaly") == 5
    poll(lambda: [m["answered"] for m in plant.last["state"]["models"]] == [5, 5], "counted")
    state = plant.last["state"]
    model, calm = state["models"]
    assert (state["profile"], state["tags"]) == (detect_profile().name, tags)
    assert (model["alarms"], calm["alarms"]) == (5, 0)
    assert 0 < model["p50_ms"] <= model["p99_ms"]


def test_states_of_changes_are_told_at_once_and_not_without_end(
    make_agent: MakeAgent, plant: Plant, brittle: Path
) -> None:
    agent = make_agent(
        models={"m": {"bundle": brittle}},
        routes={"all": {"topic": "in/#", "models": ["m"]}},
    )
    agent.start()
    poll(lambda: plant.last["state"]["models"][0]["state"] == "serving", "told at once", 15.0)
    seen: set[float] = set()
    for number in range(40):
        agent.configure(routes={"all": {"topic": f"in{number}/#", "models": ["m"]}})
        agent.hup()
        agent.wait_for("reloaded")
        agent.mark()
        seen.add(plant.last["state"]["time"])
    assert len(seen) > 1
    assert len(seen) <= CHANGES + 1


def test_a_retained_input_is_answered_once_and_marked(agent: AgentProcess, plant: Plant) -> None:
    plant.publish("in/kept", "kept", retain=True)
    plant.flush()
    agent.start()
    (first,) = plant.wait_for(1)
    assert first["retained"]
    agent.configure(routes={"all": {"topic": "in/+", "models": ["m"]}})
    agent.hup()  # a new subscription: the broker sends it once more
    agent.wait_for("reloaded")
    plant.publish("in/live", "live!")
    results = plant.wait_for(2)  # while filters change hands, a broker may deliver it twice
    assert set(by_score(results)) == {4, 5}
    assert [r["score"] for r in results].count(4) == 1
    assert not any(r.get("retained") for r in results[1:])


def test_qos_0_is_answered_as_well(agent: AgentProcess, plant: Plant) -> None:
    agent.start()
    for i in range(50):
        plant.publish("in/a", "x" * (i + 1), qos=0)
    assert by_score(plant.wait_for(50)) == [i + 1.0 for i in range(50)]


def test_mqtt_3_1_1_gives_the_same(make_agent: MakeAgent, plant: Plant, brittle: Path) -> None:
    agent = make_agent(
        models={"m": {"bundle": brittle}},
        routes={"all": {"topic": "in/#", "models": ["m"]}},
    )
    agent.settings["uplink"]["protocol"] = "3.1.1"
    agent.start()
    for i in range(600):
        plant.publish("in/a", "x" * (i + 1))
    assert by_score(plant.wait_for(600)) == [i + 1.0 for i in range(600)]
    assert agent.stop() < 5
    plant.publish("in/a", "while away")
    agent.start()
    assert plant.wait_for(601)[-1]["score"] == 10


def test_status_says_running_stopped_and_lost(agent: AgentProcess, plant: Plant) -> None:
    agent.start()
    poll(lambda: plant.last.get("status", {}).get("reason") == "running", "online")
    began = time.time()
    assert agent.stop() < 5
    poll(lambda: plant.last["status"]["reason"] == "stopped", "offline")
    assert abs(plant.last["status"]["time"] - began) < 5
    agent.start()
    poll(lambda: plant.last["status"]["reason"] == "running", "online again")
    agent.kill()
    poll(lambda: plant.last["status"]["reason"] == "lost", "the last will")
    assert not plant.last["status"]["online"]


def test_state_counts_what_happened(make_agent: MakeAgent, plant: Plant, brittle: Path) -> None:
    agent = make_agent(
        models={"m": {"bundle": brittle}},
        routes={"all": {"topic": "in/#", "models": ["m"]}},
        state_interval_s=1,
    )
    agent.start()
    for text in ("a", "b", "", "raise x"):
        plant.publish("in/a", text)
    plant.wait_for(4)
    poll(lambda: plant.last["state"]["models"][0]["errors"] == 2, "errors counted")
    state = plant.last["state"]
    (model,) = state["models"]
    assert model["answered"] == 2
    assert model["state"] == "serving"
    assert model["provider"] == "cpu"
    assert model["node_share"] == 1
    assert state["outbox"] == state["withheld"] == 0
    assert state["rss_mb"] > 10
    assert state["uptime_s"] > 0


def test_a_route_over_our_own_topics_is_refused(make_agent: MakeAgent, brittle: Path) -> None:
    agent = make_agent(
        models={"m": {"bundle": brittle}},
        routes={"all": {"topic": "edgeslm/#", "models": ["m"]}},
    )
    agent.configure()
    with pytest.raises(ConfigError, match="our own"):
        load_settings(agent.config)
