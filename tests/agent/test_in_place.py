"""Devices that cannot hold two models: one is let go before another takes its place."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.adapters.process import pss_mb
from edgeslm.contract.control import Commit, Done, Failed, Recheck, Revert, Try
from edgeslm.contract.slots import ModelSlots, SlotTable
from tests.agent.kit import AgentProcess, Plant, brittle_bundle, poll
from tests.agent.test_updates import MADE_UNFIT, UNFIT, answer, spoilt, told, versions
from tests.agent.updates import Orders, Slots
from tests.chaos.flow import ROUTE, Flow
from tests.chaos.test_swap import heavy
from tests.runtime import tiny

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]
ROUTES = {"all": {"topic": "in/#", "models": ["m"]}}
PROFILE = """
name = "narrow"
description = "A device that holds one model."
providers = ["cpu"]
[requires]
[cpu.int8]
reduce_range = true
[trial]
side_by_side = {side_by_side}
"""
# Found out before the old one is let go; the others need the graph.
SEEN = sorted({*UNFIT} - {"golden", "coverage", "provider"})


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "updater")


@pytest.fixture
def narrow(make_agent: MakeAgent, slots: Slots, tmp_path: Path) -> AgentProcess:
    """An agent on such a device, which counts the models it holds; not started."""
    profile = tmp_path / "narrow.toml"
    profile.write_text(PROFILE.format(side_by_side="false"))
    made = make_agent(
        models={"m": {"workers": 2}},
        routes=ROUTES,
        update={"dir": slots.folder},
        profile=str(profile),
        state_interval_s=1,
    )
    made.script = Path(__file__).with_name("with_count.py")
    return made


@pytest.fixture
def orders() -> Iterator[Callable[[AgentProcess], Orders]]:
    made: list[Orders] = []

    def connect(agent: AgentProcess) -> Orders:
        made.append(Orders(agent.folder / "run"))
        made[-1].begin()
        return made[-1]

    yield connect
    for each in made:
        each.close()


Connect = Callable[[AgentProcess], Orders]


def committed(slots: Slots) -> str:
    """Put version 1 into slot a, committed; return its hash."""
    one = slots.put("m", "a", brittle_bundle(slots.folder.parent / "one"))
    slots.commit("m", "a")
    return one


def slow(slots: Slots, text: str = "sleep 1.0", **expect: Any) -> str:
    """Put version 2 into slot b, whose golden file takes its time; return its hash."""
    wanted = {"label": "read", "score": len(text), "confidence": 1, **expect}
    golden = json.dumps({"request": {"text": text}, "expect": wanted}).encode() + b"\n"
    files = {"golden.jsonl": golden}
    fields: dict[str, Any] = {"task": "brittle", "name": "brittle", "version": 2}
    folder = slots.folder.parent / "slow"
    return slots.put("m", "b", tiny.write_bundle(folder, files=files, **fields))


def begin(talk: Orders, order: Try) -> None:
    talk.send(order.model_dump_json().encode() + b"\n")


def beside(agent: AgentProcess) -> list[int]:
    """How many models were held each time that a graph was opened."""
    return [event["beside"] for event in told(agent, "graph_opened")]


def test_two_models_are_never_held_and_no_input_is_lost_or_refused(
    narrow: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    for slot, label, version in (("a", "one", 1), ("b", "two", 2)):
        made = brittle_bundle(tmp_path / label, label=label, version=version)
        slots.put("m", slot, made)  # type: ignore[arg-type] # a literal by way of a loop
    slots.commit("m", "a", other=True)
    one, two = slots.held("m", "a").bundle, slots.held("m", "b").bundle
    narrow.configure(routes={"r": ROUTE})
    narrow.start()
    talk = orders(narrow)
    flow = Flow(plant)
    with flow.running(per_s=200):
        flow.advance(50)
        talk.do(Try(model="m", slot="b", bundle=two))
        assert (talk.model().bundle, talk.model().trial) == (two, True)
        flow.advance(50)
        talk.do(Recheck(model="m"))
        talk.do(Revert(model="m"))
        assert (talk.model().bundle, talk.model().trial) == (one, False)
        flow.advance(50)
        for _ in range(2):  # what is ordered may be ordered twice
            talk.do(Try(model="m", slot="b", bundle=two))
        for _ in range(2):
            talk.do(Commit(model="m"))
        flow.advance(50)
        errors = talk.model().errors
    assert errors == 0
    assert flow.close(narrow) == []
    labels = {one: "one", two: "two"}
    results = flow.results("brittle")
    assert {r["model"]["hash"] for r in results} == set(labels)
    assert all(labels[r["model"]["hash"]] == r["label"] for r in results)
    assert beside(narrow) == [0, 0, 0, 0]


def test_by_default_the_new_one_is_loaded_beside_the_old_one(
    narrow: AgentProcess, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    _, two = versions(slots, tmp_path)
    (tmp_path / "narrow.toml").write_text(PROFILE.format(side_by_side="true"))
    narrow.start()
    orders(narrow).do(Try(model="m", slot="b", bundle=two))
    assert beside(narrow) == [0, 1]
    assert told(narrow, "model_let_go") == []
    assert narrow.stop() < 5


def test_inputs_wait_while_no_model_is_loaded_and_the_old_one_finishes_what_it_has_begun(
    narrow: AgentProcess, plant: Plant, slots: Slots, orders: Connect
) -> None:
    one = committed(slots)
    two = slow(slots)
    narrow.start()
    talk = orders(narrow)
    for _ in range(2):  # both workers are at one
        plant.publish("in/a", "sleep 1.5")
    plant.flush()
    time.sleep(0.3)
    plant.publish("in/a", "put and not begun")
    plant.flush()
    begin(talk, Try(model="m", slot="b", bundle=two))
    narrow.wait_for("model_let_go", model="m")
    plant.publish("in/a", "meanwhile")
    poll(lambda: plant.last["state"]["models"][0]["state"] == "loading", "told in the state")
    assert "hash" not in plant.last["state"]["models"][0]
    assert isinstance(talk.next(), Done)
    results = plant.wait_for(4)
    assert [r["model"]["hash"] for r in results] == [one, one, two, two]
    assert beside(narrow) == [0, 0]
    # What waited says nothing about the new one.
    assert (talk.model().answered, talk.model().p99_ms) == (4, None)
    for _ in range(3):
        answer(plant, "hello")
    p99_ms = talk.model().p99_ms
    assert p99_ms is not None
    assert p99_ms < 500
    assert narrow.stop() < 5


@pytest.mark.parametrize("text", ["sleep 1.0", "raise it"])
def test_a_golden_file_that_fails_brings_the_old_one_back(
    narrow: AgentProcess, plant: Plant, slots: Slots, orders: Connect, text: str
) -> None:
    one = committed(slots)
    bad = slow(slots, text, score=1)
    narrow.start()
    talk = orders(narrow)
    for turn in range(1, 3):
        begin(talk, Try(model="m", slot="b", bundle=bad))
        poll(lambda turn=turn: len(told(narrow, "model_let_go")) == turn, "it is let go")  # type: ignore[misc] # of this turn
        plant.publish("in/a", "meanwhile")
        failed = talk.next()
        assert isinstance(failed, Failed)
        assert failed.error["code"] == "golden.failed"
        model = talk.model()
        assert (model.state, model.bundle, model.trial, model.error) == (
            "serving",
            one,
            False,
            None,
        )
        assert plant.wait_for(turn)[-1]["model"]["hash"] == one
        talk.do(Revert(model="m"))  # as the updater does
        assert talk.fails(Commit(model="m")) == "trial.none"
    assert beside(narrow) == [0] * 5
    assert narrow.stop() < 5


def test_what_can_be_found_wrong_without_loading_stops_nobody(
    narrow: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    one = committed(slots)
    narrow.start()
    talk = orders(narrow)
    assert set(MADE_UNFIT) & set(SEEN)
    for how in SEEN:
        bad = spoilt(slots, tmp_path, how)
        assert talk.fails(Try(model="m", slot="b", bundle=bad)) == UNFIT[how], how
        assert answer(plant, "hello")["model"]["hash"] == one
    assert told(narrow, "model_let_go") == []
    assert narrow.stop() < 5


def test_a_revert_while_it_is_loaded_brings_the_old_one_back_and_another_may_be_tried(
    narrow: AgentProcess, plant: Plant, slots: Slots, orders: Connect
) -> None:
    one = committed(slots)
    two = slow(slots)
    narrow.start()
    talk = orders(narrow)
    begin(talk, Try(model="m", slot="b", bundle=two))
    narrow.wait_for("model_let_go", model="m")
    plant.publish("in/a", "meanwhile")
    narrow.hup()  # settings are read again in between: that loads nothing twice
    narrow.wait_for("reloaded")
    talk.do(Revert(model="m"))
    assert (talk.model().bundle, talk.model().trial) == (one, False)
    assert plant.wait_for(1)[0]["model"]["hash"] == one
    narrow.mark()
    begin(talk, Try(model="m", slot="b", bundle=two))
    narrow.wait_for("model_let_go", model="m")
    narrow.hup()  # what it looks for waits behind the trial, which it must not end
    narrow.wait_for("reloaded")
    assert isinstance(talk.next(), Done)
    assert (talk.model().bundle, talk.model().trial) == (two, True)
    talk.do(Recheck(model="m"))  # behind whatever would be loaded
    assert answer(plant, "hello")["model"]["hash"] == two
    talk.do(Commit(model="m"))
    assert beside(narrow) == [0] * 4
    assert narrow.stop() < 5


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_an_agent_that_ends_in_between_comes_up_with_what_was_committed(
    narrow: AgentProcess, plant: Plant, slots: Slots, orders: Connect, how: str
) -> None:
    one = committed(slots)
    two = slow(slots, "sleep 3.0")
    narrow.start()
    talk = orders(narrow)
    begin(talk, Try(model="m", slot="b", bundle=two))
    narrow.wait_for("graph_opened", beside=0)
    poll(lambda: len(beside(narrow)) == 2, "the new one is opened")
    for i in range(20):
        plant.publish("in/a", f"meanwhile {i}")
    plant.flush()
    time.sleep(0.3)
    if how == "stop":
        assert narrow.stop() < 5
    else:
        narrow.kill()
    assert plant.results == []
    narrow.start()
    results = plant.wait_for(20)
    assert {r["model"]["hash"] for r in results} == {one}
    assert not [r for r in results if "error" in r]
    assert len(results) == 20
    assert narrow.stop() < 5


def test_an_agent_that_stops_while_room_is_made_loads_nothing_any_more(
    narrow: AgentProcess, plant: Plant, slots: Slots, orders: Connect
) -> None:
    """The old one is still at an input, and answers that."""
    one = committed(slots)
    two = slow(slots)
    narrow.start()
    talk = orders(narrow)
    plant.publish("in/a", "sleep 1.5")
    plant.flush()
    time.sleep(0.3)
    begin(talk, Try(model="m", slot="b", bundle=two))
    narrow.wait_for("model_let_go", model="m")
    assert narrow.stop() < 5
    assert [r["model"]["hash"] for r in plant.wait_for(1)] == [one]
    assert beside(narrow) == [0]


def test_a_reload_of_another_bundle_takes_the_place_of_the_old_one_or_brings_it_back(
    narrow: AgentProcess, plant: Plant, brittle: Path, tmp_path: Path
) -> None:
    newer = brittle_bundle(tmp_path / "newer", version=2)
    bad = brittle_bundle(tmp_path / "bad", version=3)
    wrong = {"request": {"text": "ok"}, "expect": {"label": "read", "score": 9, "confidence": 1}}
    (bad / "golden.jsonl").write_text(json.dumps(wrong) + "\n")
    tiny.seal(bad, name="brittle", task="brittle", version=3)
    narrow.configure(models={"m": {"bundle": brittle}})
    narrow.start()
    for path, version, let_go in ((brittle, 1, 0), (newer, 2, 1), (bad, 2, 2), (newer, 2, 2)):
        narrow.mark()
        narrow.configure(models={"m": {"bundle": path}})
        narrow.hup()
        narrow.wait_for("reloaded")
        if path == bad:
            assert narrow.wait_for("model_fell_back")["code"] == "golden.failed"
        elif let_go == 1:
            narrow.wait_for("model_loaded")
        assert answer(plant, "hello")["model"]["version"] == version
        poll(lambda n=let_go: len(told(narrow, "model_let_go")) == n, f"{let_go} let go")  # type: ignore[misc] # of this turn
    assert set(beside(narrow)) == {0}
    assert narrow.stop() < 5


def test_only_the_model_that_is_tried_stops(
    narrow: AgentProcess, plant: Plant, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    slots.put("m", "a", brittle_bundle(tmp_path / "one"))
    slots.put("n", "a", brittle_bundle(tmp_path / "other", name="other"))
    held = {name: ModelSlots(active="a", a=slots.held(name, "a")) for name in ("m", "n")}
    slots.write(SlotTable(models=held))
    two = slow(slots)
    narrow.configure(
        models={"m": {}, "n": {}}, routes={**ROUTES, "n": {"topic": "n", "models": ["n"]}}
    )
    narrow.start()
    talk = orders(narrow)
    begin(talk, Try(model="m", slot="b", bundle=two))
    narrow.wait_for("model_let_go", model="m")
    plant.publish("in/a", "meanwhile")
    plant.publish("n", "meanwhile")
    assert isinstance(talk.next(), Done)
    names = [r["model"]["name"] for r in plant.wait_for(2)]
    assert names == ["other", "brittle"]
    assert beside(narrow) == [0, 1, 1]
    assert narrow.stop() < 5


def test_verdicts_that_were_not_written_to_their_end_are_removed(
    narrow: AgentProcess, brittle: Path
) -> None:
    narrow.configure(models={"m": {"bundle": brittle}})
    verdicts = narrow.folder / "state" / "verdicts"
    verdicts.mkdir(parents=True)
    (verdicts / f".{'0' * 64}.json.ab12_xyz").write_bytes(b"{")
    narrow.start()
    (kept,) = verdicts.iterdir()
    assert kept.suffix == ".json"
    assert narrow.stop() < 5


@pytest.mark.slow
def test_memory_needs_no_room_for_a_second_model(
    narrow: AgentProcess, slots: Slots, tmp_path: Path, orders: Connect
) -> None:
    """Of a graph whose weights would show, on such a device and on one that holds two."""
    for slot, version in (("a", 1), ("b", 2)):
        made = tiny.write_bundle(tmp_path / slot, version=version, model=heavy())
        slots.put("m", slot, made)  # type: ignore[arg-type] # a literal by way of a loop
    slots.commit("m", "a", other=True)
    order = Try(model="m", slot="b", bundle=slots.held("m", "b").bundle)
    grown: dict[str, float] = {}
    for side_by_side in ("true", "false"):
        (tmp_path / "narrow.toml").write_text(PROFILE.format(side_by_side=side_by_side))
        narrow.start()
        talk = orders(narrow)
        assert narrow.process is not None
        pid, tried = narrow.process.pid, len(told(narrow, "trial_begun"))
        before = most = pss_mb(pid) or 0.0
        begin(talk, order)
        while len(told(narrow, "trial_begun")) == tried:
            most = max(most, pss_mb(pid) or 0.0)
        assert isinstance(talk.next(), Done)
        grown[side_by_side] = most - before
        assert narrow.stop() < 5
    assert grown["true"] > 40, "it would show"
    assert grown["false"] < 0.5 * grown["true"], grown


def test_a_model_removed_while_it_stands_still_answers_what_waits_for_it(
    narrow: AgentProcess, plant: Plant, brittle: Path, slots: Slots, orders: Connect
) -> None:
    tried = slow(slots)
    slots.put("other", "a", brittle)
    slots.commit("other", "a")
    narrow.configure(models={"m": {"bundle": brittle}, "other": {}})
    narrow.start()
    talk = orders(narrow)
    begin(talk, Try(model="m", slot="b", bundle=tried))
    narrow.wait_for("model_let_go", model="m")
    for text in ("sleep 2.0", "sleep 2.0", "put and not begun"):
        plant.publish("in/a", text)
    plant.flush()
    time.sleep(0.2)
    narrow.configure(models={"other": {}}, routes={"o": {"topic": "o", "models": ["other"]}})
    narrow.hup()
    narrow.wait_for("reloaded")
    assert isinstance(talk.next(), Done)
    time.sleep(0.3)  # both workers are at one
    talk.do(Revert(model="m"))
    assert [r["model"].get("version") for r in plant.wait_for(3)] == [2, 2, 1]
    narrow.wait_for("model_removed", model="m")
    assert narrow.stop() < 5
