"""A device's root file system on the machine that builds it, and how things are laid there.

Links are followed as the device would follow them, inside it: an absolute one must never lead to
the files of the machine that builds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from edgeslm.errors import RejectedError, UnavailableError

Owner = tuple[int, int]
ROOT_OWNER: Final[Owner] = (0, 0)
_STAGE: Final = ".edgeslm-image"
_JOURNAL: Final = "journal.json"
_MAX_LINKS: Final = 40
_MAX_TIME_NS: Final = 1 << 62  # in 2116
_PACKAGE_LISTS: Final = "var/lib/dpkg/info"


class ImageRefusedError(RejectedError):
    """What is to be laid into an image does not fit it, or itself; nothing was written."""

    code = "image.refused"


class ImageUnavailableError(UnavailableError):
    """The disk of the image refused; it is as it was before, or will be by the next run."""

    code = "image.unavailable"


@dataclass(frozen=True, slots=True)
class File:
    """One file; what is there is replaced.

    Args:
        path: inside the root, without a leading slash.
        data: all of it.
        mode: its permissions.
        owner: (uid, gid).
        follow: where a link is there, what it leads to is replaced, as who edits the file would.
    """

    path: str
    data: bytes
    mode: int = 0o644
    owner: Owner = ROOT_OWNER
    follow: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link; what is there is replaced."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder that is ours in whole; what is there is replaced, behind a link too.

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

    Everything is written beside first, on the same disk, then moved into its place: a file at once,
    so that there is always the old one or the new. What was there is kept until all of it is laid;
    where a move fails, or the run is killed, `restore` puts it back.

    Args:
        root: of a device.
        items: what; folders above them are made where they are absent.
        time: when all of it was last changed, in seconds since 1970.

    Raises:
        ImageRefusedError: something of another kind is in the way, or two items are in one place.
        ImageUnavailableError: the disk refused.
    """
    restore(root)
    places = [_place(root, item) for item in items]
    _expect_apart(root, places)
    before = _before(root, items, places)
    stage = root / _STAGE
    try:
        stage.mkdir(mode=0o700)
        before.write(stage)
        staged = [_written(stage / str(n), item, time) for n, item in enumerate(items)]
        for path in before.made:
            (root / path).mkdir()
            _settle(root / path, 0o755, ROOT_OWNER, time)
        for new, place in zip(staged, places, strict=True):
            _moved(new, place)
        for path in before.made:
            os.utime(root / path, (time, time))
        before.date(root)
        (stage / _JOURNAL).unlink()  # from here on it is laid
    except BaseException as err:
        restore(root)
        before.date(root)
        if not isinstance(err, OSError):
            raise
        msg = f"{err.filename or root}: {err.strerror or err}. The image is as it was. {_hint(err)}"
        raise ImageUnavailableError(msg) from None
    shutil.rmtree(stage, ignore_errors=True)
    before.date(root)


def restore(root: Path) -> None:
    """Make a root what it was, where a run ended before all was laid; else nothing is done.

    Raises:
        ImageRefusedError: what such a run leaves is there, and is none of ours.
        ImageUnavailableError: the disk refused.
    """
    stage = root / _STAGE
    try:
        if stage.is_symlink():
            stage.unlink()
        before = _Before.read(stage)
        if before is not None:
            _undo(root, before)
            before.date(root)
            (stage / _JOURNAL).unlink()
        shutil.rmtree(stage, ignore_errors=True)
        if before is not None:
            before.date(root)
    except OSError as err:
        msg = f"{err.filename or root}: {err.strerror or err}. Run it again: it begins by undoing."
        raise ImageUnavailableError(msg) from None


