"""Inputs that a worker takes together are answered as if each had come alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.kit import AgentProcess, Plant, brittle_bundle
from tests.runtime.test_batches import masked_graph

pytestmark = pytest.mark.broker


@pytest.fixture
def agent(make_agent: Callable[..., AgentProcess], tmp_path: Path) -> AgentProcess:
    """One worker, so that all that comes while it is busy waits; not started."""
    bundle = brittle_bundle(
        tmp_path / "marked", model=masked_graph(), artifact={"batch_invariant": True}
    )
    return make_agent(
        models={"m": {"bundle": bundle, "workers": 1}},
        routes={"all": {"topic": "in/#", "models": ["m"]}},
    )


def test_each_gets_its_own_answer_in_order_whatever_the_others_do(
    agent: AgentProcess, plant: Plant
) -> None:
    agent.start()
    plant.publish("in/a", "sleep 0.5")
    for i in range(40):
        texts: dict[int, bytes | str] = {3: "raise x", 5: "", 7: b"\xff"}
        plant.publish("in/a", texts.get(i, "x" * (i + 20)))
    plant.publish("in/a", "late", properties={"MessageExpiryInterval": 1})
    results = plant.wait_for(42)
    codes = [r["error"]["code"] if "error" in r else r["score"] for r in results]
    wrong = {3: "internal", 5: "input.empty", 7: "input.encoding"}
    assert codes == [9.0, *(wrong.get(i, i + 20.0) for i in range(40)), 4.0]
    numbers = [int(r["id"].rsplit(":", 1)[1]) for r in results]
    assert numbers == list(range(numbers[0], numbers[0] + 42))


def test_what_waited_too_long_is_dropped_and_the_rest_of_its_batch_answered(
    agent: AgentProcess, plant: Plant
) -> None:
    agent.start()
    plant.publish("in/a", "sleep 2.5")
    plant.flush()
    time.sleep(0.5)  # it is being answered: the rest is taken when it is done
    for i in range(10):
        expiry = {"MessageExpiryInterval": 1} if i % 2 else {}
        plant.publish("in/a", f"text {i}", properties=expiry)
    plant.publish("in/a", "the last one")
    results = plant.wait_for(7)
    assert [r["score"] for r in results] == [9.0, *[6.0] * 5, 12.0]
    assert agent.stop() < 5


def test_one_that_ends_the_process_is_found_among_those_taken_with_it(
    agent: AgentProcess, plant: Plant
) -> None:
    agent.start()
    plant.publish("in/a", "sleep 0.5")
    for i in range(12):
        plant.publish("in/a", "kill 1" if i == 6 else f"text {i}")
    agent.wait_killed()
    for _ in range(2):
        agent.start(until="uplink_connected")
        agent.wait_killed()
    agent.start()
    answered = {r["id"]: r for r in plant.wait_for(13)}
    assert len(answered) == 13
    (poison,) = [r for r in answered.values() if "error" in r]
    assert poison["error"]["code"] == "input.poison"
    assert agent.stop() < 5
