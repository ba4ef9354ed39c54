"""A configuration of the fleet over the settings: tried, committed, taken back, or refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.contract.control import Commit, Configure, Revert, Try
from edgeslm.contract.fleet import DeviceConfig
from edgeslm.contract.slots import ModelSlots, SlotTable
from tests.agent.kit import AgentProcess, Plant, brittle_bundle, poll
from tests.agent.updates import Orders, Slots
from tests.mosquitto import free_port

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "updater")


@pytest.fixture
def configured(make_agent: MakeAgent, slots: Slots, brittle: Path) -> AgentProcess:
    """An agent with an updater, whose settings name bundle and route; not started."""
    return make_agent(
        models={"m": {"bundle": brittle, "workers": 2}},
        routes={"all": {"topic": "in/#", "models": ["m"]}},
        update={"dir": slots.folder},
    )


@pytest.fixture
def talk(configured: AgentProcess) -> Iterator[Orders]:
    """A connection to the agent, which is started for it."""
    configured.start()
    orders = Orders(configured.folder / "run")
    assert (orders.begin().config_seq, orders.report().config_trial) == (0, False)
    yield orders
    orders.close()


def config(**fields: Any) -> DeviceConfig:
    return DeviceConfig.model_validate_json(DeviceConfig(**fields).model_dump_json())


def routed(topic: str, *models: str) -> dict[str, Any]:
    return {"r": {"topic": topic, "models": models or ("m",)}}


def hears(plant: Plant, topic: str) -> bool:
    """Whether a text on `topic` is answered, before one on `in/known` or `known/in` is."""
    until = time.monotonic() + 1.5
    while time.monotonic() < until:  # again: a subscription may be under way
        plant.publish(topic, f"text {until}")
        time.sleep(0.2)
        if any(r["topic"] == topic for r in list(plant.results)):
            time.sleep(0.1)  # for those that are on their way
            plant.results.clear()
            return True
    return False


def test_a_configuration_is_tried_committed_and_taken_back(
    talk: Orders, configured: AgentProcess, plant: Plant
) -> None:
    assert hears(plant, "in/a")
    new = config(
        routes=routed("new/#"),
        models={"m": {"workers": 1, "cache_entries": 0}},
        state_interval_s=1.0,
    )
    talk.do(Configure(seq=3, config=new))
    assert (talk.report().config_seq, talk.report().config_trial) == (3, True)
    assert hears(plant, "new/a")
    assert not hears(plant, "in/a")
    told = plant.last["state"]["time"]
    poll(lambda: plant.last["state"]["time"] > told, "its interval is a second now", 5)

    talk.do(Revert(model=None))
    assert (talk.report().config_seq, talk.report().config_trial) == (0, False)
    assert hears(plant, "in/a")
    assert not hears(plant, "new/a")
    assert talk.fails(Commit(model=None)) == "trial.none"

    talk.do(Configure(seq=4, config=new))
    talk.do(Commit(model=None))
    talk.do(Commit(model=None))
    assert (talk.report().config_seq, talk.report().config_trial) == (4, False)
    talk.do(Configure(seq=5, config=None))
    assert hears(plant, "in/a")
    talk.do(Revert(model=None))
    assert hears(plant, "new/a")
    events = [e for e in configured.events() if e["event"].startswith("trial_")]
    assert [(e["event"], e.get("seq")) for e in events] == [
        ("trial_begun", 3),
        ("trial_reverted", None),
        ("trial_begun", 4),
        ("trial_committed", None),
        ("trial_begun", 5),
        ("trial_reverted", None),
    ]
    assert not [e for e in configured.events() if e["event"] == "model_loaded"][1:], "none anew"
    assert configured.stop() < 5


def test_a_configuration_that_does_not_fit_is_refused_and_nothing_changes(
    talk: Orders, configured: AgentProcess, plant: Plant
) -> None:
    unfit = [
        config(routes=routed("new/#", "nobody")),
        config(routes=routed("edgeslm/v1/dev1/results/m")),
        config(routes={**routed("a/+"), "s": {"topic": "+/b", "models": ("m",)}}),
    ]
    for each in unfit:
        assert talk.fails(Configure(seq=7, config=each)) == "config.unfit"
        assert (talk.report().config_seq, talk.report().config_trial) == (0, False)
    assert hears(plant, "in/a")
    raw = b'{"do":"configure","seq":1,"config":{"device_id":"thief"}}\n'
    talk.send(raw)
    failed = talk.next()
    assert failed is not None
    assert failed.say == "failed"
    assert failed.error["code"] == "control.undecodable"
    assert hears(plant, "in/a")
    assert configured.stop() < 5


def test_a_committed_configuration_outlives_the_agent_and_one_on_trial_does_not(
    configured: AgentProcess, slots: Slots, plant: Plant
) -> None:
    slots.write(SlotTable(config=config(routes=routed("new/#")), config_seq=9))
    configured.start()
    orders = Orders(configured.folder / "run")
    assert orders.begin().config_seq == 9
    orders.do(Configure(seq=10, config=config(routes=routed("newer/#"))))
    assert hears(plant, "newer/a")
    configured.kill()
    orders.close()
    configured.start()
    assert hears(plant, "new/a")
    assert configured.stop() < 5


def test_settings_that_a_configuration_does_not_fit_any_more_serve_alone(
    configured: AgentProcess, slots: Slots, plant: Plant, brittle: Path
) -> None:
    """The file is edited by hand: a model that the fleet's routes name is gone."""
    both = {"m": {"bundle": brittle}, "n": {"bundle": brittle}}
    slots.write(SlotTable(config=config(routes=routed("new/#", "m", "n")), config_seq=9))
    configured.configure(models=both)
    configured.start()
    assert hears(plant, "new/a")
    configured.configure(models={"m": both["m"]})
    for _ in range(2):
        configured.mark()
        configured.hup()
        configured.wait_for("reloaded")
    assert hears(plant, "in/a")
    refused = [e for e in configured.events() if e["event"] == "config_refused"]
    assert [e["code"] for e in refused] == ["config.unfit"], "told once"
    assert configured.stop() < 5


