"""Where a model runs is told in the state; one that falls to the CPU unasked is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeslm.contract.manifest import Coverage, Fallen
from edgeslm.runtime.bundle import MANIFEST
from edgeslm.runtime.coverage import coverage_state
from tests.agent.kit import AgentProcess, Plant, brittle_bundle, poll

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]
IDLE = {"provider": "idle", "verified": "none"}  # tests/runtime/providers/idle.py
PROFILE = """
name = "idler"
description = "A device whose accelerator is there and takes nothing."
providers = ["idle", "cpu"]
[requires]
[cpu.int8]
reduce_range = true
"""


@pytest.fixture
def served(make_agent: MakeAgent, tmp_path: Path) -> Callable[[Path], AgentProcess]:
    """An agent that serves the bundle in a folder as model m; not started."""
    profile = tmp_path / "idler.toml"
    profile.write_text(PROFILE)

    def make(bundle: Path) -> AgentProcess:
        return make_agent(
            models={"m": {"bundle": bundle}},
            routes={"all": {"topic": "in/#", "models": ["m"]}},
            profile=str(profile),
            state_interval_s=1,
        )

    return make


def model_of(plant: Plant, **fields: Any) -> dict[str, Any]:
    """Wait for a state whose model has these fields, and return that."""
    found: list[dict[str, Any]] = []

    def told() -> bool:
        models = plant.last.get("state", {}).get("models", [])
        found[:] = [m for m in models if all(m.get(k) == v for k, v in fields.items())]
        return bool(found)

    poll(told, f"a state with {fields}")
    return found[0]


def test_a_reload_that_misses_its_coverage_keeps_the_model_that_serves(
    served: Callable[[Path], AgentProcess], plant: Plant, tmp_path: Path
) -> None:
    bundle = brittle_bundle(tmp_path / "bundle")
    agent = served(bundle)
    agent.start()
    agent.wait_for("model_loaded")
    old = model_of(plant, state="serving")
    asked = {**IDLE, "placement": {"min_coverage": 0.9}}
    shutil.rmtree(bundle)
    brittle_bundle(bundle, version=2, artifact=asked)
    agent.hup()
    failed = agent.wait_for("model_failed")
    assert failed["code"] == "coverage.missed"
    assert "0 of 2 nodes (0.0%), and 90.0% are asked for" in failed["message"]
    assert "1 Gather, 1 ReduceMean" in failed["message"]
    kept = model_of(plant, state="serving", error=model_error(failed))
    assert (kept["version"], kept["hash"], kept["provider"]) == (1, old["hash"], "cpu")
    plant.publish("in/a", "hello")
    assert plant.wait_for(1)[0]["model"]["version"] == 1
    assert agent.stop() < 5


def model_error(event: dict[str, Any]) -> dict[str, str]:
    return {"code": event["code"], "message": event["message"]}


def test_a_model_that_never_had_its_coverage_serves_nothing(
    served: Callable[[Path], AgentProcess], plant: Plant, tmp_path: Path
) -> None:
    asked = {**IDLE, "placement": {"cpu_fallback": False}}
    agent = served(brittle_bundle(tmp_path / "bundle", artifact=asked))
    agent.start()
    agent.wait_for("model_failed")
    model = model_of(plant, state="failed")
    assert "coverage" not in model
    agent.kill()


def test_the_state_tells_what_fell_to_the_cpu_and_which_forms_cannot_run(
    served: Callable[[Path], AgentProcess], plant: Plant, tmp_path: Path
) -> None:
    bundle = brittle_bundle(tmp_path / "bundle", artifact=IDLE)
    shutil.copy(bundle / "model.onnx", bundle / "other.onnx")
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    graph = manifest["artifacts"][0]
    other = {**graph, "path": "other.onnx", "variant": "foreign", "requires": {"arch": "riscv64"}}
    graph["variant"] = "local"
    manifest["artifacts"].insert(0, other)
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    agent = served(bundle)
    agent.start()
    model = model_of(plant, state="serving")
    assert (model["variant"], model["verified"], model["node_share"]) == ("local", "none", 0)
    assert model["coverage"]["nodes"] == {"idle": 0, "cpu": 2}
    assert model["coverage"]["partitions"] == 0
    why = "not taken by AzureExecutionProvider"
    assert model["coverage"]["fallen"] == [
        {"operator": operator, "count": 1, "why": why} for operator in ("Gather", "ReduceMean")
    ]
    [passed] = model["passed_over"]
    assert passed.startswith("foreign: needs riscv64")
    assert agent.stop() < 5


def test_the_state_warns_of_a_model_that_nobody_answers_for_any_more(
    served: Callable[[Path], AgentProcess], plant: Plant, tmp_path: Path
) -> None:
    agent = served(brittle_bundle(tmp_path / "bundle", artifact=IDLE, supported_until="2020-12-31"))
    agent.start()
    model = model_of(plant, state="serving")
    assert (model["supported_until"], model["unsupported"]) == ("2020-12-31", True)
    assert agent.stop() < 5


def test_what_a_provider_took_and_what_fell_are_told_apart() -> None:
    found = Coverage(
        nodes=10,
        nodes_taken=7,
        operations=100,
        operations_taken=90,
        partitions=2,
        fallen=(Fallen(operator="Erf", count=3, why="unknown to it"),),
    )
    assert coverage_state("qnn", found) == {
        "nodes": {"qnn": 7, "cpu": 3},
        "operations": {"qnn": 90, "cpu": 10},
        "partitions": 2,
        "fallen": [{"operator": "Erf", "count": 3, "why": "unknown to it"}],
    }
    whole = found.model_copy(update={"nodes_taken": 10, "operations_taken": 100, "fallen": ()})
    assert coverage_state("cpu", whole)["nodes"] == {"cpu": 10}
