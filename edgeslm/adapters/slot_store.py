"""Bundles and their table on disk: the updater's own directory, which the agent may read."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from edgeslm.adapters.fs import flush_folder, is_full, write_durably
from edgeslm.contract.base import parse_json
from edgeslm.contract.slots import BUNDLES, SLOTS_FILE, Slot, SlotName, SlotTable
from edgeslm.core.slots import IllegalStepError, problem, rebuilt, slot, slots_of
from edgeslm.errors import InvalidFileError
from edgeslm.ports import DiskFullError, SlotsUnavailableError, UpdaterRunningError

FOLDER_MODE: Final = 0o750
FILE_MODE: Final = 0o640
"""The agent is in the group: it reads."""
MAX_TABLE_BYTES: Final = 16 * 2**20
LOCK: Final = "lock"
_SLOTS: Final[tuple[SlotName, SlotName]] = ("a", "b")
_BROKEN: Final = frozenset({errno.EIO, errno.ELOOP, errno.ENXIO})  # and no matter of rights
_MODEL: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DAMAGED: Final = f"{SLOTS_FILE}.damaged"
_REMEDY: Final = "It was set aside as slots.json.damaged, and made anew from the bundles there."

Verify = Callable[[Path], Slot | None]
"""Returns what is in a bundle folder, where all of it is whole; None otherwise."""


class SlotsInvalidError(InvalidFileError):
    """slots.json is not a table of ours; it is made anew from the bundles that are whole."""

    code = "slots.invalid"


class FileSlotStore:
    """Implements `edgeslm.ports.SlotStore` in a directory that it alone writes.

    A table that is damaged or lost is made anew from the bundles that are whole, so that the
    device keeps its models; `damaged` then says what was found. What was remembered as bad is
    forgotten with it.

    Args:
        directory: made where it is absent; held until `close`.
        verify: says what a folder holds.

    Raises:
        UpdaterRunningError: another process holds the directory.
        DiskFullError, SlotsUnavailableError: the disk refused.
    """

    def __init__(self, directory: Path, verify: Verify) -> None:
        self.damaged: SlotsInvalidError | None = None
        self._directory = directory
        self._table: SlotTable | None = None
        try:
            directory.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            self._lock = _lock(directory)
        except OSError as err:
            raise refused(err, directory) from None
        try:
            self._tidy()
            self._table = self._load(verify)
        except OSError as err:
            self.close()
            raise refused(err, directory) from None
        except BaseException:
            self.close()
            raise

    def read(self) -> SlotTable:
        if self._table is None:
            try:
                self._table = _parse(self._file) or SlotTable()
            except SlotsInvalidError as err:
                msg = f"{err} Start the updater again."
                raise SlotsUnavailableError(msg) from None
            except OSError as err:
                raise refused(err, self._file) from None
        return self._table

    def write(self, table: SlotTable) -> None:
        self._table = None  # until it is known which of the two is there
        try:
            self._write(table)
        except OSError as err:
            raise refused(err, self._file) from None
        self._table = table

    def folder(self, model: str, slot: SlotName) -> Path:
        return self._directory / BUNDLES / model / slot

    def empty(self, model: str, slot: SlotName) -> Path:
        expect_spare(self.read(), model, slot)
        folder = self.folder(model, slot)
        home = folder.parent
        try:
            make_folder(home)
            gone = home / f".{slot}.gone"
            remove(gone)
            try:
                folder.rename(gone)
            except FileNotFoundError:
                pass
            else:
                remove(gone)
            make_folder(folder)
        except OSError as err:
            raise refused(err, folder) from None
        return folder

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._lock)

    @property
    def _file(self) -> Path:
        return self._directory / SLOTS_FILE

    def _write(self, table: SlotTable) -> None:
        write_durably(self._file, table.model_dump_json().encode(), mode=FILE_MODE)

    def _load(self, verify: Verify) -> SlotTable:
        try:
            table = _parse(self._file)
        except SlotsInvalidError as err:
            self.damaged = err
            aside = self._directory / _DAMAGED
            remove(aside)
            self._file.replace(aside)
            table = None
        if table is None:
            table = _rebuild(self._directory, verify)
            if table.models or self.damaged is not None:
                self._write(table)
        return table

    def _tidy(self) -> None:
        """Remove what a killed process left: temporary files, and slots on their way out."""
        for left in self._directory.glob(f".{SLOTS_FILE}.*"):
            remove(left)
        for home in _homes(self._directory):
            for left in home.glob(".*"):
                remove(left)


class ReadOnlySlots:
    """The same directory for the agent: takes no lock and never writes.

    Args:
        directory: of an updater, which may be writing.
        verify: says what a folder holds, where the table is damaged; None: then there is none.
    """

    def __init__(self, directory: Path, verify: Verify | None = None) -> None:
        self._directory = directory
        self._verify = verify

    def read(self) -> SlotTable:
        """Return the table; an empty one where no updater has ever installed anything.

        Raises:
            SlotsInvalidError: it is damaged, and there is no `verify`.
            SlotsUnavailableError: it cannot be read.
        """
        file = self._directory / SLOTS_FILE
        try:
            try:
                table = _parse(file)
            except SlotsInvalidError:
                if self._verify is None:
                    raise
                table = None
            if table is None and self._verify is not None:
                table = _rebuild(self._directory, self._verify)
        except OSError as err:
            raise refused(err, file) from None
        return table or SlotTable()

    def folder(self, model: str, slot: SlotName) -> Path:
        """Return where a slot's bundle lies, or would: there may be nothing."""
        return self._directory / BUNDLES / model / slot


