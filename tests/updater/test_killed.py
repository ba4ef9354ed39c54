"""The whole updater, killed or refused at every call by which it changes the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm import tasks
from tests import kills
from tests.updater.scripted import ScriptedAgent
from tests.updater.whole import MODEL, Fleet, comes_up, command

TASKS = Path(__file__).parents[1] / "agent" / "tasks"
QUICK = 2
ENV = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(autouse=True, scope="module")
def _brittle() -> Iterator[None]:
    tasks.__path__.append(str(TASKS))
    yield
    tasks.__path__.remove(str(TASKS))


class Bench:
    """A device that runs version 1 and is offered version 2, made anew for each run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = Fleet(folder / "fleet")
        for version in (1, 2):
            self.fleet.offer(version)
        self.fleet.assign(1)
        one = self.fleet.stick("one")
        self.fleet.assign(2)
        self.two = self.fleet.stick("two")
        self.device = folder / "device"
        self.config = self.fleet.configure(self.device)
        self.update(one)
        assert comes_up(self.config) == 1
        (self.device / "run" / "control.sock").unlink()
        shutil.copytree(self.device, folder / "before")

    def reset(self) -> None:
        shutil.rmtree(self.device)
        shutil.copytree(self.folder / "before", self.device)

    def update(self, stick: Path) -> None:
        with self.agent():
            done = subprocess.run(
                command(self.config, stick), env=ENV, capture_output=True, text=True, check=False
            )
        assert done.returncode == 0, done.stderr[-2000:]

    def agent(self) -> ScriptedAgent:
        """An agent that serves version 1."""
        made = ScriptedAgent(self.device / "run" / "control.sock")
        made.serving[MODEL] = ("0" * 64, False)
        return made

    @property
    def argv(self) -> list[str]:
        return command(self.config, self.two)

    def points(self) -> list[kills.Point]:
        with self.agent():
            found = kills.points(self.argv, self.device / "updater", env=ENV)
        self.reset()
        return found

    def hold(self) -> None:
        """Whatever happened: old or new comes up, and the next update succeeds."""
        assert comes_up(self.config) in {1, 2}
        self.update(self.two)
        assert comes_up(self.config) == 2
        left = sorted(path.name for path in (self.device / "updater").iterdir())
        assert left == ["bundles", "lock", "slots.json", "trust"], left
        self.reset()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    kills.need_strace()
    return Bench(tmp_path_factory.mktemp("killed"))


def killed(bench: Bench, points: list[kills.Point]) -> None:
    for point in points:
        with bench.agent():
            assert kills.kill(bench.argv, point, env=ENV) == -9, point
        bench.hold()


def refused(bench: Bench, points: list[kills.Point]) -> None:
    for point in points:
        with bench.agent():
            status = kills.refuse(bench.argv, point, env=ENV)
        assert status in {0, 65, 75}, (point, status)
        bench.hold()


def test_a_kill_at_any_point_leaves_old_or_new_some(bench: Bench) -> None:
    killed(bench, kills.some(bench.points(), QUICK))


def test_a_full_disk_at_any_point_leaves_old_or_new_some(bench: Bench) -> None:
    refused(bench, kills.some(bench.points(), QUICK))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_kill_at_any_point_leaves_old_or_new(bench: Bench) -> None:
    points = bench.points()
    assert len(points) > 50
    killed(bench, points)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_full_disk_at_any_point_leaves_old_or_new(bench: Bench) -> None:
    refused(bench, bench.points())
