"""What a device downloads and keeps: the Debian package, against the wheels that it is made of."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

from benchmarks.errors import MissingToolError, RunFailedError
from benchmarks.figures import Measured
from benchmarks.machine import ROOT
from benchmarks.setup import Setup

_ARCH: Final = "amd64"
_MB: Final = 1e6
_KIB: Final = 1024
_SAID: Final = 500


def package(setup: Setup) -> dict[str, Measured]:
    """Build it as `make packages` does; the wheels are those of its wheelhouse."""
    if shutil.which("dpkg-deb") is None:
        msg = "dpkg-deb is not installed (Debian's dpkg)"
        raise MissingToolError(msg)
    setup.tell("building the package, which takes minutes")
    out = setup.work / "dist"
    argv = [sys.executable, "-m", "packages", "--arch", _ARCH, "--only", "edgeslm"]
    options = ["--uncompressed"] if setup.quick else []
    _run([*argv, *options, "--out", str(out)])
    (deb,) = out.glob("*.deb")
    (house,) = out.glob("*.tar")
    size = deb.stat().st_size / _MB
    installed = int(_run(["dpkg-deb", "--field", str(deb), "Installed-Size"])) * _KIB / _MB
    packed, unpacked = _wheels(house)
    return {
        "package-size": Measured(size, packed, (size, size)),
        "package-installed": Measured(installed, unpacked, (installed, installed)),
    }


def _wheels(house: Path) -> tuple[float, float]:
    """MB of all wheels as they are downloaded, and unpacked."""
    packed, unpacked = 0, 0
    with tarfile.open(house) as tar:
        for entry in tar:
            packed += entry.size
            wheel = tar.extractfile(entry)
            assert wheel is not None  # noqa: S101 -- there is nothing else in it
            with zipfile.ZipFile(wheel) as archive:
                unpacked += sum(info.file_size for info in archive.infolist())
    return packed / _MB, unpacked / _MB


def _run(argv: list[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "packaging")}
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        msg = f"{Path(argv[0]).name}: {done.stderr.strip()[-_SAID:]}"
        raise RunFailedError(msg)
    return done.stdout
