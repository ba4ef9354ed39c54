"""Whatever ends an agent, the next one tells of it, by code positions and no word of a text."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeslm.adapters import stacks
from edgeslm.agent import crashes
from edgeslm.agent.crashes import KEPT, MAX_BYTES, RUNNING, Crashes
from tests.agent.kit import AgentProcess, Plant, poll

SECRET = "hunter2"  # noqa: S105 -- stands for a text
FAULT = """\
Fatal Python error: Segmentation fault

Thread 0x00007f2c1ffff6c0 (most recent call first):
  File "/opt/x/lib/python3.11/site-packages/edgeslm/agent/workers.py", line 331 in _run
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007f2c37fff6c0 (most recent call first):
  File "/srv/edgeslm/edgeslm/adapters/ort.py", line 77 in run
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Extension modules: numpy.core._multiarray_umath (total: 1)
"""


def reports(folder: Path) -> list[dict[str, Any]]:
    """Return all reports, oldest first."""
    paths = sorted(folder.glob("crash-*.json"), key=lambda path: path.name.split(".")[0])
    return [json.loads(path.read_text()) for path in paths]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    made = tmp_path / "state", tmp_path / "run"
    for folder in made:
        folder.mkdir()
    return made


def test_an_agent_that_ends_well_leaves_nothing(folders: tuple[Path, Path]) -> None:
    for _ in range(2):
        found = Crashes(*folders)
        assert (found.untold, found.state()) == ([], None)
    assert [list(folder.iterdir()) for folder in folders] == [[], []]


def test_positions_of_a_fault_are_read_the_guilty_thread_first() -> None:
    reason, found = stacks.of_fault(FAULT)
    assert reason == "Segmentation fault"
    assert [stack[0] for stack in found] == [
        "edgeslm/adapters/ort.py:77 run",
        "edgeslm/agent/workers.py:331 _run",
    ]


@pytest.mark.parametrize("text", ["", SECRET, f"{FAULT}{SECRET}\n  File {SECRET}", "\0" * 99])
def test_nothing_but_positions_is_taken_from_a_fault(text: str) -> None:
    assert SECRET not in json.dumps(stacks.of_fault(text))


@pytest.mark.parametrize(
    ("left", "kind"),
    [
        (b"", "killed"),
        (b"\xff\xfe torn", "killed"),
        (b'{"began": 5.0, "agent_version": "0.6.0"}\n', "killed"),
        (b'{"began": 5.0, "agent_version": "0.6.0"}\n' + FAULT.encode(), "fault"),
        (b"[]\n" + FAULT.encode() * 20_000, "fault"),
    ],
    ids=range(5),
)
def test_what_an_agent_left_is_reported_once(
    folders: tuple[Path, Path], left: bytes, kind: str
) -> None:
    state_dir, runtime_dir = folders
    (runtime_dir / RUNNING).write_bytes(left)
    found = Crashes(state_dir, runtime_dir)
    assert [crash.kind for crash in found.untold] == [kind]
    found.told()
    again = Crashes(state_dir, runtime_dir)
    assert again.untold == []
    state = again.state()
    assert state is not None
    assert (state["count"], state["kind"]) == (1, kind)
    assert all(path.stat().st_size <= MAX_BYTES for path in state_dir.iterdir())


class PlayedTime:
    """The module `time`, by hours that a test counts."""

    hours = 0.0

    def time(self) -> float:
        return 1e9 + 3600 * self.hours

    def time_ns(self) -> int:
        self.hours += 1e-6  # no two reports are of one moment
        return int(self.time() * 1e9)


def killed(folders: tuple[Path, Path], began: float = 0.0) -> Crashes:
    """An agent that was killed, and the next one's view of it."""
    (folders[1] / RUNNING).write_text(json.dumps({"began": began, "agent_version": "x"}))
    return Crashes(*folders)


def test_an_agent_that_ends_again_and_again_writes_no_more_than_a_few_an_hour(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes, "time", played := PlayedTime())
    names = set()
    for i in range(1000):
        played.hours = i / 400
        names |= {crash.name for crash in killed(folders).untold}
    assert len(names) == 3 * KEPT
    played.hours = -9.0  # a clock that was set back is no reason to be silent
    for _ in range(1000):
        assert len(killed(folders).untold) == KEPT
    assert not names & {path.name for path in folders[0].iterdir()}


def test_reports_are_few_and_the_newest(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dir, runtime_dir = folders
    monkeypatch.setattr(crashes, "time", played := PlayedTime())
    for i in range(KEPT + 5):
        played.hours = i
        (runtime_dir / RUNNING).write_text(json.dumps({"began": i, "agent_version": "x"}))
        found = Crashes(state_dir, runtime_dir)
        if i % 2:
            found.told()
    assert [report["began"] for report in reports(state_dir)] == list(range(5, KEPT + 5))


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"stacks": 3}', b"\xff", b'{"kind": 1}'])
def test_a_damaged_report_is_passed_over(folders: tuple[Path, Path], damage: bytes) -> None:
    (folders[0] / "crash-1.untold.json").write_bytes(damage)
    assert Crashes(*folders).untold == []


