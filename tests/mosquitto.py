"""A real mosquitto of a test's own, on a free loopback port, that can be killed and restarted."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

START_S = 30.0
CONF = """\
listener {port} 127.0.0.1
set_tcp_nodelay true
max_inflight_messages 1000
max_queued_messages 100000
persistence true
persistence_location {folder}/
{user}
{extra}
"""


class Mosquitto:
    """One broker: `kill` loses what it has in memory, `stop` saves it, `start` comes back."""

    def __init__(self, folder: Path, *, extra: str = "allow_anonymous true") -> None:
        self.exe = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if self.exe is None:
            pytest.skip("no mosquitto")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.conf = folder / "mosquitto.conf"
        self.configure(extra)
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, extra: str) -> None:
        """Set further lines of the configuration, for the next start."""
        user = "user root" if os.geteuid() == 0 else ""
        text = CONF.format(port=self.port, folder=self.folder, user=user, extra=extra)
        self.conf.write_text(text)

    def start(self) -> None:
        assert self._process is None
        with (self.folder / "broker.log").open("ab") as log:
            argv = [str(self.exe), "-c", str(self.conf)]
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    pytest.fail((self.folder / "broker.log").read_text())
                time.sleep(0.01)
            else:
                return

    def stop(self) -> None:
        """Let it end as systemd would: it writes its sessions first."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_S)
            self._process = None


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
    return port


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running broker that takes anybody on loopback."""
    broker = Mosquitto(tmp_path / "mosquitto")
    broker.start()
    yield broker
    broker.kill()