class MemorySlotStore:
    """Implements `edgeslm.ports.SlotStore` with a table in memory.

    Args:
        root: a folder for the bundles.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._table = SlotTable()

    def read(self) -> SlotTable:
        return self._table

    def write(self, table: SlotTable) -> None:
        self._table = table

    def folder(self, model: str, slot: SlotName) -> Path:
        return self._root / model / slot

    def empty(self, model: str, slot: SlotName) -> Path:
        expect_spare(self._table, model, slot)
        folder = self.folder(model, slot)
        remove(folder)
        folder.mkdir(parents=True)
        return folder


def expect_spare(table: SlotTable, model: str, name: SlotName) -> None:
    """Hold it against the table that a slot may be emptied.

    Raises:
        IllegalStepError: it is active, or whole by the table: that is written first.
    """
    slots = slots_of(table, model)
    held = slot(slots, name)
    if slots.active == name or (held is not None and held.whole):
        msg = f"{model}, slot {name}: is promised by the table"
        raise IllegalStepError(msg)


def make_folder(path: Path) -> None:
    """Make a folder and those above it that the group may enter, whatever the umask; durably.

    It may be there already.

    Raises:
        OSError: the disk refused, or something else is there.
    """
    try:
        path.mkdir(FOLDER_MODE)
    except FileExistsError:
        if path.is_symlink() or not path.is_dir():
            raise
        return
    except FileNotFoundError:
        make_folder(path.parent)
        path.mkdir(FOLDER_MODE)
    mode = path.stat().st_mode
    if stat.S_IMODE(mode) & 0o777 != FOLDER_MODE:
        path.chmod(FOLDER_MODE | mode & stat.S_ISGID)
    flush_folder(path.parent)


def _lock(directory: Path) -> int:
    """Return the open lock file; the kernel lets go of it when the process ends.

    Raises:
        UpdaterRunningError: another process has it.
        OSError: it cannot be made.
    """
    # For the owner alone: whoever can open it can hold it.
    lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        msg = f"{directory}: another updater works here. Stop it, or give another update.dir."
        raise UpdaterRunningError(msg) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _parse(file: Path) -> SlotTable | None:
    """Return the table in `file`; None where there is no such file.

    Raises:
        SlotsInvalidError: it is none, or cannot be read from where it lies.
        OSError: it may not be read.
    """
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as err:
        if err.errno not in _BROKEN:
            raise
        raise _invalid(file, "", str(err)) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _invalid(file, "", "not a file")
    with os.fdopen(fd, "rb") as opened:
        try:
            raw = opened.read(MAX_TABLE_BYTES + 1)
        except OSError as err:
            if err.errno not in _BROKEN:
                raise
            raise _invalid(file, "", str(err)) from None
    if len(raw) > MAX_TABLE_BYTES:
        raise _invalid(file, "", f"longer than {MAX_TABLE_BYTES} bytes")
    table = parse_json(SlotTable, raw, file=str(file), remedy=_REMEDY, error=SlotsInvalidError)
    if why := problem(table):
        field, _, what = why.partition(": ")
        raise _invalid(file, field, what)
    return table


def _invalid(file: Path, field: str, what: str) -> SlotsInvalidError:
    return SlotsInvalidError(str(file), [(field, what)], remedy=_REMEDY)


def _rebuild(directory: Path, verify: Verify) -> SlotTable:
    found: dict[str, dict[SlotName, tuple[Slot, float]]] = {}
    for home in _homes(directory):
        for name in _SLOTS:
            held = verify(home / name)
            if held is not None:
                written = (home / name / "manifest.json").stat().st_mtime
                found.setdefault(home.name, {})[name] = (held, written)
    return rebuilt(found)


def _homes(directory: Path) -> Iterator[Path]:
    """Yield the folder of each model that has one."""
    try:
        names = sorted(os.listdir(directory / BUNDLES))  # noqa: PTH208 -- names are all it takes
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        home = directory / BUNDLES / name
        if _MODEL.fullmatch(name) and home.is_dir():
            yield home


def remove(path: Path) -> None:
    """Remove a file, a link or a folder; it may be absent.

    Raises:
        OSError: the disk refused.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def refused(err: OSError, path: Path) -> DiskFullError | SlotsUnavailableError:
    """Return what an error of the disk is, for whoever works in the updater's directory."""
    where = f"{err.filename or path}: {err.strerror or err}"
    if is_full(err):
        return DiskFullError(f"{where}. Free some space; it is tried again.")
    return SlotsUnavailableError(f"{where}. The updater's user owns it, and its group may read.")
