"""Hashes of the wheels that go into packages: an index may give the same bytes, or nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from packages.sbom import read_wheel
from packages.tools import ROOT, PackagingError

DEVICE: Final = ROOT / "packaging" / "hashes.txt"
PROVIDERS: Final = ROOT / "packaging" / "hashes-providers.txt"
_HEAD: Final = """\
# Of the wheels in the packages, for each architecture; pip takes no others. Of the versions of
# constraints.txt, made after each change of one by: make packages ARGS=--hashes
"""
_NEXT: Final = " \\\n    "


def read(file: Path) -> Mapping[str, str]:
    """Return the lines of a file of hashes, each a requirement as pip takes it, by package."""
    lines = file.read_text("utf-8").replace(_NEXT, " ").splitlines()
    return {line.partition("==")[0]: line for line in lines if line and line[0] != "#"}


def line_of(file: Path, package: str) -> str:
    """Return the line of a package.

    Raises:
        PackagingError: there is none.
    """
    if (line := read(file).get(package)) is None:
        msg = f"{file.name} has no {package}: make packages ARGS=--hashes"
        raise PackagingError(msg)
    return line


def write(file: Path, wheels: Iterable[Path]) -> Path:
    """Write the hashes of wheels, those of one package and all its architectures together."""
    found: dict[str, set[str]] = defaultdict(set)
    for wheel in wheels:
        one = read_wheel(wheel)
        found[f"{one.name.lower().replace('_', '-')}=={one.version}"].add(one.sha256)
    file.write_text(_HEAD + "".join(_entry(pin, sorted(found[pin])) for pin in sorted(found)))
    return file


def _entry(pin: str, digests: Sequence[str]) -> str:
    return _NEXT.join((pin, *(f"--hash=sha256:{digest}" for digest in digests))) + "\n"
