"""A device's root file system on the machine that builds it, and how things are laid there.

Links are followed as the device would follow them, inside it: an absolute one must never lead to
the files of the machine that builds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from edgeslm.errors import RejectedError, UnavailableError

Owner = tuple[int, int]
ROOT_OWNER: Final[Owner] = (0, 0)
_STAGE: Final = ".edgeslm-image"
_MAX_LINKS: Final = 40
_PACKAGE_LISTS: Final = "var/lib/dpkg/info"


class ImageRefusedError(RejectedError):
    """What is to be laid into an image does not fit it, or itself; nothing was written."""

    code = "image.refused"


class ImageUnavailableError(UnavailableError):
    """The disk of the image refused; it is as it was before."""

    code = "image.unavailable"


@dataclass(frozen=True, slots=True)
class File:
    """One file; what is there is replaced.

    Args:
        path: inside the root, without a leading slash.
        data: all of it.
        mode: its permissions.
        owner: (uid, gid).
    """

    path: str
    data: bytes
    mode: int = 0o644
    owner: Owner = ROOT_OWNER


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link; what is there is replaced."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder that is ours in whole; what is there is replaced.

    Args:
        path: inside the root, without a leading slash.
        files: by their paths inside it, from a file or from bytes.
        folder_mode: of all folders.
        file_mode: of all files.
        owner: of all of it.
    """

    path: str
    files: Mapping[str, Path | bytes]
    folder_mode: int
    file_mode: int
    owner: Owner = ROOT_OWNER


Item = File | Link | Tree


def resolve(root: Path, inside: str) -> Path:
    """Return where a path of the device lies, which need not be there.

    Raises:
        ImageRefusedError: its links lead nowhere.
    """
    waiting = list(reversed(PurePosixPath(inside).parts))
    at, links = root, 0
    while waiting:
        part = waiting.pop()
        if part == "/":
            continue
        if part == "..":
            at = at.parent if at != root else root
            continue
        following = at / part
        if not following.is_symlink():
            at = following
            continue
        links += 1
        if links > _MAX_LINKS:
            msg = f"{root / inside}: its links lead in a circle"
            raise ImageRefusedError(msg)
        target = PurePosixPath(following.readlink())
        at = root if target.is_absolute() else at
        waiting += reversed(target.parts)
    return at


def packaged(root: Path) -> frozenset[str]:
    """Return the files, as paths without a leading slash, that a Debian package of ours owns."""
    found: set[str] = set()
    for listed in resolve(root, _PACKAGE_LISTS).glob("edgeslm*.list"):
        lines = listed.read_text("utf-8").splitlines()
        found |= {line.removeprefix("/") for line in lines}
    # What is listed below /lib lies below /usr/lib, where one is a link to the other.
    return frozenset(found | {f"usr/{path}" for path in found if path.startswith("lib/")})


def lay(root: Path, items: Sequence[Item], *, time: int) -> None:
    """Lay all of the items into a root, or none.

    Everything is written beside first, on the same disk, then moved into its place; where a move
    fails, those before it are undone. A killed run is made whole by running it again.

    Args:
        root: of a device.
        items: what; folders above them are made where they are absent.
        time: when all of it was last changed, in seconds since 1970.

    Raises:
        ImageRefusedError: something of another kind is in the way.
        ImageUnavailableError: the disk refused.
    """
    stage = root / _STAGE
    undo: list[Callable[[], object]] = []
    kept = _Times()
    kept.keep(root)
    try:
        if stage.is_symlink():
            stage.unlink()
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(mode=0o700)
        staged = [_written(stage / str(n), item, time) for n, item in enumerate(items)]
        for item, new in zip(items, staged, strict=True):
            parent = _made(root, str(PurePosixPath(item.path).parent), undo, kept, time)
            _moved(new, parent / PurePosixPath(item.path).name, stage, undo)
    except OSError as err:
        _undone(undo)
        msg = f"{err.filename or root}: {err.strerror or err}. The image is as it was. {_hint(err)}"
        raise ImageUnavailableError(msg) from None
    except BaseException:
        _undone(undo)
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        kept.put_back()


class _Times:
    """When folders that were there were last changed, so that the same twice is the same."""

    def __init__(self) -> None:
        self._of: dict[Path, int] = {}

    def keep(self, folder: Path) -> None:
        if folder not in self._of:
            self._of[folder] = folder.stat().st_mtime_ns

    def put_back(self) -> None:
        for folder, at in self._of.items():
            if folder.is_dir():
                os.utime(folder, ns=(at, at))


def _written(new: Path, item: Item, time: int) -> Path:
    """Write an item where it is not yet seen."""
    match item:
        case Link():
            new.symlink_to(item.target)
            os.chown(new, *ROOT_OWNER, follow_symlinks=False)
            os.utime(new, (time, time), follow_symlinks=False)
        case File():
            _put(new, item.data, item.mode, item.owner, time)
        case Tree():
            new.mkdir()
            for path, source in sorted(item.files.items()):
                file = new / path
                file.parent.mkdir(parents=True, exist_ok=True)
                _put(file, source, item.file_mode, item.owner, time)
            for folder, _, _ in os.walk(new, topdown=False):
                _settle(Path(folder), item.folder_mode, item.owner, time)
    return new


def _put(file: Path, source: Path | bytes, mode: int, owner: Owner, time: int) -> None:
    if isinstance(source, Path):
        shutil.copyfile(source, file)
    else:
        file.write_bytes(source)
    _settle(file, mode, owner, time)


def _settle(path: Path, mode: int, owner: Owner, time: int) -> None:
    os.chown(path, *owner)
    path.chmod(mode)
    os.utime(path, (time, time))


def _made(
    root: Path, inside: str, undo: list[Callable[[], object]], kept: _Times, time: int
) -> Path:
    """Return the folder at a path of the device, made where it is absent.

    Raises:
        ImageRefusedError: something else is there.
    """
    folder = resolve(root, inside)
    if folder.is_dir():
        kept.keep(folder)
        return folder
    if os.path.lexists(folder):
        msg = f"{folder}: should be a folder, and is none"
        raise ImageRefusedError(msg)
    _made(root, str(folder.parent.relative_to(root)), undo, kept, time)
    folder.mkdir()
    undo.append(folder.rmdir)
    _settle(folder, 0o755, ROOT_OWNER, time)
    kept.keep(folder)
    return folder


def _moved(new: Path, target: Path, stage: Path, undo: list[Callable[[], object]]) -> None:
    """Move what was written to its place, and what is there aside."""
    if os.path.lexists(target):
        if target.is_dir() and not target.is_symlink() and not new.is_dir():
            msg = f"{target}: a folder is where a file should be"
            raise ImageRefusedError(msg)
        aside = stage / f"{new.name}.old"
        target.rename(aside)
        undo.append(lambda: aside.rename(target))
    new.rename(target)
    undo.append(lambda: target.rename(new))


def _undone(undo: Sequence[Callable[[], object]]) -> None:
    for step in reversed(undo):
        step()


def _hint(err: OSError) -> str:
    if isinstance(err, PermissionError):
        return "Owners can be given by root alone, or under fakeroot or pseudo."
    return "Mend that and run it again."
