"""A Debian package of a folder, by dpkg-deb: the same files give the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from packages.tools import call

_MAINTAINER: Final = "The edgeslm authors <authors@edgeslm.invalid>"
_EXECUTABLE: Final = ("usr/bin/*",)
_SCRIPTS: Final = frozenset({"preinst", "postinst", "prerm", "postrm"})
_KIB: Final = 1024
# One thread: with more, xz cuts its input into blocks, and by how many threads there are.
_DPKG_DEB: Final = ("dpkg-deb", "--root-owner-group", "--threads-max=1")
_XZ: Final = ("-Zxz", "-z6")
_NONE: Final = ("-Znone",)


@dataclass(frozen=True, slots=True)
class Package:
    """What the control file says.

    Args:
        name: of the package.
        version: with Debian's revision.
        arch: amd64 or arm64.
        depends: as Debian writes it.
        summary: one line.
        description: paragraphs of it, without the line above.
        recommends: as Debian writes it; empty: nothing.
        scripts: maintainer scripts by name.
    """

    name: str
    version: str
    arch: str
    depends: str
    summary: str
    description: str
    recommends: str = ""
    scripts: Mapping[str, str] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        return f"{self.name}_{self.version}_{self.arch}.deb"

    def control(self, *, installed_kib: int) -> str:
        """Return the control file."""
        fields = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": self.arch,
            "Maintainer": _MAINTAINER,
            "Installed-Size": str(installed_kib),
            "Depends": self.depends,
            "Recommends": self.recommends,
            "Section": "misc",
            "Priority": "optional",
            "Description": "\n".join((self.summary, *map(_folded, self.description.splitlines()))),
        }
        return "".join(f"{key}: {value}\n" for key, value in fields.items() if value)


def write_deb(
    package: Package, root: Path, out: Path, *, epoch: int, compressed: bool = True
) -> Path:
    """Make the package of the files in `root`, which takes modes and times; return its path.

    Args:
        package: what it says of itself.
        root: folder that stands for /.
        out: folder for the package.
        epoch: time of every file, in seconds.
        compressed: by xz, which takes most of a minute; else it is larger, and as good.

    Raises:
        PackagingError: dpkg-deb is missing, or refuses.
    """
    control = root / "DEBIAN"
    control.mkdir()
    files = sorted(path for path in _inside(root) if path.is_file() and not path.is_symlink())
    sums = (
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  "
        f"{path.relative_to(root)}\n"
        for path in files
    )
    (control / "md5sums").write_text("".join(sums))
    (control / "control").write_text(package.control(installed_kib=installed_kib(root)))
    for name, script in package.scripts.items():
        (control / name).write_text(script)
    _settle(root, epoch=epoch)
    path = out / package.file_name
    how = _XZ if compressed else _NONE
    call([*_DPKG_DEB, *how, "--build", str(root), str(path)], env={"SOURCE_DATE_EPOCH": str(epoch)})
    return path


def installed_kib(root: Path) -> int:
    """Return the size of what is installed, as Debian counts it: files in KiB, 1 for all else."""
    return sum(
        -(-path.stat().st_size // _KIB) if path.is_file() and not path.is_symlink() else 1
        for path in _inside(root)
    )


def write_gzip(path: Path, data: bytes) -> None:
    """Write `data` compressed, without name and time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0))


def _inside(root: Path) -> Iterator[Path]:
    """Yield what is installed: all but the control files."""
    for path in root.rglob("*"):
        if path.relative_to(root).parts[0] != "DEBIAN":
            yield path


def _settle(root: Path, *, epoch: int) -> None:
    """Set modes, whatever this user's umask is, and times."""
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            name = path.relative_to(root)
            runs = path.is_dir() or any(name.match(pattern) for pattern in _EXECUTABLE)
            scripts = name.parent.name == "DEBIAN" and name.name in _SCRIPTS
            path.chmod(0o755 if runs or scripts else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def _folded(line: str) -> str:
    return f" {line}" if line else " ."
