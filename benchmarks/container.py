"""A device that boots: Debian's systemd as PID 1 of a container, without a network, on one disk.

Its root is read-only, as a device's should be; what agent and updater write lies in one folder
outside it. Root is needed, and the first time Debian's packages and Python's, from their indexes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final, Self

from benchmarks.errors import MissingToolError, RunFailedError
from benchmarks.machine import ROOT

PACKAGES: Final = ("ca-certificates", "dbus", "mosquitto", "mosquitto-clients", "python3",
                   "systemd", "systemd-sysv")  # fmt: skip
STATES: Final = ("edgeslm", "edgeslm-updater")
"""Below /var/lib: all that a device writes."""
STICK: Final = "/run/stick"
_SUITE: Final = "bookworm"
_PYTHON: Final = (3, 11)  # of that suite
_LIMIT_S: Final = 120.0
_PAUSE_S: Final = 0.05
# A broker that needs no disk, beside Debian's unit of it, which writes to /var/log.
_BROKER: Final = """\
[Unit]
Description=the plant's broker
[Service]
Type=notify
ExecStart=/usr/sbin/mosquitto -c /etc/mosquitto/plant.conf
[Install]
WantedBy=multi-user.target
"""
_BROKER_CONF: Final = "listener 1883 127.0.0.1\nallow_anonymous true\npersistence false\n"


def problem() -> str | None:
    """Say what is missing here to boot a container; None: nothing."""
    if os.geteuid() != 0:
        return "needs root"
    needed = ("systemd-nspawn", "nsenter", "mmdebstrap", "dpkg-deb")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)}: make proofs"
    if sys.version_info[:2] != _PYTHON:
        return "needs Python 3.11 as the container has, of which packages are made"
    return None


def package(out: Path) -> Path:
    """Build this checkout's Debian package for this machine in a folder; return it.

    Raises:
        RunFailedError: it cannot be built.
    """
    arch = _run("dpkg", "--print-architecture").strip()
    options = ("--only", "edgeslm", "--uncompressed", "--arch", arch, "--out", out)
    paths = {"PYTHONPATH": str(ROOT / "packaging")}
    said = _run(sys.executable, "-m", "packages", *options, within_s=1200, env=paths)
    return Path(said.splitlines()[0])


def installed(folder: Path, cache: Path) -> Path:
    """Make a root file system with a broker and edgeslm in it, by its package; return it.

    Args:
        folder: where there is none yet.
        cache: where Debian's part is kept.

    Raises:
        MissingToolError: see `problem`.
        RunFailedError: it could not be made.
    """
    if (missing := problem()) is not None:
        msg = f"a container {missing}"
        raise MissingToolError(msg)
    folder.mkdir(parents=True)
    _run("tar", "-C", folder, "-xf", _debian(cache))
    with tempfile.TemporaryDirectory(prefix="edgeslm-package-", dir=folder / "tmp") as out:
        deb = package(Path(out)).relative_to(folder)
        _run("chroot", folder, "dpkg", "--install", f"/{deb}")
    units = folder / "etc" / "systemd" / "system"
    (units / "plant.service").write_text(_BROKER)
    (units / "multi-user.target.wants" / "plant.service").symlink_to(
        "/etc/systemd/system/plant.service"
    )
    (units / "mosquitto.service").symlink_to("/dev/null")
    (folder / "etc" / "mosquitto" / "plant.conf").write_text(_BROKER_CONF)
    return folder


class Container:
    """A device that can be booted again and again, its state kept.

    Args:
        root: of the device; it is not written.
        folder: of this device: state, stick and log.
        states: folders below /var/lib that it may write.
    """

    def __init__(self, root: Path, folder: Path, states: Sequence[str] = STATES) -> None:
        self.stick = folder / "stick"
        self._states = states
        self._root = root
        self._state = folder / "state"
        self._log = folder / "console.log"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.stick.mkdir(parents=True)
        for name in states:  # what was laid there is the first content of the state partition
            _run("cp", "-a", root / "var" / "lib" / name, _made(self._state) / name)

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(self, *exc: object) -> None:
        self.halt()

    def boot(self) -> None:
        """Start it, and wait until its systemd answers.

        Raises:
            RunFailedError: it does not.
        """
        binds = [f"--bind={self._state / name}:/var/lib/{name}" for name in self._states]
        argv = ["systemd-nspawn", "--quiet", f"--directory={self._root}", "--boot", "--keep-unit"]
        argv += ["--register=no", "--private-network", "--console=read-only", "--read-only", *binds]
        argv += [f"--bind-ro={self.stick}:{STICK}"]
        env = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with self._log.open("ab") as log:
            self._nspawn = subprocess.Popen(argv, stdout=log, stderr=log, env=env)
        until = time.monotonic() + _LIMIT_S
        while self.says("systemctl", "is-active", "plant").strip() != "active":
            if self._nspawn.poll() is not None or time.monotonic() > until:
                msg = f"it does not boot: {self._log.read_text('utf-8', 'replace')[-2000:]}"
                self.cut()
                raise RunFailedError(msg)
            time.sleep(_PAUSE_S)

    def halt(self) -> None:
        """Shut it down in order; nothing where it is not up."""
        if self._nspawn is None:
            return
        self._nspawn.terminate()
        try:
            self._nspawn.wait(_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.cut()
        self._nspawn = None

    def cut(self) -> None:
        """End all of it at once, as a power cut does; but what is written stays written."""
        if self._nspawn is None:
            return
        if (leader := self._leader()) is not None:
            os.kill(leader, signal.SIGKILL)
        self._nspawn.wait(_LIMIT_S)
        self._nspawn = None

    def run(self, *argv: str) -> str:
        """Run a command inside as root; return what it says.

        Raises:
            RunFailedError: it fails.
        """
        return _run(*self._inside(), *argv)

    def says(self, *argv: str) -> str:
        """Return what a command inside says, whatever its status."""
        done = subprocess.run(
            [*self._inside(), *argv], capture_output=True, text=True, check=False, timeout=_LIMIT_S
        )
        return done.stdout

    def start(self, *argv: str, stdout: IO[bytes] | int) -> subprocess.Popen[bytes]:
        """Start a command inside."""
        return subprocess.Popen([*self._inside(), *argv], stdout=stdout)

    def _inside(self) -> Sequence[str]:
        leader = self._leader()
        if leader is None:
            return ("false",)
        return ("nsenter", f"--target={leader}", "--all", "--")

    def _leader(self) -> int | None:
        """Return its PID 1, as it is called outside."""
        if self._nspawn is None:
            return None
        for children in Path(f"/proc/{self._nspawn.pid}/task").glob("*/children"):
            for pid in children.read_text().split():
                if Path(f"/proc/{pid}/comm").read_text().strip() in {"systemd", "init"}:
                    return int(pid)
        return None


def _debian(cache: Path) -> Path:
    """Return a tar of Debian's part of the root, made once."""
    key = hashlib.sha256(" ".join((_SUITE, *PACKAGES)).encode()).hexdigest()[:16]
    tar = cache / "roots" / f"{key}.tar"
    if not tar.exists():
        tar.parent.mkdir(parents=True, exist_ok=True)
        new = tar.with_name(f".{os.getpid()}.tar")
        include = f"--include={','.join(PACKAGES)}"
        try:
            _run("mmdebstrap", "--variant=minbase", include, _SUITE, new, within_s=1200)
            new.replace(tar)
        finally:
            new.unlink(missing_ok=True)
    return tar


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(
    *argv: str | Path, within_s: float = _LIMIT_S, env: Mapping[str, str] | None = None
) -> str:
    done = subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
        env={**os.environ, **(env or {})},
    )
    if done.returncode:
        said = (done.stderr + done.stdout)[-1500:]
        msg = f"{' '.join(map(str, argv[:8]))}: status {done.returncode}: {said}"
        raise RunFailedError(msg)
    return done.stdout
