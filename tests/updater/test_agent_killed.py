"""A real agent, and the updater with it, killed at every call by which they change anything.

The updater takes version 2 from a stick. From the moment that it begins until it has ended, these
are the points of the agent, each of its threads counted by itself:

- all calls that write, rename or sync below the device's folder: the verdict on the new bundle's
  golden file, which its loader keeps, and its log;
- all it sends to the updater and to the broker, so: an order was carried out, and its answer is
  not there yet;
- all that its control thread receives, so: an order was sent and is not heard, and an answer was
  sent and nothing has followed. (Some of these are its own bell, and in which order the two come
  is not always the same: there may be a few more or less of them.)

What the disk holds of an update is the updater's. So with both killed there are two enumerations:
the agent's points, the updater killed as soon as the agent is dead, and the updater's own, the
agent killed as soon as the updater is.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from edgeslm import tasks
from edgeslm.adapters.slot_store import ReadOnlySlots
from edgeslm.core.slots import known_bad
from edgeslm.errors import EXIT_REJECTED
from edgeslm.runtime.bundle import open_bundle
from tests import kills
from tests.agent.kit import AgentProcess, Plant, poll
from tests.mosquitto import Mosquitto
from tests.updater.scripted import ScriptedAgent
from tests.updater.whole import DEVICE, MODEL, Fleet, comes_up, command

pytestmark = pytest.mark.broker
AGENT: Final = Path(__file__).parents[1] / "agent"
SENDS: Final = ("sendto", "sendmsg")
RECEIVES: Final = ("recvfrom", "recvmsg")
ENV: Final = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
CONTROL, LOADER = "control", "loader"  # threads of the agent
TRIES: Final = 3  # to get to a point that is not there each time
UPDATE_S: Final = 120.0
AFTER_S: Final = 0.3  # for what the agent still does when the updater has ended
KILLED: Final = -signal.SIGKILL


class Bench:
    """A device that serves version 1 and is offered version 2, made anew for each run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = Fleet(folder / "fleet")
        self.sticks: dict[int, Path] = {}
        self._begun: list[subprocess.Popen[str]] = []
        for version in (1, 2, 3):
            self.fleet.offer(version)
        for version in (1, 2, 3):
            self.fleet.assign(version)
            self.sticks[version] = self.fleet.stick(f"stick{version}")
        self.broker = Mosquitto(folder / "broker")
        self.broker.start()
        self.device = folder / "device"
        self.agent = AgentProcess(
            self.device,
            self.broker.port,
            device_id=DEVICE,
            profile=self.fleet.profile,
            models={MODEL: {"bundle": self.fleet.bundles[1], "workers": 1}},
            routes={"r": {"topic": "plant/+", "models": [MODEL]}},
            update={"root": self.fleet.root, "dir": self.device / "updater", "load_s": 20.0},
        )
        self.agent.script = AGENT / "with_names.py"
        self.agent.env = ENV
        self.agent.configure()
        (self.device / "run").mkdir()
        with ScriptedAgent(self.device / "run" / "control.sock"):
            self.update(1)
        (self.device / "run" / "control.sock").unlink()
        shutil.copytree(self.device, folder / "before")
        self.plant = Plant(self.broker.port, name="watch")
        self._asked = 0

    def close(self) -> None:
        self._end()
        self.plant.close()
        self.broker.kill()

    def _end(self) -> None:
        self.agent.kill()
        for updater in self._begun:
            if updater.poll() is None:
                updater.kill()
                updater.communicate()
        self._begun.clear()

    def reset(self) -> None:
        self._end()
        shutil.rmtree(self.device)
        shutil.copytree(self.folder / "before", self.device)
        self.come_up()

    def come_up(self) -> None:
        self.agent.kill()
        self.agent.start()

    def command(self, version: int) -> list[str]:
        return command(self.agent.config, self.sticks[version])

    def begin(self, version: int) -> subprocess.Popen[str]:
        argv = self.command(version)
        self._begun.append(subprocess.Popen(argv, env=ENV, stderr=subprocess.PIPE, text=True))
        return self._begun[-1]

    def update(self, version: int) -> None:
        updater = self.begin(version)
        said = updater.communicate(timeout=UPDATE_S)[1]
        assert updater.returncode == 0, said[-2000:]

    def serves(self) -> int:
        """Version that answers a text that is published now."""
        self._asked += 1
        topic = f"plant/{self._asked}"
        self.plant.publish(topic, "hello")
        found: list[dict[str, Any]] = []

        def answered() -> bool:
            found[:] = [each for each in list(self.plant.results) if each["topic"] == topic]
            return bool(found)

        poll(answered, f"an answer to {topic}")
        assert "error" not in found[0], found
        return int(found[0]["model"]["version"])

    def condemned(self, version: int) -> str | None:
        """Code of what the updater holds against a version."""
        table = ReadOnlySlots(self.device / "updater").read()
        assert MODEL in table.models
        bundle = open_bundle(self.fleet.bundles[version], verify=False).hash
        bad = known_bad(table, MODEL, bundle)
        return None if bad is None else bad.error["code"]

    def points(self) -> list[kills.Point]:
        """Those of the agent."""

        def counts(point: kills.Point, said: str) -> bool:
            if point.call in SENDS:
                return "<TCP:" in said or point.thread == CONTROL
            if point.call in RECEIVES:
                return point.thread == CONTROL
            return str(self.device) in said

        self.reset()
        assert self.agent.process is not None
        calls = (*kills.CALLS, *SENDS, *RECEIVES)
        with kills.observed(self.agent.process.pid, calls, counts) as found:
            self.update(2)
        return found

    def updaters(self) -> list[kills.Point]:
        """Those of the updater."""
        self.reset()
        return kills.points(self.command(2), self.device / "updater", env=ENV)

    # Whoever is killed, an agent has been started anew at the end. Each returns whether its point
    # was reached.

    def kill_agent(self, point: kills.Point) -> bool:
        """Start another agent at once, as the system does, and let the updater end."""
        updater, died = self._ambush(point)
        self.come_up()
        assert self.serves() in {1, 2}
        said = updater.communicate(timeout=UPDATE_S)[1]
        if updater.returncode == 0:
            assert self.serves() == 2
        else:
            assert updater.returncode == EXIT_REJECTED, said
            assert self.condemned(2) == "trial.crashed", said
            assert self.serves() == 1
        return died

    def kill_both(self, point: kills.Point) -> bool:
        updater, died = self._ambush(point)
        updater.kill()
        updater.communicate()
        self.come_up()
        return died

    def kill_updater_first(self, point: kills.Point) -> bool:
        died = kills.kill(self.command(2), point, env=ENV) == KILLED
        self.come_up()
        return died

    def _ambush(self, point: kills.Point) -> tuple[subprocess.Popen[str], bool]:
        """Begin an update; return its process, and whether the agent died of it."""
        agent = self.agent.process
        assert agent is not None
        with kills.ambushed(agent.pid, point):
            updater = self.begin(2)
            while agent.poll() is None and updater.poll() is None:
                time.sleep(0.001)
            until = time.monotonic() + AFTER_S
            while agent.poll() is None and time.monotonic() < until:
                time.sleep(0.001)
            return updater, agent.poll() == KILLED

    def hold(self) -> None:
        """Whatever happened: old or new serves, golden passing, and the next update succeeds."""
        served = self.serves()
        assert served in {1, 2}
        assert served == comes_up(self.agent.config)
        wanted = 2 if served == 1 and self.condemned(2) is None else 3
        self.update(wanted)
        assert self.serves() == wanted
        assert comes_up(self.agent.config) == wanted
        left = sorted(path.name for path in (self.device / "updater").iterdir())
        assert left == ["bundles", "lock", "slots.json", "trust"], left


