"""Results, states and events of an agent whose clock is wrong, is set, and is believed then."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from edgeslm.adapters.clock import boot_id
from tests.agent.kit import AgentProcess, Plant, poll

YEARS_S = 55 * 365.25 * 86_400  # that a clock without a battery lags


class PlayedClock:
    """The clock of the agent's device."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "timesync").mkdir(parents=True)
        self.set(0.0)

    def set(self, by_s: float) -> None:
        """Let it be off by so much."""
        new = self._folder / "new"
        new.write_text(str(by_s))
        new.replace(self._folder / "by_s")

    def synchronise(self) -> None:
        """Let systemd-timesyncd say that it has set it."""
        (self._folder / "timesync" / "synchronized").touch()


@pytest.fixture
def played(tmp_path: Path, agent: AgentProcess) -> PlayedClock:
    agent.script = Path(__file__).with_name("with_played_clock.py")
    agent.env["PLAYED_CLOCK"] = str(tmp_path / "clock")
    return PlayedClock(tmp_path / "clock")


def events(plant: Plant, name: str) -> list[dict[str, Any]]:
    return [said for kind, said in list(plant.other.queue) if said.get("event") == name]


def test_a_clock_at_1970_is_marked_until_it_is_set(
    agent: AgentProcess, plant: Plant, played: PlayedClock
) -> None:
    """The time that is never set tells how long lies between two results all the same."""
    played.set(-YEARS_S)
    agent.start()
    before = time.monotonic()
    wrong = plant.ask("in/a", "hello")
    assert wrong["clock"] == "untrusted"
    assert wrong["time_out"] < 1e9
    assert plant.last["state"]["clock"] == plant.last["status"]["clock"] == "untrusted"
    played.set(0.0)
    played.synchronise()
    poll(lambda: plant.last["state"].get("clock") == "synchronised", "a state that believes it")
    right = plant.ask("in/a", "hello again")
    after = time.monotonic()
    assert right["clock"] == "synchronised"
    assert abs(right["time_out"] - time.time()) < 60
    assert before <= wrong["time_mono"] < right["time_mono"] <= after
    assert {wrong["boot"], right["boot"]} == {boot_id()}
    assert all(0 <= r["latency_ms"] < 10_000 for r in (wrong, right))
    poll(lambda: bool(events(plant, "clock_jumped")), "the jump is told")
    (told,) = events(plant, "clock_jumped")
    assert told["detail"]["by_s"] == pytest.approx(YEARS_S, abs=60)
    assert {"time_mono", "boot", "clock"} <= told.keys()


def test_where_nobody_says_nothing_is_said(
    agent: AgentProcess, plant: Plant, tmp_path: Path, played: PlayedClock
) -> None:
    """Another service than systemd's keeps the clock, and the kernel may not be asked."""
    (tmp_path / "clock" / "timesync").rmdir()
    agent.start()
    result = plant.ask("in/a", "hello")
    assert "clock" not in result
    assert result["time_mono"] > 0
    played.set(7200.0)
    poll(lambda: bool(events(plant, "clock_jumped")), "the jump is told")
