"""The wheels of a device, at the pinned versions, for another architecture than this one too."""

from __future__ import annotations

import io
import re
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from exporters.cache import kept, key_of
from packages.tools import PYTHON, ROOT, call

MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
"""Architectures as Debian calls them, and as Python does."""
CONSTRAINTS: Final = ROOT / "packaging" / "constraints.txt"
EXTRAS: Final = ("metrics", "proxy", "update")  # a device's own, but for hardware
# The newest is the most that Debian 12's libc takes.
_TAGS: Final = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
_PIP: Final = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def device_wheels(arch: str) -> Path:
    """Return a folder with the wheels that the base package and a device's extras depend on.

    Raises:
        PackagingError: no wheel for that architecture, or no network.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]
    return _downloaded(arch, asked)


def provider_wheel(arch: str, package: str) -> Path:
    """Return a folder with the wheel of an execution provider, and nothing that it asks for.

    Raises:
        PackagingError: no wheel for that architecture, or no network.
    """
    pinned = re.search(rf"^{package}==.*$", CONSTRAINTS.read_text("utf-8"), re.MULTILINE)
    assert pinned is not None  # noqa: S101 -- a test holds that all are pinned
    return _downloaded(arch, [pinned[0]], "--no-deps")


def own_wheel(folder: Path, *, epoch: int) -> Path:
    """Build edgeslm's wheel in `folder`: the same checkout, the same bytes.

    Raises:
        PackagingError: it cannot be built.
    """
    argv = [*_PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), "."]
    call(argv, env={"SOURCE_DATE_EPOCH": str(epoch)})
    (wheel,) = folder.glob("edgeslm-*.whl")
    return wheel


def install(wheels: Sequence[Path], site: Path, *, arch: str) -> None:
    """Unpack `wheels` into the folder `site`, as on a device of that architecture.

    Raises:
        PackagingError: one is for another.
    """
    argv = [*_PIP, "install", "--no-index", "--no-deps", "--no-compile", *_platform(arch)]
    call([*argv, "--target", str(site), *map(str, wheels)])


def write_wheelhouse(name: str, wheels: Sequence[Path], out: Path, *, epoch: int) -> Path:
    """Write `out`/`name`.tar, a folder of that name with the wheels in it."""
    path = out / f"{name}.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for wheel in sorted(wheels, key=lambda wheel: wheel.name):
            data = wheel.read_bytes()
            entry = tarfile.TarInfo(f"{name}/{wheel.name}")
            entry.size, entry.mtime, entry.mode = len(data), epoch, 0o644
            entry.uname = entry.gname = "root"
            tar.addfile(entry, io.BytesIO(data))
    return path


def _downloaded(arch: str, asked: Sequence[str], *options: str) -> Path:
    pins = CONSTRAINTS.read_bytes()
    key = key_of([arch.encode(), *(line.encode() for line in (*asked, *options)), pins])

    def make(folder: Path) -> None:
        argv = [*_PIP, "download", *_platform(arch), *options, "--constraint", str(CONSTRAINTS)]
        call([*argv, "--dest", str(folder), *asked])

    return kept("wheels", key, make)


def _platform(arch: str) -> list[str]:
    tags = [part for tag in _TAGS for part in ("--platform", f"{tag}_{MACHINES[arch]}")]
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON, *tags]
