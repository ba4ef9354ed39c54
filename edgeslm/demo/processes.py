"""Child processes that end when we do."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import psutil

_STOP_S: Final = 6.0
_TAIL_LINES: Final = 8


class Child:
    """A process in a session of its own: a Ctrl-C at our terminal is ours to handle.

    Args:
        name: for people.
        argv: what to run.
        log: file that takes its output.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, name: str, argv: Sequence[str], *, log: Path) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(  # noqa: S603 -- our own argument lists, no shell
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=clean_environment(),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """End it, if it still runs."""
        end(self._process)

    def last_words(self) -> str:
        """The end of its output, on one line."""
        lines = self._log.read_text("utf-8", "replace").splitlines()[-_TAIL_LINES:]
        return " | ".join(line.strip() for line in lines if line.strip()) or "it said nothing"

    def pss_mb(self) -> float | None:
        """Its share of memory, MB; None where the system does not tell."""
        try:
            return float(psutil.Process(self.pid).memory_full_info().pss) / 2**20
        except (psutil.Error, AttributeError):  # ended, or not Linux
            return None


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process: politely, then not."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def clean_environment() -> dict[str, str]:
    """Our environment without `EDGESLM_*`: the user's own agent's settings are not the demo's."""
    return {k: v for k, v in os.environ.items() if not k.startswith("EDGESLM_")}


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
    return port


def accepts(port: int, child: Child, *, within_s: float) -> bool:
    """Whether `child` takes connections on loopback `port` within `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while child.status is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            return True
        time.sleep(0.02)
    return False
