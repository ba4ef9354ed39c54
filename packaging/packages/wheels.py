"""The wheels of a device, those of known hashes, for another architecture than this one too."""

from __future__ import annotations

import io
import re
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from exporters.cache import kept, key_of
from packages import hashes
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
        PackagingError: no wheel of a known hash for that architecture, or no network.
    """
    return _downloaded(arch, list(hashes.read(hashes.DEVICE).values()))


def provider_wheel(arch: str, package: str) -> Path:
    """Return a folder with the wheel of an execution provider, and nothing that it asks for.

    Raises:
        PackagingError: no wheel of a known hash for that architecture, or no network.
    """
    return _downloaded(arch, [hashes.line_of(hashes.PROVIDERS, package)])


def write_hashes(providers: Sequence[tuple[str, str]]) -> list[Path]:
    """Write the hashes of what an index gives now, at the versions of constraints.txt.

    Args:
        providers: architecture and wheel of each.

    Raises:
        PackagingError: no wheel for an architecture, or no network.
    """
    pins = CONSTRAINTS.read_text("utf-8")
    with tempfile.TemporaryDirectory(prefix="edgeslm-hashes-") as work:
        device, provider = Path(work) / "device", Path(work) / "providers"
        for arch in MACHINES:
            _download(device / arch, arch, "--constraint", str(CONSTRAINTS), *asked())
        for arch, package in providers:
            pinned = re.search(rf"^{package}==.*$", pins, re.MULTILINE)
            assert pinned is not None  # noqa: S101 -- a test holds that all are pinned
            _download(provider / arch, arch, "--no-deps", pinned[0])
        return [
            hashes.write(file, folder.glob("*/*.whl"))
            for file, folder in ((hashes.DEVICE, device), (hashes.PROVIDERS, provider))
        ]


def asked() -> list[str]:
    """Return what a device's package asks for, as pyproject.toml says it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]


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


def _downloaded(arch: str, lines: Sequence[str]) -> Path:
    key = key_of([arch.encode(), *(line.encode() for line in lines)])

    def make(folder: Path) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
            listed.write("\n".join(lines))
            listed.flush()
            # The list is whole: nothing is resolved, and what is not in it does not come.
            _download(folder, arch, "--no-deps", "--require-hashes", "--requirement", listed.name)

    return kept("wheels", key, make)


def _download(folder: Path, arch: str, *options: str) -> None:
    call([*_PIP, "download", *_platform(arch), "--dest", str(folder), *options])


def _platform(arch: str) -> list[str]:
    tags = [part for tag in _TAGS for part in ("--platform", f"{tag}_{MACHINES[arch]}")]
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON, *tags]
