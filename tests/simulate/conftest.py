"""A fleet's service, a broker, and simulated devices on a thread of the test's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.fleet.repository import Repository
from edgeslm.simulate.scenario import Scenario
from tests.fleet.service import kit
from tests.mosquitto import Mosquitto
from tests.simulate.play import Played

Play = Callable[..., Played]


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Three versions of a model."""
    return kit.repository_of(tmp_path_factory.mktemp("simulated-fleet"))


@pytest.fixture
def service(repository: Repository, tmp_path: Path, mosquitto: Mosquitto) -> Iterator[kit.Running]:
    """The fleet's service."""
    running = kit.Running(repository, f"sqlite:///{tmp_path / 'fleet.db'}", mosquitto.port)
    yield running
    running.stop()


@pytest.fixture
def play(repository: Repository, tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Play]:
    """Plays a scenario with so many devices."""
    playing: list[Played] = []

    def begin(scenario: Scenario, devices: int, **more: Any) -> Played:
        folder = tmp_path / f"played-{len(playing)}"
        playing.append(Played(repository, mosquitto.port, scenario, devices, folder, **more))
        return playing[-1]

    yield begin
    for each in playing:
        each.stop()