def test_a_state_directory_that_cannot_be_written_stops_nothing(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(crashes, "write_durably", refuse)
    (folders[1] / RUNNING).write_bytes(b"")
    assert Crashes(*folders).untold == []
    assert not (folders[1] / RUNNING).exists()


RAISES = """
import sys, threading
from pathlib import Path
from edgeslm.agent.crashes import Crashes
found = Crashes(Path(sys.argv[1]), Path(sys.argv[2]))

def deep(text):
    try:
        int(text)
    except ValueError:
        raise KeyError(text)

with found.watching():
    for _ in range(20):
        thread = threading.Thread(target=deep, args=("hunter2",), name="work m 0")
        thread.start()
        thread.join()
    deep("hunter2")
"""


def test_exceptions_of_all_threads_are_reported_without_what_they_say(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    script = tmp_path / "raises.py"
    script.write_text(RAISES)
    argv = [sys.executable, str(script), *map(str, folders)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("KeyError: 'hunter2'") == 21  # where it was before: the log here
    found = reports(folders[0])
    assert len(found) == KEPT
    assert found[0]["kind"] == "exception"
    assert (found[0]["reason"], found[0]["led_to_by"]) == ("KeyError", ["ValueError"])
    assert found[0]["thread"] == "work m 0"
    assert found[0]["stacks"][0][0].endswith(" deep")
    assert SECRET not in "".join(p.read_text() for p in folders[0].iterdir())
    assert Crashes(*folders).untold[0].reason == "KeyError"
    assert len(reports(folders[0])) == KEPT  # none beside them: it was not killed


def test_a_stack_is_positions_innermost_first() -> None:
    begun, end = threading.Event(), threading.Event()

    def inner(secret: str) -> None:
        assert secret
        begun.set()
        end.wait()

    thread = threading.Thread(target=inner, args=(SECRET,))
    thread.start()
    begun.wait()
    assert thread.ident is not None
    found = stacks.of_thread(thread.ident)
    end.set()
    thread.join()
    own = [at for at, place in enumerate(found) if "test_crashes.py" in place]
    assert [found[at].endswith(".inner") for at in own] == [True]
    assert "threading.py" in found[own[0] - 1]
    assert found[-1].endswith("_bootstrap")
    assert SECRET not in "".join(found)
    assert stacks.of_thread(1) == []


@pytest.mark.broker
@pytest.mark.parametrize(
    ("number", "kind", "reason"),
    [
        (signal.SIGKILL, "killed", "killed, or out of memory"),
        (signal.SIGABRT, "fault", "Aborted"),
        (signal.SIGSEGV, "fault", "Segmentation fault"),
    ],
)
def test_the_next_agent_tells_what_ended_the_one_before(
    agent: AgentProcess, plant: Plant, number: signal.Signals, kind: str, reason: str
) -> None:
    agent.settings["state_interval_s"] = 1.0
    agent.start()
    plant.publish(f"in/{SECRET}", "sleep 30")
    poll(lambda: plant.last.get("state", {"models": []})["models"], "state")
    poll(lambda: plant.last["state"]["models"][0]["queue"] == 1, "the text is read")
    assert "crashes" not in plant.last["state"]
    state_dir = Path(agent.settings["state_dir"])
    assert not list(state_dir.glob("crash-*"))
    assert agent.process is not None
    assert (Path(agent.settings["runtime_dir"]) / RUNNING).exists()
    agent.process.send_signal(number)
    agent.wait_killed()
    agent.start()
    told = agent.wait_for("crash_found")
    assert told["code"] == "agent.crashed"
    assert told["message"].startswith(f"{kind}: {reason}")
    poll(lambda: "crashes" in plant.last["state"], "state")
    assert plant.last["state"]["crashes"]["kind"] == kind
    assert plant.last["state"]["crashes"]["reason"] == reason
    (report,) = reports(state_dir)
    places = [place for stack in report["stacks"] for place in stack]
    assert bool(places) == (kind == "fault")
    if places:
        assert any("brittle.py" in place and place.endswith(" prepare") for place in places)
    assert SECRET not in json.dumps(report)
    agent.kill()
    agent.start()
    agent.wait_for("crash_found")
    assert len([e for e in agent.events() if e["event"] == "crash_found"]) == 2  # each once
    agent.kill()


@pytest.mark.broker
def test_a_thread_that_hangs_is_told_with_its_stack(
    make_agent: Callable[..., AgentProcess], plant: Plant, brittle: Path
) -> None:
    agent = make_agent(
        models={"m": {"bundle": brittle, "workers": 1}},
        routes={"all": {"topic": "in/#", "models": ["m"]}},
    )
    agent.script = Path(__file__).with_name("with_little_patience.py")
    agent.start()
    plant.publish("in/a", "sleep 9")
    told = agent.wait_for("worker_stuck")
    assert told["code"] == "worker.stuck"
    assert re.match(r"work m 0: [1-8] s at one input: \S+/brittle.py:\d+ ", told["message"])
    assert plant.wait_for(1)[0]["score"] == 7
    stuck = [e for e in agent.events() if e["event"] == "worker_stuck"]
    assert len(stuck) == 1
    assert agent.stop() < 5
