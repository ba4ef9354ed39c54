"""Bundles that an updater brings: where a model is served from, and what becomes of a trial."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.contract.control import Commit, Leaving, Recheck, Revert, Try
from edgeslm.contract.slots import ModelSlots, Operation, SlotTable
from edgeslm.runtime.bundle import MANIFEST
from tests.agent.kit import AgentProcess, Plant, brittle_bundle, poll
from tests.agent.test_placement import IDLE, PROFILE
from tests.agent.updates import Orders, Slots
from tests.runtime import tiny

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]
ROUTES = {"all": {"topic": "in/#", "models": ["m"]}}
WRONG_GOLDEN = (
    b'{"request": {"text": "ok"}, "expect": {"label": "read", "score": 9, "confidence": 1}}\n'
)


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "updater")


@pytest.fixture
def updated(make_agent: MakeAgent, slots: Slots) -> AgentProcess:
    """An agent whose model comes from its slots; not started."""
    return make_agent(
        models={"m": {"workers": 2}},
        routes=ROUTES,
        update={"dir": slots.folder},
        state_interval_s=1,
    )


@pytest.fixture
def orders() -> Iterator[Callable[[AgentProcess], Orders]]:
    made: list[Orders] = []

    def connect(agent: AgentProcess) -> Orders:
        made.append(Orders(agent.folder / "run"))
        return made[-1]

    yield connect
    for each in made:
        each.close()


Connect = Callable[[AgentProcess], Orders]


def versions(slots: Slots, tmp_path: Path) -> tuple[str, str]:
    """Put version 1 into slot a, committed, and version 2 into slot b; return their hashes."""
    one = slots.put("m", "a", brittle_bundle(tmp_path / "one"))
    two = slots.put("m", "b", brittle_bundle(tmp_path / "two", version=2))
    slots.commit("m", "a", other=True)
    return one, two


def told(agent: AgentProcess, event: str) -> list[dict[str, Any]]:
    return [e for e in agent.events() if e["event"] == event]


def answer(plant: Plant, text: str) -> dict[str, Any]:
    """Publish a text and return its result."""
    return plant.ask("in/a", text)


# Where a model is served from.


def test_a_model_is_served_from_its_active_slot(
    updated: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path
) -> None:
    one, _ = versions(slots, tmp_path)
    updated.start()
    assert answer(plant, "hello")["model"]["hash"] == one
    poll(lambda: plant.last.get("state", {}).get("models", [{}])[0].get("slot") == "a", "its slot")
    assert "trial" not in plant.last["state"]["models"][0]
    assert updated.stop() < 5


@pytest.mark.parametrize("damage", ["graph", "other bundle", "gone"])
def test_a_damaged_active_slot_leaves_the_other_one(
    updated: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path, damage: str
) -> None:
    one, _ = versions(slots, tmp_path)
    slots.commit("m", "b", other=True)
    active = slots.path("m", "b")
    if damage == "graph":
        (active / "model.onnx").write_bytes((active / "model.onnx").read_bytes()[:-1] + b"\0")
    elif damage == "other bundle":
        slots.put("m", "b", brittle_bundle(tmp_path / "three", version=3))
    else:
        shutil.rmtree(active)
    updated.start()
    assert answer(plant, "hello")["model"]["hash"] == one
    (fell,) = told(updated, "model_fell_back")
    assert fell["code"].startswith("bundle.")
    assert "slot a" in fell["message"]
    poll(lambda: plant.last.get("state", {}).get("models", [{}])[0].get("slot") == "a", "its slot")
    assert plant.last["state"]["models"][0]["error"]["code"] == fell["code"]
    assert updated.stop() < 5


def test_the_bundle_of_the_settings_is_the_last_resort_but_for_what_was_being_tried(
    updated: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path
) -> None:
    _, two = versions(slots, tmp_path)
    operation = Operation(model="m", seq=1, phase="trial", slot="b", bundle=two, attempts=1)
    slots.commit("m", "a", other=True, operation=operation)
    shutil.rmtree(slots.path("m", "a"))
    own = brittle_bundle(tmp_path / "own", version=7)
    updated.configure(models={"m": {"bundle": own}})
    updated.start()
    assert answer(plant, "hello")["model"]["version"] == 7
    assert updated.stop() < 5
    shutil.rmtree(own)
    updated.start()
    assert answer(plant, "hello")["model"]["version"] == 2
    assert updated.stop() < 5


@pytest.mark.parametrize("table", [None, b"\0" * 4096])
def test_without_a_table_the_bundles_of_the_settings_are_served(
    updated: AgentProcess, plant: Plant, slots: Slots, brittle: Path, table: bytes | None
) -> None:
    if table is not None:
        slots.write(table)
    updated.configure(models={"m": {"bundle": brittle}})
    updated.start()
    assert answer(plant, "hello")["model"]["version"] == 1
    assert bool(told(updated, "slots_unreadable")) is (table is not None)
    assert updated.stop() < 5


def test_a_model_without_a_bundle_waits_for_its_first_one(
    updated: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    updated.start()
    updated.wait_for("input_connected")
    plant.publish("in/a", "early")
    failed = updated.wait_for("model_failed")
    assert failed["code"] == "model.no_bundle"
    talk = orders(updated)
    (model,) = talk.begin().models
    assert (model.state, model.bundle) == ("failed", None)
    first = slots.put("m", "a", brittle_bundle(tmp_path / "one"))
    talk.do(Try(model="m", slot="a", bundle=first))
    assert plant.wait_for(1)[0]["model"]["hash"] == first
    talk.do(Revert(model="m"))
    plant.publish("in/a", "again early")
    assert talk.model().state == "failed"
    talk.do(Try(model="m", slot="a", bundle=first))
    talk.do(Commit(model="m"))
    plant.wait_for(2)
    assert updated.stop() < 5


# Trials.


def test_a_bundle_is_tried_checked_committed_and_told_of(
    updated: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    one, two = versions(slots, tmp_path)
    updated.start()
    talk = orders(updated)
    report = talk.begin()
    assert [(m.model, m.state, m.bundle, m.trial) for m in report.models] == [
        ("m", "serving", one, False)
    ]
    answer(plant, "hello")
    assert answer(plant, "raise it")["error"]["code"] == "internal"
    before = talk.model()
    assert (before.answered, before.errors) == (1, 1)
    assert before.p50_ms is not None
    assert before.p99_ms is not None
    assert 0 < before.p50_ms <= before.p99_ms < 30_000

    done = talk.do(Try(model="m", slot="b", bundle=two))
    assert (done.model, done.took_ms > 0) == ("m", True)
    on_trial = talk.model()
    assert (on_trial.bundle, on_trial.version, on_trial.trial) == (two, 2, True)
    assert on_trial.answered == 1, "counts are of the agent's life"
    assert on_trial.p99_ms is None, "quantiles are of this bundle"
    assert answer(plant, "hello")["model"] == {"name": "brittle", "version": 2, "hash": two}
    assert talk.do(Recheck(model="m")).took_ms >= 0
    poll(lambda: plant.last["state"]["models"][0].get("trial") is True, "told in the state")
    assert plant.last["state"]["models"][0]["slot"] == "b"

    for _ in range(2):  # what is ordered may be ordered twice
        talk.do(Try(model="m", slot="b", bundle=two))
    for _ in range(2):
        talk.do(Commit(model="m"))
    assert (talk.model().bundle, talk.model().trial) == (two, False)
    updated.hup()  # whatever the table says, for a moment yet
    updated.wait_for("reloaded")
    talk.do(Recheck(model="m"))  # behind whatever would be loaded
    assert len(told(updated, "bundle_loaded")) == 2
    poll(lambda: "trial" not in plant.last["state"]["models"][0], "told in the state")
    talk.do(Revert(model="m"))  # nothing is on trial any more
    assert talk.model().bundle == two
    assert talk.fails(Commit(model="m")) == "trial.none"
    names = ["trial_begun", "trial_committed", "trial_reverted"]
    assert [e["event"] for e in updated.events() if e["event"] in names] == names[:2]
    assert updated.stop() < 5
    assert isinstance(talk.next(), Leaving)
    assert talk.next() is None
    assert not talk.path.exists()


def test_a_trial_is_taken_back_between_two_inputs(
    updated: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    one, two = versions(slots, tmp_path)
    updated.start()
    talk = orders(updated)
    instance = talk.begin().instance
    talk.do(Try(model="m", slot="b", bundle=two))
    assert answer(plant, "hello")["model"]["hash"] == two
    for _ in range(2):
        talk.do(Revert(model="m"))
    assert answer(plant, "hello")["model"]["hash"] == one
    assert len(told(updated, "bundle_loaded")) == 2, "the old one was there all the time"
    assert talk.fails(Commit(model="m")) == "trial.none"
    assert len(told(updated, "trial_reverted")) == 1
    assert talk.report().instance == instance
    assert updated.stop() < 5


def test_an_agent_killed_in_a_trial_comes_up_with_what_was_committed(
    updated: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    one, two = versions(slots, tmp_path)
    updated.start()
    talk = orders(updated)
    instance = talk.begin().instance
    talk.do(Try(model="m", slot="b", bundle=two))
    assert answer(plant, "hello")["model"]["hash"] == two
    updated.kill()
    assert talk.next() is None, "no word of leaving"
    updated.start()
    assert answer(plant, "hello")["model"]["hash"] == one
    again = orders(updated)
    assert again.begin().instance != instance
    again.do(Try(model="m", slot="b", bundle=two))
    slots.commit("m", "b", other=True)
    again.do(Commit(model="m"))
    updated.kill()
    updated.start()
    assert answer(plant, "hello")["model"]["hash"] == two
    assert updated.stop() < 5


UNFIT = {
    "golden": "golden.failed",
    "hash": "bundle.wrong",
    "arch": "bundle.no_artifact",
    "task": "task.unknown",
    "missing": "bundle.missing",
    "cut": "bundle.tampered",
    "manifest": "bundle.wrong",
    "extra": "bundle.tampered",
    "provider": "bundle.no_artifact",
    "coverage": "coverage.missed",
}


MADE_UNFIT: dict[str, dict[str, Any]] = {
    "arch": {"artifact": {"requires": {"arch": "riscv64"}}},
    "task": {"task": "unheard_of"},
    "provider": {"artifact": {"provider": "unheard_of", "verified": "none"}},
    "coverage": {"artifact": {**IDLE, "placement": {"min_coverage": 0.9}}},
}


def spoilt(slots: Slots, tmp_path: Path, how: str) -> str:
    """Put something unfit into slot b; return the hash to order it by."""
    made = brittle_bundle(tmp_path / how, version=2, **MADE_UNFIT.get(how, {}))
    if how == "golden":
        (made / "golden.jsonl").write_bytes(WRONG_GOLDEN)
        tiny.seal(made, name="brittle", task="brittle", version=2)
    found = slots.put("m", "b", made)
    into = slots.path("m", "b")
    if how == "hash":
        return "0" * 64
    if how == "missing":
        shutil.rmtree(into)
    elif how == "cut":
        (into / "model.onnx.data").write_bytes(b"")
    elif how == "manifest":
        (into / MANIFEST).write_bytes(b"not JSON")
    elif how == "extra":
        (into / "extra.bin").write_bytes(b"x")
    return found


def test_a_bundle_that_cannot_serve_leaves_the_one_that_does(
    updated: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    one = slots.put("m", "a", brittle_bundle(tmp_path / "one"))
    slots.commit("m", "a")
    (tmp_path / "idler.toml").write_text(PROFILE)
    updated.configure(profile=str(tmp_path / "idler.toml"))
    updated.start()
    talk = orders(updated)
    talk.begin()
    for how, code in UNFIT.items():
        bad = spoilt(slots, tmp_path, how)
        assert talk.fails(Try(model="m", slot="b", bundle=bad)) == code, how
        model = talk.model()
        assert (model.state, model.bundle, model.trial, model.error) == (
            "serving",
            one,
            False,
            None,
        )
        assert answer(plant, "hello")["model"]["hash"] == one
        assert talk.fails(Commit(model="m")) == "trial.none"
    assert updated.stop() < 5


def test_a_new_model_whose_first_bundle_fails_is_gone_again(
    updated: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    one, _ = versions(slots, tmp_path)
    updated.start()
    talk = orders(updated)
    talk.begin()
    assert talk.fails(Try(model="new", slot="a", bundle="0" * 64)) == "bundle.missing"
    updated.wait_for("model_removed", model="new")
    first = slots.put("new", "a", brittle_bundle(tmp_path / "new", name="new"))
    talk.do(Try(model="new", slot="a", bundle=first))
    assert talk.model("new").trial
    talk.do(Revert(model="new"))
    poll(lambda: len(talk.report().models) == 1, "it is gone")
    assert answer(plant, "hello")["model"]["hash"] == one
    talk.do(Try(model="new", slot="a", bundle=first))
    talk.do(Commit(model="new"))
    assert talk.model("new").bundle == first
    assert updated.stop() < 5


def test_a_golden_file_is_replayed_for_real_and_again_on_order(
    updated: AgentProcess, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    """The file is exchanged behind the model's back: a remembered verdict would not see it."""
    _, two = versions(slots, tmp_path)
    updated.start()
    talk = orders(updated)
    talk.begin()
    talk.do(Try(model="m", slot="b", bundle=two))
    talk.do(Recheck(model="m"))
    (slots.path("m", "b") / "golden.jsonl").write_bytes(WRONG_GOLDEN)
    assert talk.fails(Recheck(model="m")) == "bundle.tampered"
    assert talk.fails(Recheck(model="other")) == "model.unavailable"
    assert talk.model().bundle == two
    talk.do(Revert(model="m"))
    talk.do(Recheck(model="m"))
    assert updated.stop() < 5