Way = Callable[[Bench, kills.Point], bool]


@pytest.fixture(autouse=True, scope="module")
def _brittle() -> Iterator[None]:
    tasks.__path__.append(str(AGENT / "tasks"))
    yield
    tasks.__path__.remove(str(AGENT / "tasks"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    kills.need_strace()
    made = Bench(tmp_path_factory.mktemp("killed"))
    yield made
    made.close()


def killed(bench: Bench, way: Way, points: list[kills.Point]) -> list[kills.Point]:
    """Go through points; return those that were not reached."""
    missed = []
    for point in points:
        try:
            for _ in range(TRIES):
                bench.reset()
                if way(bench, point):
                    break
                bench.hold()
            else:
                missed.append(point)
                continue
            bench.hold()
        except BaseException as err:
            err.add_note(f"killed at {point}")
            raise
    return missed


def by_chance(point: kills.Point) -> bool:
    """Whether it may not be there in each run: see above; some news leave together, or apart."""
    return point.call in RECEIVES or (point.call in SENDS and point.thread != CONTROL)


def agent_points(bench: Bench) -> list[kills.Point]:
    """A verdict is written, and a report and the answer to each order are sent."""
    points = bench.points()
    calls = [point.call for point in points if point.thread == LOADER]
    assert calls[:5] == ["mkdir", "write", "fsync", "rename", "fsync"]
    answers = [point for point in points if point.thread == CONTROL and point.call in SENDS]
    assert len(answers) >= 1 + len(("try", "recheck", "commit"))
    return points


QUICK: Final = (
    (Bench.kill_agent, kills.Point("rename", 1, LOADER)),  # the verdict
    (Bench.kill_both, kills.Point("sendto", 5, CONTROL)),  # it serves the new one
    (Bench.kill_updater_first, kills.Point("rename", 10)),
)


@pytest.mark.parametrize(
    ("way", "point"), QUICK, ids=lambda each: getattr(each, "__name__", str(each))
)
def test_a_kill_at_one_point_leaves_old_or_new(bench: Bench, way: Way, point: kills.Point) -> None:
    assert not killed(bench, way, [point])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", [Bench.kill_agent, Bench.kill_both], ids=lambda way: way.__name__)
def test_a_kill_at_any_point_of_the_agent_leaves_old_or_new(bench: Bench, way: Way) -> None:
    missed = killed(bench, way, agent_points(bench))
    assert all(by_chance(point) for point in missed), missed


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_kill_of_both_at_any_point_of_the_updater_leaves_old_or_new(bench: Bench) -> None:
    points = bench.updaters()
    assert len(points) > 50
    assert not killed(bench, Bench.kill_updater_first, points)
