"""What a fleet's manager may have a device do: only what is signed, fresh, bounded, and once."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from edgeslm.contract.fleet import MAX_OUTPUT_BYTES, MAX_REPLY_BYTES, Command, CommandReply
from edgeslm.contract.topics import Topics
from edgeslm.updater import diagnostics as made
from edgeslm.updater.diagnostics import CommandModelError, Diagnostics

TOPICS: Final = Topics("edgeslm/v1", "dev1")
NOW: Final = 1_800_000_000.0
QUICK: Final = "print('found nothing')"


class Device:
    """Diagnoses on a clock that a test moves; programs are what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.said: list[CommandReply] = []
        self.script = QUICK
        self.number = 0
        self.diagnostics = Diagnostics(
            TOPICS, config=Path("/c.toml"), bundle=self._bundle, clock=self, send=self._send
        )
        monkeypatch.setattr(Diagnostics, "_argv", lambda *_: [sys.executable, "-c", self.script])

    def wall(self) -> float:
        raise AssertionError

    def monotonic(self) -> float:
        return self.now

    @property
    def trusted(self) -> float:
        return NOW + self.now - 1000.0

    def command(self, **more: Any) -> Command:
        self.number += 1
        fields = {
            "schema": 1,
            "device": "dev1",
            "nonce": f"{self.number:032x}",
            "issued": self.trusted,
            "expires": self.trusted + 300.0,
            "do": "doctor",
            "reply": f"edgeslm/v1/dev1/fleet/reply/n{self.number}",
        }
        return Command.model_validate({**fields, **more})

    def take(self, command: Command, *, updating: bool = False) -> None:
        self.diagnostics.take(command, now=self.trusted, updating=updating)

    def finish(self) -> None:
        deadline = time.monotonic() + 30
        while self.diagnostics.running:
            assert time.monotonic() < deadline
            self.diagnostics.tend()
            time.sleep(0.01)

    @property
    def codes(self) -> list[str | None]:
        return [reply.error["code"] if reply.error else None for reply in self.said]

    def _bundle(self, model: str | None) -> Path:
        raise CommandModelError(model)

    def _send(self, topic: str, payload: bytes, retain: bool) -> None:  # noqa: FBT001 -- `Send`
        assert not retain
        assert topic.startswith(TOPICS.reply(""))
        assert len(payload) <= MAX_REPLY_BYTES
        self.said.append(CommandReply.model_validate_json(payload))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    made = Device(monkeypatch)
    yield made
    made.diagnostics.close()


def test_a_program_runs_once_and_its_words_and_status_travel(device: Device) -> None:
    device.script = "import sys; print('caf\\u00e9\\a'); sys.exit(65)"
    command = device.command()
    device.take(command)
    device.finish()
    device.take(command)
    assert not device.diagnostics.running
    (reply,) = device.said
    assert (reply.status, reply.output, reply.cut) == (65, "café?\n", False)
    assert (reply.device, reply.nonce, reply.do) == ("dev1", command.nonce, "doctor")
    assert device.diagnostics.refused == {"replayed": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"device": "dev2", "reply": "edgeslm/v1/dev2/fleet/reply/x"},
        {"reply": "edgeslm/v1/dev2/fleet/reply/x"},
        {"reply": "edgeslm/v1/dev1/fleet/time"},
        {"reply": "edgeslm/v1/dev1/fleet/reply/"},
        {"reply": "edgeslm/v1/dev1/fleet/reply/a/b"},
        {"reply": "edgeslm/v1/dev1/fleet/reply/+"},
        {"reply": "edgeslm/v1/dev1/status"},
    ],
)
def test_what_is_for_another_or_to_be_answered_elsewhere_is_not_answered(
    device: Device, wrong: dict[str, Any]
) -> None:
    device.take(device.command(**wrong))
    assert not device.said
    assert not device.diagnostics.running
    assert device.diagnostics.refused == {"command.foreign": 1}


@pytest.mark.parametrize(
    ("issued", "expires"),
    [(-600.0, -1.0), (-300.0, 0.0), (301.0, 400.0), (0.0, 601.0), (100.0, 50.0), (-2.0, 100.0)],
)
def test_what_is_stale_is_refused_once(device: Device, issued: float, expires: float) -> None:
    device.now += 1.0  # it has begun a second ago
    now = device.trusted
    command = device.command(issued=now + issued, expires=now + expires)
    for _ in range(3):
        device.take(command)
    assert device.codes == ["command.stale"]
    assert not device.diagnostics.running


def test_one_at_a_time(device: Device) -> None:
    device.script = "import time; time.sleep(60)"
    device.take(device.command())
    device.take(device.command())
    assert device.codes == ["command.busy"]


def test_a_benchmark_does_not_disturb_an_update(device: Device) -> None:
    device.take(device.command(do="bench"), updating=True)
    assert device.codes == ["command.busy"]
    device.take(device.command(), updating=True)
    device.finish()
    assert device.codes == ["command.busy", None]


def test_six_in_an_hour(device: Device) -> None:
    for _ in range(8):
        device.take(device.command())
        device.finish()
        device.now += 60.0
    assert device.codes == [None] * 6 + ["command.too_many"] * 2
    device.now += 3600.0
    device.take(device.command())
    device.finish()
    assert device.codes[-1] is None


def test_who_is_not_done_in_time_is_ended_with_all_it_has_started(
    device: Device, tmp_path: Path
) -> None:
    alive = tmp_path / "alive"
    device.script = (
        "import subprocess, sys, time; print('begun', flush=True);"
        "subprocess.Popen([sys.executable, '-c', 'import time, pathlib; time.sleep(2);"
        f'pathlib.Path("{alive}").touch()\']); time.sleep(60)'
    )
    device.take(device.command())
    time.sleep(0.5)
    device.diagnostics.tend()
    assert device.diagnostics.running
    device.now += made.DEADLINE_S
    device.diagnostics.tend()
    (reply,) = device.said
    assert (reply.status, device.codes, reply.output) == (None, ["command.overdue"], "begun\n")
    time.sleep(2.5)
    assert not alive.exists()


@pytest.mark.parametrize("shout", ["'x'", "'\\u20ac'", "'\"'", "'\\\\'", "'\\x00'"])
def test_so_many_bytes_travel_and_it_says_that_there_were_more(device: Device, shout: str) -> None:
    device.script = f"import sys; sys.stdout.write({shout} * 300_000)"
    device.take(device.command())
    device.finish()
    (reply,) = device.said
    assert reply.status == 0
    assert reply.cut
    assert MAX_OUTPUT_BYTES / 4 < len(reply.output.encode()) <= MAX_OUTPUT_BYTES


def test_what_ends_while_it_speaks_is_heard_to_the_end(device: Device) -> None:
    device.script = "print('y' * 60_000)"
    device.take(device.command())
    device.finish()
    assert device.said[0].output == "y" * 60_000 + "\n"
    assert not device.said[0].cut


def test_it_runs_at_the_lowest_priority(device: Device) -> None:
    device.script = "import os, time; time.sleep(0.5); print(os.nice(0))"
    device.take(device.command())
    device.finish()
    assert device.said[0].output == "19\n"


def test_a_model_that_is_not_there_is_refused(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    device.take(device.command(do="bench", model="press"))
    assert device.codes == ["command.model"]
