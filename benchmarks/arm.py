"""A 64-bit ARM machine inside this one: Debian's Python and our packages under qemu-user.

It proves that a bundle loads there and what it answers; its speed says nothing of a real one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.errors import MissingToolError, RunFailedError

_ROOT: Final = Path(__file__).parents[1]
_SUITE: Final = "bookworm"
_PYTHON: Final = "3.11"  # of the suite
_QEMU: Final = "qemu-aarch64-static"
_DEBIAN: Final = "mmdebstrap"
_PACKAGES: Final = f"python{_PYTHON}-minimal,libpython{_PYTHON}-stdlib,libstdc++6,libgomp1"
_PLATFORMS: Final = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
# Its kernels are chosen by these; qemu's `max` gives wrong int8 sums.
_CPU: Final = "cortex-a72"
# Without it onnxruntime crashes when it is imported.
_CPUINFO: Final = """\
processor\t: 0
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd08

"""
_COMPATIBLE: Final = b"raspberrypi,4-model-b\0brcm,bcm2711\0"
PROFILE: Final = "raspberry-pi-4"
"""The device it passes for."""


def arm_machine(cache: Path) -> ArmMachine:
    """Return the machine in `cache`, made where it is not there yet: half a minute, and a network.

    Raises:
        MissingToolError: a tool is missing, or a download failed.
    """
    for tool, package in ((_QEMU, "qemu-user-static"), (_DEBIAN, _DEBIAN)):
        if shutil.which(tool) is None:
            msg = f"{tool} is not installed (Debian's {package})"
            raise MissingToolError(msg)
    final = cache / f"aarch64-{_SUITE}"
    if not final.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as name:
            fresh = Path(name) / "machine"
            _make(fresh)
            fresh.rename(final)
    return ArmMachine(final)


class ArmMachine:
    """Runs Python programs as a Raspberry Pi 4 would.

    Args:
        folder: holds `root`, a Debian, and `site`, our packages.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self._site = folder / "site"

    def run(self, arguments: Sequence[str], *, stdin: bytes, timeout_s: float) -> bytes:
        """Run Python with `arguments`, on this checkout's edgeslm; return its standard output.

        Raises:
            RunFailedError: it failed; says what it printed last.
        """
        python = self.root / "usr" / "bin" / f"python{_PYTHON}"
        path = os.pathsep.join([str(self._site), str(_ROOT)])
        done = subprocess.run(
            [_QEMU, "-L", str(self.root), str(python), *arguments],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env={
                **os.environ,
                "QEMU_CPU": _CPU,
                "PYTHONPATH": path,
                "PYTHONDONTWRITEBYTECODE": "1",
                "XDG_CACHE_HOME": "",  # no verdict is kept: golden files are replayed
                "HOME": "",
            },
        )
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()[-500:]
            msg = f"exit status {done.returncode} on ARM: {said}"
            raise RunFailedError(msg)
        return done.stdout


def _make(folder: Path) -> None:
    root, site = folder / "root", folder / "site"
    folder.mkdir()
    _call([
        _DEBIAN, "--quiet", "--architectures=arm64", "--variant=extract",
        f"--include={_PACKAGES}", _SUITE, str(root),
    ])  # fmt: skip
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    _call([
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "--only-binary=:all:", "--target", str(site), "--python-version", _PYTHON,
        *(part for name in _PLATFORMS for part in ("--platform", name)),
        "--constraint", str(_ROOT / "packaging" / "constraints.txt"),
        *project["dependencies"],
    ])  # fmt: skip
    tree = root / "proc" / "device-tree"
    tree.mkdir(parents=True)
    (tree / "compatible").write_bytes(_COMPATIBLE)
    (root / "proc" / "cpuinfo").write_text(_CPUINFO)


def _call(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[-300:]
        msg = f"{Path(argv[0]).name} failed: {said}"
        raise MissingToolError(msg)
