"""`edgeslm fleet serve` as a process: it says where its page is, serves, and stops when told."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from edgeslm.cli.main import main
from edgeslm.fleet.database.engine import open_database
from tests.fleet import kit as fleet_kit
from tests.fleet.service import kit
from tests.mosquitto import Mosquitto

pytestmark = pytest.mark.broker


def test_it_serves_page_and_devices_and_stops_within_five_seconds(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    repository = kit.repository_of(tmp_path, versions=2)
    argv = [sys.executable, "-m", "edgeslm", "fleet", "serve", "--listen", "127.0.0.1:0"]
    where = ["--repository", str(repository.folder), "--broker", f"127.0.0.1:{mosquitto.port}"]
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # as systemd's
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(10)
    env = {**os.environ, "EDGESLM_FLEET_PASSPHRASE": fleet_kit.PASSPHRASE}
    env["NOTIFY_SOCKET"] = str(tmp_path / "notify")
    process = subprocess.Popen([*argv, *where], env=env, stderr=subprocess.PIPE, text=True)
    devices = kit.Devices(mosquitto.port, ["dev-1", "dev-2"])
    assert process.stderr is not None
    try:
        lines: list[dict[str, str]] = []
        while not lines or lines[-1]["event"] != "page_served":
            lines.append(json.loads(process.stderr.readline()))
        events = {line["event"]: line for line in lines}
        address = events["page"]["address"]
        assert events["no_accounts"]["remedy"] == "edgeslm fleet accounts add NAME"
        with urllib.request.urlopen(address, timeout=10) as page:  # noqa: S310 -- of ours
            assert page.status == 200
        assert manager.recv(100) == b"READY=1\nSTATUS=serving"
        devices.say()
        engine = open_database(f"sqlite:///{repository.folder / 'fleet.db'}")
        kit.registered(engine, 2)
        number = kit.start(engine, repository, kit.plan())
        kit.ended(engine, number)
        engine.dispose()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        assert time.monotonic() - began < 5.0
        assert process.returncode == 0
        assert manager.recv(100) == b"STOPPING=1"
    finally:
        manager.close()
        devices.close()
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--listen", "0.0.0.0:8080"), "can be reached by others"),
        (("--listen", "fleet.example:8080"), "can be reached by others"),
        (("--listen", "[::]:8080"), "can be reached by others"),
        (("--listen", "8080"), "not HOST:PORT"),
        (("--listen", "127.0.0.1:99999"), "not HOST:PORT"),
        (("--tls-cert", "cert.pem"), "go together"),
    ],
)
def test_an_address_that_others_reach_needs_protection(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    assert main(["fleet", "serve", "--broker", "127.0.0.1", *words]) == 78
    assert says in capsys.readouterr().err


def test_a_database_that_is_down_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESLM_FLEET_PASSPHRASE", fleet_kit.PASSPHRASE)
    repository = fleet_kit.make(tmp_path / "repository")
    where = ("--repository", str(repository.folder), "--broker", "127.0.0.1")
    down = "postgresql://nobody:secret@127.0.0.1:1/fleet"
    assert main(["fleet", "serve", *where, "--database", down]) == 75
    err = capsys.readouterr().err
    assert "[fleet.database_down]" in err
    assert "secret" not in err
