"""Services of a device that has no certificate yet: they wait for it, where they are told to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from edgeslm.cli import awaiting
from edgeslm.contract.identity import CURRENT, IDENTITY, Identity
from tests.fleet import kit

WITHIN_S: Final = 120.0


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings of a device that gets its id with its certificate, and nobody else's models."""
    repository = kit.make(tmp_path / "fleet")
    (tmp_path / "root.json").write_bytes(repository.store.read("1.root.json"))
    file = tmp_path / "agent.toml"
    file.write_text(
        f'state_dir = "{tmp_path / "state"}"\nruntime_dir = "{tmp_path / "run"}"\n'
        "[uplink]\nport = 1\n"
        f'[provision]\ndir = "{tmp_path / "provision"}"\ntoken_file = "{tmp_path / "token"}"\n'
        f'[update]\ndir = "{tmp_path / "slots"}"\nroot = "{tmp_path / "root.json"}"\n'
    )
    return file


class Systemd:
    """What a service is told by, and tells."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.settimeout(WITHIN_S)
        self.heard: list[str] = []
        self.environment = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "3000000"}

    def hear(self, text: str, times: int = 1) -> None:
        """Wait until it has said that so often from now on."""
        while times:
            said = self._socket.recv(4096).decode()
            self.heard.append(said)
            times -= text in said

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path)
    yield made
    made.close()


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(systemd: Systemd) -> Iterator[Start]:
    """Starts a service as its unit does."""
    started: list[subprocess.Popen[str]] = []

    def begin(command: str, config: Path) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "edgeslm", command, "--wait", "--config", str(config)]
        env = {**os.environ, **systemd.environment}
        started.append(subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=env))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def provision(folder: Path) -> None:
    """Put there what `edgeslm provision` does, last what is looked for."""
    (folder / "1").mkdir(parents=True)
    said = Identity(device="press-07", serial="1", not_before=0.0, not_after=2e9)
    (folder / "1" / IDENTITY).write_text(said.model_dump_json())
    (folder / CURRENT).symlink_to("1")


def events(process: subprocess.Popen[str]) -> list[str]:
    _, said = process.communicate(timeout=WITHIN_S)
    return [json.loads(line)["event"] for line in said.splitlines()]


@pytest.mark.parametrize(("command", "serves"), [("run", "0 models"), ("updater", "listening")])
def test_it_waits_without_a_restart_and_begins_when_it_is_provisioned(
    command: str, serves: str, config: Path, systemd: Systemd, start: Start
) -> None:
    service = start(command, config)
    systemd.hear("WATCHDOG=1", times=2)
    assert systemd.heard[0] == f"READY=1\nSTATUS={awaiting.STATUS}"
    assert not (config.parent / "state").exists()
    provision(config.parent / "provision")
    systemd.hear(f"STATUS={serves}")
    systemd.hear("WATCHDOG=1")
    service.send_signal(signal.SIGTERM)
    said = events(service)
    assert service.returncode == 0
    assert [said.count(event) for event in ("certificate_awaited", "certificate_came")] == [1, 1]


def test_while_it_waits_it_reads_its_settings_again_and_ends_when_told(
    config: Path, systemd: Systemd, start: Start, tmp_path: Path
) -> None:
    service = start("run", config)
    systemd.hear("READY=1")
    whole = config.read_text()
    config.write_text("unknown = 1\n" + whole)
    service.send_signal(signal.SIGHUP)
    elsewhere = tmp_path / "elsewhere"
    time.sleep(0.3)
    config.write_text(whole.replace(str(tmp_path / "provision"), str(elsewhere)))
    service.send_signal(signal.SIGHUP)
    systemd.hear("WATCHDOG=1")
    provision(tmp_path / "provision")  # no longer what it looks at
    systemd.hear("WATCHDOG=1", times=2)
    service.send_signal(signal.SIGTERM)
    said = events(service)
    assert service.returncode == 0
    assert said == ["certificate_awaited", "reload_failed"]
    assert "STOPPING=1" in systemd._socket.recv(4096).decode()  # noqa: SLF001 -- the last


@pytest.mark.parametrize(("command", "named"), [("run", False), ("run", True), ("updater", True)])
def test_by_hand_it_says_at_once_what_is_missing(
    command: str, *, named: bool, config: Path, tmp_path: Path
) -> None:
    if named:  # who it is it knows, but not with which certificate it gets in
        own = '[uplink]\nport = 1\n[uplink.tls]\n[provision.broker]\nhost = "localhost"\n'
        text = config.read_text().replace("[uplink]\nport = 1\n", own)
        config.write_text('device_id = "press-07"\n' + text)
    argv = [sys.executable, "-m", "edgeslm", command, "--config", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=WITHIN_S)
    assert done.returncode == 75
    last = done.stderr.splitlines()[-1]
    assert "this device has no certificate yet" in last
    assert "edgeslm provision" in last
    assert "[config.not_provisioned]" in last
    assert not (tmp_path / "state").exists()
