"""A message that ends the process is found, answered with an error, and forgotten."""

from __future__ import annotations

import pytest

from tests.agent.kit import AgentProcess, Plant, poll

pytestmark = pytest.mark.broker


def test_a_message_that_kills_three_times_is_answered_with_an_error(
    agent: AgentProcess, plant: Plant
) -> None:
    """As under systemd: restarted each time. What merely ran beside it is answered."""
    agent.start()
    plant.publish("in/a", "before")
    plant.wait_for(1)
    for text in ("sleep 0.3", "kill 1", "sleep 0.3 ", "after"):
        plant.publish("in/a", text)
    agent.wait_killed()
    for _ in range(2):
        agent.start(until="uplink_connected")
        agent.wait_killed()
    agent.start()
    results = plant.wait_for(5)
    answered = {r["id"]: r for r in results}
    assert len(answered) == 5
    (poison,) = [r for r in answered.values() if "error" in r]
    assert poison["error"]["code"] == "input.poison"
    assert poison["redelivered"]
    plant.publish("in/a", "life goes on")
    plant.wait_for(6)
    poll(lambda: "state" in plant.last, "state")
    assert agent.stop() < 5
    agent.start()  # it was acknowledged: it does not come again
    known = {r["id"] for r in plant.results}
    before = len(plant.results)
    plant.publish("in/a", "and on")
    plant.wait_for(7)
    assert [r["id"] for r in plant.results[before:] if r["id"] in known] == []


def test_a_message_that_raises_is_answered_and_logged_once_in_a_while(
    agent: AgentProcess, plant: Plant
) -> None:
    agent.start()
    for _ in range(20):
        plant.publish("in/a", "raise secret-word")
    results = plant.wait_for(20)
    assert {r["error"]["code"] for r in results} == {"internal"}
    assert "secret-word" not in str(results)
    assert len([e for e in agent.events() if e["event"] == "answer_failed"]) == 1
