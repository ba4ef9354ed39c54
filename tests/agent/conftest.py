"""Agents and plants that are ended whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.kit import AgentProcess, Plant, brittle_bundle
from tests.mosquitto import Mosquitto


@pytest.fixture
def brittle(tmp_path: Path) -> Path:
    return brittle_bundle(tmp_path / "brittle")


@pytest.fixture
def make_agent(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Callable[..., AgentProcess]]:
    """Make agents on the test's broker; settings as keywords."""
    made: list[AgentProcess] = []

    def make(**settings: Any) -> AgentProcess:
        port = settings.pop("broker_port", mosquitto.port)
        agent = AgentProcess(tmp_path / f"agent{len(made)}", port, **settings)
        made.append(agent)
        return agent

    yield make
    for agent in made:
        agent.kill()


@pytest.fixture
def plant(mosquitto: Mosquitto) -> Iterator[Plant]:
    made = Plant(mosquitto.port)
    yield made
    made.close()


MakeAgent = Callable[..., AgentProcess]


@pytest.fixture
def agent(make_agent: MakeAgent, brittle: Path) -> AgentProcess:
    """An agent with one brittle model that reads everything under `in/`; not started."""
    return make_agent(
        models={"m": {"bundle": brittle, "workers": 2}},
        routes={"all": {"topic": "in/#", "models": ["m"]}},
    )
