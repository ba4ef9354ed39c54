"""A device that boots: Debian's systemd as PID 1 of a container, without a network, on one disk.

Its root is read-only, as a device's should be; what agent and updater write lies in one folder
outside it. Root is needed, and the first time a package index, from which the root is made.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import IO, Final, Self

from packaging.requirements import Requirement

from benchmarks.errors import MissingToolError, RunFailedError
from benchmarks.machine import ROOT

PACKAGES: Final = ("ca-certificates", "dbus", "mosquitto", "mosquitto-clients", "python3",
                   "systemd", "systemd-sysv")  # fmt: skip
STATES: Final = ("edgeslm", "edgeslm-updater")
"""Below /var/lib: all that a device writes."""
STICK: Final = "/run/stick"
_SUITE: Final = "bookworm"
_PYTHON: Final = (3, 11)  # of that suite
_LIBRARIES: Final = "usr/lib/edgeslm"
_LAUNCHER: Final = f'#!/bin/sh\nPYTHONPATH=/{_LIBRARIES} exec python3 -m edgeslm "$@"\n'
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
    needed = ("systemd-nspawn", "nsenter", "mmdebstrap")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)}: make proofs"
    if package() is None and sys.version_info[:2] != _PYTHON:
        return "needs dist/*.deb, or Python 3.11 as the container has: make packages"
    return None


def package() -> Path | None:
    """Return edgeslm's Debian package for this machine, where it was made."""
    done = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=False
    )
    found = sorted((ROOT / "dist").glob(f"edgeslm_*_{done.stdout.strip()}.deb"))
    return found[-1] if found else None


def installed(folder: Path, cache: Path) -> Path:
    """Make a root file system with a broker and edgeslm in it; return it.

    By the Debian package where it was made; else from this checkout and the packages it runs with.

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
    if (deb := package()) is not None:
        shutil.copyfile(deb, folder / "tmp" / deb.name)
        _run("chroot", folder, "dpkg", "--install", f"/tmp/{deb.name}")  # noqa: S108 -- in there
    else:
        _copy_in(folder)
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


def _copy_in(root: Path) -> None:
    """Lay this checkout into a root, with what it runs with, compiled."""
    libraries = root / _LIBRARIES
    for name in _needed("edgeslm", ("update",), set()):
        for file in distribution(name).files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                target = libraries / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "edgeslm", libraries / "edgeslm", ignore=ignored)
    for name in ("device-profiles", "systemd"):
        shutil.copytree(ROOT / name, libraries / "edgeslm" / name)
    launcher = root / "usr" / "bin" / "edgeslm"
    launcher.write_text(_LAUNCHER)
    launcher.chmod(0o755)
    compiled = ("python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash")
    subprocess.run(["chroot", str(root), *compiled, f"/{_LIBRARIES}"], check=False, stdout=-3)


def _needed(name: str, extras: Sequence[str], seen: set[str]) -> Iterator[str]:
    """Yield what a package needs, each once."""
    for line in distribution(name).requires or ():
        wanted = Requirement(line)
        marker = wanted.marker
        if marker is not None and not any(marker.evaluate({"extra": e}) for e in ("", *extras)):
            continue
        if wanted.name not in seen:
            seen.add(wanted.name)
            yield wanted.name
            yield from _needed(wanted.name, tuple(wanted.extras), seen)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(*argv: str | Path, within_s: float = _LIMIT_S) -> str:
    done = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, timeout=within_s, check=False
    )
    if done.returncode:
        said = (done.stderr + done.stdout)[-1500:]
        msg = f"{' '.join(map(str, argv[:8]))}: status {done.returncode}: {said}"
        raise RunFailedError(msg)
    return done.stdout
