"""Models exchanged in full flow: nothing lost, nothing doubled, each answer by the one it names."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgeslm.contract.control import Commit, Recheck, Revert, Try
from edgeslm.contract.slots import SlotName
from tests.agent.kit import AgentProcess, Plant, brittle_bundle
from tests.agent.updates import Orders, Slots
from tests.chaos.flow import ROUTE, SOURCES, Flow
from tests.runtime import tiny

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    """Version 1 in slot a, committed, and version 2 in slot b; each answers by its own label."""
    made = Slots(tmp_path / "updater")
    made.put("m", "a", brittle_bundle(tmp_path / "one", label="one"))
    made.put("m", "b", brittle_bundle(tmp_path / "two", label="two", version=2))
    made.commit("m", "a", other=True)
    return made


@pytest.fixture
def agent(make_agent: MakeAgent, slots: Slots) -> AgentProcess:
    return make_agent(
        models={"m": {"workers": 2}}, routes={"r": ROUTE}, update={"dir": slots.folder}
    )


@pytest.fixture
def connect(agent: AgentProcess) -> Iterator[Callable[[], Orders]]:
    made: list[Orders] = []

    def new() -> Orders:
        made.append(Orders(agent.folder / "run"))
        made[-1].begin()
        return made[-1]

    yield new
    for each in made:
        each.close()


def check(results: list[dict[str, Any]], slots: Slots) -> None:
    """Each result names the bundle whose label it bears."""
    labels = {slots.held("m", "a").bundle: "one", slots.held("m", "b").bundle: "two"}
    assert {r["model"]["hash"] for r in results} == set(labels)
    assert all(labels[r["model"]["hash"]] == r["label"] for r in results)


def test_swaps_in_full_flow_lose_nothing_and_each_answer_names_its_bundle(
    agent: AgentProcess, plant: Plant, slots: Slots, connect: Callable[[], Orders]
) -> None:
    agent.start()
    orders = connect()
    flow = Flow(plant)
    turns: list[tuple[SlotName, bool]] = [("b", False), ("b", True), ("a", False), ("a", True)] * 2
    with flow.running(per_s=500):
        flow.advance(100)
        for slot, stays in turns:
            orders.do(Try(model="m", slot=slot, bundle=slots.held("m", slot).bundle))
            orders.do(Recheck(model="m"))
            flow.advance(50)
            orders.do(Commit(model="m") if stays else Revert(model="m"))
            flow.advance(50)
        errors = orders.model().errors
    assert errors == 0
    assert flow.close(agent) == []
    results = flow.results("brittle")
    check(results, slots)
    # Between two inputs: of one source, the answers of one bundle are together.
    for source in SOURCES:
        mine = [r["label"] for r in results if r["topic"] == f"in/{source}"]
        changes = [label for label, _ in groupby(mine)]
        assert len(changes) <= len(turns) * 2 + 4, changes


def test_an_agent_killed_at_any_time_of_a_trial_comes_up_with_what_was_committed(
    agent: AgentProcess, plant: Plant, slots: Slots, connect: Callable[[], Orders]
) -> None:
    rng = random.Random(4)  # noqa: S311 -- when to kill
    agent.start()
    flow = Flow(plant)
    order = Try(model="m", slot="b", bundle=slots.held("m", "b").bundle)
    with flow.running(per_s=500):
        for _ in range(3):
            orders = connect()
            assert orders.model().version == 1
            orders.send(order.model_dump_json().encode() + b"\n")
            flow.advance(rng.randint(1, 200))
            agent.kill()
            agent.start()
            flow.advance(20)
        orders = connect()
        orders.do(order)
        flow.advance(20)
    flow.close(agent)
    check(flow.results("brittle"), slots)


@pytest.mark.slow
def test_twenty_swaps_leave_no_memory_behind(
    make_agent: MakeAgent, plant: Plant, tmp_path: Path
) -> None:
    """Of a graph whose weights would show: ten megabytes each."""
    slots = Slots(tmp_path / "updater")
    for slot, version in (("a", 1), ("b", 2)):
        made = tiny.write_bundle(tmp_path / slot, version=version, model=heavy())
        slots.put("m", slot, made)  # type: ignore[arg-type] # a literal by way of a loop
    slots.commit("m", "a", other=True)
    agent = make_agent(models={"m": {}}, routes={"r": ROUTE}, update={"dir": slots.folder})
    agent.start()
    orders = Orders(agent.folder / "run")
    orders.begin()
    assert agent.process is not None
    process = psutil.Process(agent.process.pid)
    flow = Flow(plant, text="red {}")

    def settled() -> float:
        """PSS after the same work, MB."""
        flow.send(200)
        flow.settle("tiny")
        return float(process.memory_full_info().pss) / 2**20

    def swap(slot: SlotName) -> None:
        orders.do(Try(model="m", slot=slot, bundle=slots.held("m", slot).bundle))
        flow.send(50)
        flow.settle("tiny")
        orders.do(Commit(model="m"))

    both: tuple[SlotName, SlotName] = ("b", "a")
    for slot in both:  # what the first swap of a process brings along is no leak
        swap(slot)
    before = settled()
    for i in range(20):
        swap(both[i % 2])
    after = settled()
    orders.close()
    assert agent.stop() < 5
    assert after <= 1.05 * before, f"{before:.1f} MB before, {after:.1f} MB after"


def heavy() -> Any:
    """The tiny graph with a table of 10 MB behind it."""
    import numpy as np  # noqa: PLC0415 -- one slow test needs them
    from onnx import helper, numpy_helper  # noqa: PLC0415

    model = tiny.graph()
    weights = np.random.default_rng(1).normal(size=(3, 900_000)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "heavy"))
    model.graph.node[-1].output[0] = "mean"
    model.graph.node.append(helper.make_node("MatMul", ["mean", "heavy"], ["wide"], name="wide"))
    back = np.zeros((900_000, 3), np.float32)
    back[:3] = np.eye(3, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(back, "back"))
    model.graph.node.append(helper.make_node("MatMul", ["wide", "back"], ["logits"], name="back"))
    return model