def test_the_outbox_is_bounded_anew_without_a_restart(
    configured: AgentProcess, plant: Plant
) -> None:
    """No uplink takes the results, and an outbox of three does not hold them: they are alerts."""
    configured.settings["routes"]["all"]["lane"] = "alert"
    configured.settings["input"] = configured.settings["uplink"]
    configured.settings["uplink"] = {"host": "127.0.0.1", "port": free_port()}
    configured.start()
    orders = Orders(configured.folder / "run")
    orders.begin()
    orders.do(Configure(seq=1, config=config(outbox={"max_results": 3})))
    for i in range(20):
        plant.publish("in/a", f"text {i}")
    configured.wait_for("outbox_blocked", code="outbox.full")
    orders.do(Revert(model=None))
    configured.wait_for("outbox_unblocked", rows=20)
    configured.configure(outbox={"max_results": 21})
    configured.mark()
    configured.hup()
    assert configured.wait_for("reloaded")["restart_needed"] == ""
    for i in range(5):
        plant.publish("in/a", f"text {i}")
    configured.wait_for("outbox_blocked", code="outbox.full")
    orders.close()
    assert configured.stop() < 5


def test_a_model_that_a_configuration_names_first_waits_for_its_bundle(
    talk: Orders, configured: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path
) -> None:
    named = config(models={"n": {"workers": 1}}, routes=routed("n/#", "n"))
    talk.do(Configure(seq=1, config=named))
    error = talk.model("n").error
    assert error is not None
    assert error["code"] == "model.no_bundle"
    configured.wait_for("input_connected", model="n")
    plant.publish("n/a", "early")
    first = slots.put("n", "a", brittle_bundle(tmp_path / "n", name="n"))
    talk.do(Try(model="n", slot="a", bundle=first))
    assert plant.wait_for(1)[0]["model"]["name"] == "n"
    talk.do(Revert(model=None))
    assert talk.model("n").trial, "it stays, for its own trial"
    talk.do(Revert(model="n"))
    configured.wait_for("model_removed", model="n")
    assert configured.stop() < 5


def test_what_nobody_looks_after_is_taken_back(
    configured: AgentProcess, slots: Slots, plant: Plant, tmp_path: Path
) -> None:
    two = slots.put("m", "b", brittle_bundle(tmp_path / "two", version=2))
    slots.write(SlotTable(models={"m": ModelSlots()}))
    configured.script = configured.script.with_name("with_short_silence.py")
    configured.start()
    orders = Orders(configured.folder / "run")
    orders.begin()
    orders.do(Try(model="m", slot="b", bundle=two))
    orders.do(Configure(seq=1, config=config(routes=routed("new/#"))))
    for _ in range(6):  # a word now and then is enough
        time.sleep(0.5)
        assert orders.model().trial
    orders.close()
    configured.wait_for("trial_reverted", model="m", code="trial.abandoned")
    poll(
        lambda: len([e for e in configured.events() if e["event"] == "trial_reverted"]) == 2, "both"
    )
    assert hears(plant, "in/a")
    again = Orders(configured.folder / "run")
    (model,) = again.begin().models
    assert (model.version, model.trial) == (1, False)
    assert again.fails(Commit(model="m")) == "trial.none"
    again.close()
    assert configured.stop() < 5