def test_settings_read_in_a_trial_change_all_but_the_model_on_trial(
    updated: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    one, two = versions(slots, tmp_path)
    updated.start()
    talk = orders(updated)
    talk.begin()
    talk.do(Try(model="m", slot="b", bundle=two))
    updated.configure(models={"m": {"workers": 1}}, routes={"b": {"topic": "b", "models": ["m"]}})
    updated.hup()
    updated.wait_for("reloaded")
    assert plant.insist("b", "hello")["model"]["hash"] == two
    plant.flush()
    talk.do(Revert(model="m"))
    poll(lambda: plant.insist("b", "hello")["model"]["hash"] == one, "the old one answers")
    talk.do(Recheck(model="m"))
    assert len(told(updated, "bundle_loaded")) == 2
    assert updated.stop() < 5


def test_a_revert_takes_back_what_is_still_being_loaded(
    updated: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    golden = b'{"request": {"text": "sleep 1.0"}, "expect": {"label": "read", "score": 9, "confidence": 1}}\n'  # noqa: E501
    one = slots.put("m", "a", brittle_bundle(tmp_path / "one"))
    slots.commit("m", "a")
    slow = tiny.write_bundle(
        tmp_path / "slow", task="brittle", version=2, files={"golden.jsonl": golden}
    )
    two = slots.put("m", "b", slow)
    updated.start()
    talk = orders(updated)
    talk.begin()
    order = Try(model="m", slot="b", bundle=two)
    talk.send(order.model_dump_json().encode() + b"\n")
    assert talk.fails(Try(model="m", slot="a", bundle=one)) == "control.busy"
    talk.do(Revert(model="m"))
    assert talk.fails(Commit(model="m")) == "trial.none"
    talk.do(Try(model="m", slot="a", bundle=one))  # the first one's end is none of this one's
    assert (talk.model().bundle, talk.model().trial) == (one, True)
    talk.do(order)
    assert (talk.model().bundle, talk.model().trial) == (two, True)
    assert answer(plant, "hello")["model"]["hash"] == two
    assert updated.stop() < 5


def test_what_a_new_connection_asks_for_is_answered_there(
    updated: AgentProcess, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    _, two = versions(slots, tmp_path)
    updated.start()
    first = orders(updated)
    first.begin()
    order = Try(model="m", slot="b", bundle=two)
    first.send(order.model_dump_json().encode() + b"\n")
    first.close()
    second = orders(updated)
    second.begin()
    second.do(order)
    second.do(Commit(model="m"))
    assert updated.stop() < 5


def test_hostile_bytes_on_the_socket_disturb_nobody(
    updated: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    one, two = versions(slots, tmp_path)
    updated.start()
    talk = orders(updated)
    talk.begin()
    hostile = [
        b"",
        b"\0\xff" * 500,
        b'{"do":"query"',
        b'{"do":"explode"}',
        b'{"do":"try","model":"../../etc","slot":"a","bundle":"x"}',
        b'{"do":"try","model":"m","slot":"c","bundle":"' + b"0" * 64 + b'"}',
        b'{"do":"try","model":"m","slot":"a","bundle":7}',
        b'{"do":"configure","seq":1e999,"config":{}}',
        b"[" * 100_000,
        b'{"do":' * 5000,
    ]
    for raw in hostile:
        talk.send(raw + b"\n")
        failed = talk.next()
        assert failed is not None
        assert failed.say == "failed"
        assert failed.error["code"] == "control.undecodable"
    assert answer(plant, "hello")["model"]["hash"] == one
    with contextlib.suppress(OSError):
        talk.send(b"x" * 2**20)
    failed = talk.next()
    assert failed is not None
    assert failed.say == "failed"
    assert failed.error["code"] == "control.too_long"
    assert talk.next() is None
    half = orders(updated)
    half.begin()
    half.send(b'{"do":"try","model":"m",')
    half.close()
    again = orders(updated)
    again.begin()
    busy = orders(updated)
    told = busy.next()
    assert told is not None
    assert told.say == "failed"
    assert told.error["code"] == "control.busy"
    again.do(Try(model="m", slot="b", bundle=two))
    assert answer(plant, "hello")["model"]["hash"] == two
    assert updated.stop() < 5


def test_a_table_may_know_models_that_the_settings_do_not(
    updated: AgentProcess, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    versions(slots, tmp_path)
    new = slots.put("n", "a", brittle_bundle(tmp_path / "n", name="n"))
    held = ModelSlots(active="a", a=slots.held("m", "a"))
    other = ModelSlots(active="a", a=slots.held("n", "a"))
    slots.write(SlotTable(models={"m": held, "n": other, "empty": ModelSlots()}))
    updated.start()
    talk = orders(updated)
    assert {m.model for m in talk.begin().models} == {"m", "n"}
    assert talk.model("n").bundle == new
    assert updated.stop() < 5