@dataclass(frozen=True, slots=True)
class _Before:
    """What a root was, besides what is kept in the stage.

    Args:
        there: of each item its place, and whether something was there.
        made: folders that were not there, the outer before the inner.
        times: of folders, when they were last changed, in ns since 1970.
    """

    there: Sequence[tuple[str, bool]]
    made: Sequence[str]
    times: Mapping[str, int]

    def write(self, stage: Path) -> None:
        """Write it, at once."""
        new = stage / f"{_JOURNAL}.new"
        new.write_text(json.dumps(asdict(self)), "utf-8")
        new.replace(stage / _JOURNAL)

    @classmethod
    def read(cls, stage: Path) -> _Before | None:
        """Return what was written; None: nothing was.

        Raises:
            ImageRefusedError: it is something else.
        """
        file = stage / _JOURNAL
        try:
            said = json.loads(file.read_text("utf-8"))
            there = [(str(path), bool(was)) for path, was in said["there"]]
            times = {str(path): int(at) for path, at in said["times"].items()}
            inside = all(
                PurePosixPath(p).name and ".." not in PurePosixPath(p).parts for p, _ in there
            )
            if not inside or not all(0 <= at < _MAX_TIME_NS for at in times.values()):
                raise ValueError  # noqa: TRY301 -- said once, below
            return cls(there, [str(path) for path in said["made"]], times)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            msg = f"{file}: not written by this command. Start from a clean root."
            raise ImageRefusedError(msg) from None

    def date(self, root: Path) -> None:
        """Make folders as old as they were, so that the same twice is the same."""
        for path, at in self.times.items():
            folder = resolve(root, path)
            if folder.is_dir():
                os.utime(folder, ns=(at, at))


def _before(root: Path, items: Sequence[Item], places: Sequence[Path]) -> _Before:
    """Look at a root that is to be written.

    Raises:
        ImageRefusedError: something of another kind is in the way.
    """
    there: list[tuple[str, bool]] = []
    made: dict[str, None] = {}
    times = {".": root.stat().st_mtime_ns}
    for item, place in zip(items, places, strict=True):
        if not isinstance(item, Tree) and place.is_dir() and not place.is_symlink():
            msg = f"{place}: a folder is where a file should be"
            raise ImageRefusedError(msg)
        there.append((str(place.relative_to(root)), os.path.lexists(place)))
        absent: list[str] = []
        folder = place.parent
        while not os.path.lexists(folder):
            absent.append(str(folder.relative_to(root)))
            folder = folder.parent
        if not folder.is_dir():
            msg = f"{folder}: should be a folder, and is none"
            raise ImageRefusedError(msg)
        made |= dict.fromkeys(reversed(absent))
        times[str(folder.relative_to(root))] = folder.stat().st_mtime_ns
    return _Before(there, list(made), times)


def _undo(root: Path, before: _Before) -> None:
    """Put back what is kept in the stage, and remove what was not there; again, where killed."""
    for n, (path, was) in reversed(list(enumerate(before.there))):
        inside = PurePosixPath(path)
        place = resolve(root, str(inside.parent)) / inside.name
        old = root / _STAGE / f"{n}.old"
        if os.path.lexists(old):
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            old.replace(place)
        elif not was:
            _remove(place)
    for path in reversed(before.made):
        with contextlib.suppress(FileNotFoundError):
            resolve(root, path).rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _place(root: Path, item: Item) -> Path:
    """Return where an item is laid."""
    if isinstance(item, Tree) or (isinstance(item, File) and item.follow):
        return resolve(root, item.path)
    path = PurePosixPath(item.path)
    return resolve(root, str(path.parent)) / path.name


def _expect_apart(root: Path, places: Sequence[Path]) -> None:
    """No item is laid over another, or into it.

    Raises:
        ImageRefusedError: one would be.
    """
    seen = {root}
    for place in places:
        if place in seen:
            msg = f"{place}: two things would be laid there"
            raise ImageRefusedError(msg)
        seen.add(place)
    for place in places:
        for outer in _above(root, place):
            if outer in places:
                msg = f"{place}: would be laid into {outer}, which is laid as well"
                raise ImageRefusedError(msg)


def _above(root: Path, place: Path) -> Iterator[Path]:
    while (place := place.parent) != root:
        yield place


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


def _moved(new: Path, place: Path) -> None:
    """Move what was written to its place, and keep what is there."""
    old = new.with_name(f"{new.name}.old")
    if new.is_dir() and not new.is_symlink():
        if os.path.lexists(place):
            place.rename(old)
    elif os.path.lexists(place):
        os.link(place, old, follow_symlinks=False)
    new.replace(place)


def _hint(err: OSError) -> str:
    if isinstance(err, PermissionError):
        return "Owners can be given by root alone, or under fakeroot or pseudo."
    return "Mend that and run it again."
