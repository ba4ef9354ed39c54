"""Settings that change in full flow, and models that cannot be loaded: nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.agent.kit import AgentProcess, Plant, brittle_bundle, poll
from tests.chaos.flow import OWN_IDS, ROUTE, Flow

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]


def reload(agent: AgentProcess, **settings: Any) -> None:
    agent.mark()
    agent.configure(**settings)
    agent.hup()


def state_of(plant: Plant, model: str) -> dict[str, Any]:
    """What the last `state` says of it; nothing where it does not name it."""
    models = plant.last.get("state", {"models": []})["models"]
    return next((m for m in models if m["name"] == model), {})


def test_changed_routes_and_models_in_full_flow_lose_nothing(
    make_agent: MakeAgent, brittle: Path, plant: Plant, tmp_path: Path
) -> None:
    other = brittle_bundle(tmp_path / "other", name="other")
    m, n = {"bundle": brittle}, {"bundle": other}
    one_by_one = {x: {**OWN_IDS, "topic": f"in/{x}"} for x in "abc"}
    agent = make_agent(models={"m": m}, routes={"r": OWN_IDS}, state_interval_s=1)
    agent.start()
    flow = Flow(plant)
    with flow.running(per_s=500):
        flow.advance(100)
        for _ in range(2):
            reload(agent, routes=one_by_one)
            flow.advance(100)
            both = {**OWN_IDS, "models": ["m", "n"]}
            reload(agent, routes={"r": both}, models={"m": {**m, "workers": 1}, "n": n})
            poll(lambda: state_of(plant, "n").get("state") == "serving", "n serves")
            flow.advance(100)
            reload(agent, routes={"r": OWN_IDS}, models={"m": m})
            agent.wait_for("model_removed", model="n")
            poll(lambda: not state_of(plant, "n"), "n is gone")
    # While an old and a new filter overlap, the broker sends what both match by each of them.
    flow.close(agent)


@pytest.mark.parametrize("again", [False, True], ids=["removed", "removed and added again"])
def test_a_model_that_is_removed_answers_all_that_was_sent_to_it(
    make_agent: MakeAgent, brittle: Path, plant: Plant, tmp_path: Path, *, again: bool
) -> None:
    other = brittle_bundle(tmp_path / "other", name="other")
    m, n = {"bundle": brittle}, {"bundle": other, "workers": 1, "receive_maximum": 1}
    both = {"r": ROUTE, "s": {**ROUTE, "topic": "slow/+", "models": ["n"]}}
    agent = make_agent(models={"m": m, "n": n}, routes=both)
    agent.start()
    for i in range(500):
        plant.publish("slow/a", json.dumps({"text": "sleep 0.001", "n": str(i)}))
    plant.flush()
    reload(agent, routes={"r": ROUTE}, models={"m": m})
    if again:
        agent.wait_for("model_removed", model="n")
        reload(agent, routes=both, models={"m": m, "n": n})
        agent.wait_for("input_connected", model="n")
        poll(lambda: state_of(plant, "n").get("state") == "serving", "n serves again")
        for i in range(500, 600):
            plant.publish("slow/a", json.dumps({"text": "sleep 0.001", "n": str(i)}))
    count = 600 if again else 500
    numbers: list[int] = []

    def answered() -> bool:
        numbers[:] = [int(r["key"]) for r in plant.results]
        return len(numbers) == count

    poll(answered, f"{count} answers of a model that is removed")
    assert numbers == list(range(count))
    assert agent.stop() < 5


def test_a_model_that_cannot_be_loaded_leaves_the_others_serving_and_loses_nothing(
    make_agent: MakeAgent, brittle: Path, plant: Plant, tmp_path: Path
) -> None:
    bad = brittle_bundle(tmp_path / "bad", name="bad")
    tokenizer = (bad / "tokenizer.json").read_bytes()
    (bad / "tokenizer.json").write_bytes(b"tampered")
    agent = make_agent(
        models={"m": {"bundle": brittle}, "bad": {"bundle": bad, "receive_maximum": 50}},
        routes={"r": {**ROUTE, "models": ["m", "bad"]}},
        state_interval_s=1,
    )
    agent.start()
    flow = Flow(plant)
    flow.send(1000)
    flow.settle()
    poll(lambda: state_of(plant, "bad").get("state") == "failed", "told as failed")
    assert state_of(plant, "bad")["error"]["code"].startswith("bundle.")
    assert state_of(plant, "m")["state"] == "serving"
    poll(lambda: state_of(plant, "bad")["queue"] == 50, "as many as it announced to take")
    (bad / "tokenizer.json").write_bytes(tokenizer)
    agent.hup()
    flow.settle("bad")
    poll(lambda: state_of(plant, "bad")["state"] == "serving", "told as serving")
    assert "error" not in state_of(plant, "bad")
    assert flow.close(agent) == []
    assert flow.audit("bad") == []
