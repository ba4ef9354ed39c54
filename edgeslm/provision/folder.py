"""`provision.dir`: what is in force, and what is asked for; whatever is killed, one of the two.

current -> 3            a link, replaced in one step
3/key.pem cert.pem identity.json
4/key.pem request.json  while a certificate is asked for: the same is asked again after a kill
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from edgeslm.adapters.fs import flush_folder, remove_unfinished, write_durably
from edgeslm.contract.base import Typed
from edgeslm.contract.fleet import DeviceId, Nonce
from edgeslm.contract.identity import CERT, CURRENT, IDENTITY, KEY, Identity
from edgeslm.provision.errors import ProvisionBusyError, ProvisionDiskError, unusable

LOCK: Final = "lock"
REQUEST: Final = "request.json"
_MAX_BYTES: Final = 16 * 1024
_SETTING: Final = "provision.group"
_GROUP: Final = "Run as root, or as a member of the group."
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}")


class Pending(Typed):
    """A request that was made, and maybe sent."""

    schema_version: Literal[1] = 1
    request: Nonce
    device: DeviceId | None
    anew: bool = False  # by what let it in first, though there is a certificate
    csr: Annotated[str, Field(max_length=6000)]


class Folder:
    """The folder of one device, held by one process.

    Args:
        path: of it.
        group: whose members may read the key; None: its owner alone.
    """

    def __init__(self, path: Path, group: str | None) -> None:
        self.path = path
        self.shared = group is not None
        self._group = group

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make it where it is absent, and hold it.

        Raises:
            ProvisionConfigError: there is no such group, or it is none of ours.
            ProvisionBusyError: another process holds it.
            ProvisionDiskError: it cannot be made, or others may write there.
        """
        with disk(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_own()
        self._share()
        with disk(self.path):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(self.path / LOCK, flags, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                msg = f"{self.path}: another `edgeslm provision` works here. Wait for it."
                raise ProvisionBusyError(msg) from None
            yield
        finally:
            os.close(lock)

    def number(self) -> int:
        """Return the number of what is in force; 0: nothing is."""
        try:
            name = os.readlink(self.path / CURRENT)  # noqa: PTH115 -- the name alone
        except FileNotFoundError:
            return 0
        except OSError as err:
            raise ProvisionDiskError(_said(self.path / CURRENT, err)) from None
        return int(name) if _NUMBER.fullmatch(name) else 0

    @property
    def next(self) -> Path:
        return self.path / str(self.number() + 1)

    def read(self, name: str) -> bytes:
        """Return a file of what is in force.

        Raises:
            ProvisionDiskError: it cannot be read.
        """
        with disk(self.path / CURRENT / name):
            return (self.path / CURRENT / name).read_bytes()

    def tidy(self) -> None:
        """Remove what was in force before, and what was not finished."""
        keep = {str(self.number()), self.next.name}
        with disk(self.path):
            for each in self.path.iterdir():
                if _NUMBER.fullmatch(each.name) and each.name not in keep:
                    shutil.rmtree(each)
            (self.path / CURRENT / REQUEST).unlink(missing_ok=True)
        for each in (self.path, self.next, self.path / CURRENT):
            remove_unfinished(each)

    def pending(self) -> Pending | None:
        """Return the request that was made; None: there is none, or it was not finished."""
        try:
            with (self.next / REQUEST).open("rb") as file:
                return Pending.model_validate_json(file.read(_MAX_BYTES))
        except FileNotFoundError:
            return None
        except ValidationError:  # of a disk that lost it
            return None
        except OSError as err:
            raise ProvisionDiskError(_said(self.next / REQUEST, err)) from None

    def prepare(self, make: Callable[[Path], Pending]) -> Pending:
        """Make a request; `make` puts the key into a new folder.

        Raises:
            ProvisionDiskError: the disk refused.
        """
        folder = self.next
        self.discard()
        with disk(folder):
            self.make(folder)
            pending = make(folder)
            self.write(folder / REQUEST, pending.model_dump_json().encode())
            flush_folder(self.path)
        return pending

    def discard(self) -> None:
        """Forget the request: the fleet has answered that it is none."""
        with disk(self.next), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.next)

    def install(self, certificate: bytes, identity: Identity) -> None:
        """Put what came in force.

        Raises:
            ProvisionDiskError: the disk refused; what was in force still is.
        """
        folder = self.next
        with disk(folder):
            self.write(folder / CERT, certificate)
            self.write(folder / IDENTITY, identity.model_dump_json().encode())
            link = self.path / f".{CURRENT}.{folder.name}"
            link.unlink(missing_ok=True)
            link.symlink_to(folder.name)
            os.replace(link, self.path / CURRENT)  # noqa: PTH105 -- as in adapters/fs.py
            flush_folder(self.path)
        self.tidy()

    def make(self, folder: Path) -> None:
        """Make a folder that those may enter who may read the key, whatever the umask.

        Raises:
            OSError: the disk refused.
        """
        folder.mkdir(mode=0o700, exist_ok=True)
        if self.shared:  # the bit that gives the group on is as the folder above had it
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) & stat.S_ISGID | 0o750)

    def write(self, file: Path, data: bytes) -> None:
        """Write a file that those may read who may read the key.

        Raises:
            OSError: the disk refused.
        """
        write_durably(file, data, mode=0o640 if self.shared else 0o600)

    def write_key(self, folder: Path, pem: bytes) -> None:
        """Write the key of a folder.

        Raises:
            OSError: the disk refused.
        """
        self.write(folder / KEY, pem)

    def _check_own(self) -> None:
        """Refuse a folder in which another could put a key of theirs, or an identity.

        Raises:
            OSError: it cannot be looked at.
            ProvisionDiskError: it is another user's, or others may write there.
        """
        found = self.path.stat()
        if found.st_uid != os.geteuid():
            msg = (
                f"{self.path}: user {found.st_uid}'s, and this is {os.geteuid()}. Run it as its "
                "owner: sudo systemctl start edgeslm-provision"
            )
            raise ProvisionDiskError(msg)
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            msg = f"{self.path}: others may write there. chmod go-w {shlex.quote(str(self.path))}"
            raise ProvisionDiskError(msg)

    def _share(self) -> None:
        """Have all that is made here belong to the group."""
        if self._group is None:
            return
        try:
            number = grp.getgrnam(self._group).gr_gid
        except KeyError:
            raise unusable(_SETTING, f"{self._group}: no such group", remedy=_GROUP) from None
        try:
            if self.path.stat().st_gid != number:
                os.chown(self.path, -1, number)
            # Who has the group as its own makes all in it anyway; its unit may not set the bit.
            self.path.chmod(0o750 if os.getegid() == number else 0o2750)
        except OSError as err:
            what = f"{self.path}: {err.strerror or err}"
            raise unusable(_SETTING, what, remedy=_GROUP) from None


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn what the disk says into an error of ours.

    Raises:
        ProvisionDiskError: it refused.
    """
    try:
        yield
    except OSError as err:
        raise ProvisionDiskError(_said(path, err)) from None


def _said(path: Path, err: OSError) -> str:
    where = err.filename or path
    return f"{where}: {err.strerror or err}. Check who may write there, and that there is room."
