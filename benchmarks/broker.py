"""mosquitto, set up as docs/mosquitto.conf says, with its own clients for load and count."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Self

from benchmarks.errors import MissingToolError, RunFailedError
from benchmarks.machine import ROOT
from edgeslm.demo.broker import find_mosquitto
from edgeslm.demo.processes import Child, accepts, free_port

_CONF: Final = ROOT / "docs" / "mosquitto.conf"
# What the documented file, or one made from it, says of places and people; here all is on loopback
# and in a folder of ours. Everything else of it is what is measured.
_LOCAL: Final = ("listener", "port", "bind_address", "allow_anonymous", "password_file", "acl_file",
                 "persistence", "persistence_location", "persistence_file", "pid_file", "log_dest",
                 "user", "cafile", "certfile", "keyfile", "require_certificate",
                 "use_identity_as_username", "include_dir")  # fmt: skip
_START_S: Final = 10.0
_READY: Final = "benchmarks/ready"
_READY_S: Final = 10.0


class Broker:
    """A mosquitto of our own on a free loopback port, its files in `folder`.

    Args:
        folder: made where it is absent.
        without: settings of the documented configuration that are left at mosquitto's defaults.

    Raises:
        MissingToolError: mosquitto or its clients are not installed.
        RunFailedError: it does not take connections.
    """

    def __init__(self, folder: Path, *, without: Sequence[str] = ()) -> None:
        program = find_mosquitto()
        clients = [shutil.which(name) for name in ("mosquitto_pub", "mosquitto_sub")]
        if program is None or None in clients:
            msg = "needs the mosquitto broker and its clients: make mosquitto"
            raise MissingToolError(msg)
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        conf = folder / "mosquitto.conf"
        conf.write_text(_settings(self.port, folder, without), "utf-8")
        self._argv = [program, "-c", str(conf)]
        self._log = folder / "broker.log"
        self._child = self._started()
        self.publish(_READY, "ready", "--retain")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._child.stop()

    def restart(self) -> None:
        """End it as its service manager does, and start it again on the same port.

        Raises:
            RunFailedError: it does not take connections.
        """
        self._child.stop()
        self._child = self._started()

    def _started(self) -> Child:
        child = Child("mosquitto", self._argv, log=self._log)
        if not accepts(self.port, child, within_s=_START_S):
            child.stop()
            msg = f"mosquitto takes no connections: {child.last_words()}"
            raise RunFailedError(msg)
        return child

    @property
    def peak_mb(self) -> float:
        """The most memory that it has ever had, MB (2^20 bytes)."""
        status = Path(f"/proc/{self._child.pid}/status").read_text("ascii")
        [peak_kb] = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(peak_kb) / 1024

    def flow(self, lines: Path, *, into: str, out: str, count: int, within_s: float) -> float:
        """Publish each line of a file at QoS 1 as fast as it goes and await as many results.

        Args:
            lines: UTF-8, one message a line, none of them empty.
            into: topic they are published on.
            out: topic of the results.
            count: number of lines.
            within_s: longest time to wait.

        Returns:
            Seconds from the publisher's start to the last result.

        Raises:
            RunFailedError: fewer results in that time.
        """
        at = ("-h", "127.0.0.1", "-p", str(self.port), "-q", "1")
        # The retained message says that we are subscribed: then nothing can be missed.
        counting = ("mosquitto_sub", *at, "-t", _READY, "-t", out, "-C", str(count + 1), "-F", "x")
        with _started(counting, stdout=subprocess.PIPE) as subscriber:
            assert subscriber.stdout is not None  # noqa: S101 -- it is a pipe
            subscriber.stdout.readline()
            begun = time.perf_counter()
            publishing = ("mosquitto_pub", *at, "-t", into, "-l")
            with lines.open("rb") as source, _started(publishing, stdin=source) as publisher:
                try:
                    subscriber.communicate(timeout=within_s)
                except subprocess.TimeoutExpired:
                    subscriber.kill()
                    got = subscriber.communicate()[0].count(b"x")
                    msg = f"{out}: {got} of {count} results within {within_s:.0f} s"
                    raise RunFailedError(msg) from None
                taken = time.perf_counter() - begun
                publisher.wait(within_s)
            status = subscriber.returncode
        if status:
            msg = f"mosquitto_sub ended with status {status}"
            raise RunFailedError(msg)
        return taken

    def publish(self, topic: str, payload: str, *options: str) -> None:
        """Publish one message at QoS 1, with options of mosquitto_pub."""
        at = ("-h", "127.0.0.1", "-p", str(self.port), "-q", "1")
        argv = ("mosquitto_pub", *at, "-t", topic, "-m", payload, *options)
        subprocess.run(argv, check=True, timeout=_READY_S)


@contextmanager
def _started(
    argv: Sequence[str], *, stdin: IO[bytes] | None = None, stdout: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a client, and leave none behind: it would wait for ever for what does not come."""
    with subprocess.Popen(argv, stdin=stdin, stdout=stdout) as client:
        try:
            yield client
        finally:
            client.kill()  # does nothing to one that has ended


def _settings(port: int, folder: Path, without: Sequence[str]) -> str:
    """The documented configuration, moved to loopback and to `folder`."""
    kept = [
        line
        for line in _CONF.read_text("utf-8").splitlines()
        if line.strip() and not line.startswith("#") and line.split()[0] not in {*_LOCAL, *without}
    ]
    ours = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "persistence true",  # this and its place, as the main file of Debian's package has them
        f"persistence_location {folder}/",
        "user root",  # where root runs it: else it could not write to our folder
        "log_dest stderr",
    ]
    return "\n".join((*kept, *ours, ""))
