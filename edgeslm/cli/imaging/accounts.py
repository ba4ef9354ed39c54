"""The users of a device in a root file system: as they are there, or added."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeslm.cli.imaging import units
from edgeslm.cli.imaging.root import File, ImageRefusedError, Owner, resolve

AGENT: Final = "edgeslm"
UPDATER: Final = "edgeslm-updater"
PROVISIONING: Final = "edgeslm-provision"
GROUP: Final = "edgeslm"
# Where the root has none of these yet. systemd gives ids from 999 downwards, adduser from 100 up.
_GROUP_ID: Final = 871
_USER_IDS: Final = {AGENT: 871, UPDATER: 872, PROVISIONING: 873}
_ID_FIELD: Final = 2


@dataclass(frozen=True, slots=True)
class Accounts:
    """Who owns what.

    Args:
        uids: of each user.
        gid: of the group that they share.
        files: what of /etc changes so that they are there.
    """

    uids: dict[str, int]
    gid: int
    files: tuple[File, ...]

    def owner(self, user: str) -> Owner:
        """Return (uid, gid) of a user's files."""
        return self.uids[user], self.gid

    def sysusers(self) -> bytes:
        """Return the file for systemd-sysusers, with these ids: what is laid is owned by them."""
        text = units.shipped("sysusers.conf").replace(f"g {GROUP} - ", f"g {GROUP} {self.gid} ")
        for user, uid in self.uids.items():
            text = text.replace(f"u {user} -:", f"u {user} {uid}:")
        return text.encode()


def accounts(root: Path) -> Accounts:
    """Return the accounts of a root; of an overlay without /etc/passwd the ids given here.

    Raises:
        ImageRefusedError: another has one of the ids.
    """
    uids, gid = dict(_USER_IDS), _GROUP_ID
    files: list[File] = []
    if not resolve(root, "etc/passwd").is_file():
        return Accounts(uids, gid, ())
    groups, users = _ids(root, "group"), _ids(root, "passwd")
    gid = _chosen(root, GROUP, gid, groups)
    new_group = GROUP not in groups
    uids = {user: _chosen(root, user, uid, users) for user, uid in uids.items()}
    new = [user for user in uids if user not in users]
    if new_group:
        files += _appended(root, "group", [f"{GROUP}:x:{gid}:"])
        files += _appended(root, "gshadow", [f"{GROUP}:!*::"])
    if new:
        home = "{0}:x:{1}:{2}:edgeslm:/var/lib/{0}:/usr/sbin/nologin"
        files += _appended(root, "passwd", [home.format(u, uids[u], gid) for u in new])
        files += _appended(root, "shadow", [f"{user}:!*:::::::" for user in new])
    return Accounts(uids, gid, tuple(files))


def _ids(root: Path, name: str) -> dict[str, int]:
    file = resolve(root, f"etc/{name}")
    found: dict[str, int] = {}
    for line in file.read_text("utf-8").splitlines() if file.is_file() else ():
        fields = line.split(":")
        if len(fields) > _ID_FIELD and fields[_ID_FIELD].isdecimal():
            found[fields[0]] = int(fields[_ID_FIELD])
    return found


def _chosen(root: Path, name: str, wanted: int, there: dict[str, int]) -> int:
    """Return the id of a user or group.

    Raises:
        ImageRefusedError: it is not there, and its id is another's.
    """
    if name in there:
        return there[name]
    if (other := next((n for n, id_ in there.items() if id_ == wanted), None)) is not None:
        msg = f"{root}: {other} has id {wanted}. Add {name} there with another, and run it again."
        raise ImageRefusedError(msg)
    return wanted


def _appended(root: Path, name: str, lines: list[str]) -> list[File]:
    """Return a file of /etc with lines at its end; nothing where there is no such file."""
    file = resolve(root, f"etc/{name}")
    if not file.is_file():
        return []
    status = file.stat()
    text = file.read_text("utf-8")
    text += "" if text.endswith("\n") or not text else "\n"
    data = (text + "\n".join(lines) + "\n").encode()
    mode = status.st_mode & 0o7777
    owner = status.st_uid, status.st_gid
    return [File(f"etc/{name}", data, mode, owner, follow=True)]
