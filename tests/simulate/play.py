"""Runs a simulation beside a test."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, Final

from edgeslm.contract.brokers import Broker
from edgeslm.contract.topics import DEFAULT_ROOT
from edgeslm.fleet.repository import Repository
from edgeslm.simulate.scenario import Scenario, read_scenario
from edgeslm.simulate.simulation import Simulation

SCENARIOS: Final = Path(__file__).parents[2] / "benchmarks" / "scenarios"
QUICK: Final = {"download_s": 0.3, "trial_s": 0.5}


class Played:
    """A simulation on a thread of a test's."""

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        repository: Repository,
        port: int,
        scenario: Scenario,
        devices: int,
        folder: Path,
        *,
        broker: Broker | None = None,
    ) -> None:
        self.simulation = Simulation(
            scenario,
            devices,
            root=repository.store.read("1.root.json"),
            broker=broker or Broker(host="127.0.0.1", port=port),
            topic_root=DEFAULT_ROOT,
            folder=folder,
        )
        self.failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="simulation")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.simulation.run()
        except BaseException as err:  # noqa: BLE001 -- for the test's thread
            self.failed.append(err)

    def stop(self) -> None:
        self.simulation.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()
        assert not self.failed, self.failed


def scenario(**more: Any) -> Scenario:
    """Return a scenario whose devices are quick."""
    groups = [{**QUICK, **group} for group in more.pop("group", [{"name": "all"}])]
    said = {"model": "press", "state_interval_s": 0.5, "start_s": 0, "group": groups, **more}
    return Scenario.model_validate_json(json.dumps(said))


def ready_made(name: str, devices: int, **more: Any) -> Scenario:
    """Return one of the scenarios that ship, made quick."""
    found = read_scenario(SCENARIOS / f"{name}.toml", devices)
    groups = tuple(group.model_copy(update=QUICK) for group in found.group)
    quick = {"state_interval_s": 0.5, "start_s": 0.0, "group": groups, **more}
    return found.model_copy(update=quick)
