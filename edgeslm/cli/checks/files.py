"""Folders and files that the settings name: room, permission, and who else can read secrets."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgeslm.adapters.mqtt_open import password_of
from edgeslm.agent.folders import foreign_file
from edgeslm.cli.checks import Finding, error, ok, warning
from edgeslm.cli.text import megabytes
from edgeslm.contract.base import read_toml
from edgeslm.contract.brokers import Broker
from edgeslm.contract.settings import AgentSettings
from edgeslm.errors import EXIT_UNAVAILABLE

_ROOM_BYTES: Final = {  # beside what the outbox may hold
    "state_dir": 16 * 2**20,  # verdicts, the outbox's log, a little to breathe
    "runtime_dir": 2**20,  # a ring of ids for each model
}
_PROBE: Final = bytes(4096)


def folders(settings: AgentSettings | None) -> Iterator[Finding]:
    """Whether the agent can write where it must, and has room for what it may have to keep."""
    if settings is not None:
        yield _folder("state_dir", settings.state_dir, keeps=_outbox_left(settings))
        yield _folder("runtime_dir", settings.runtime_dir, keeps=0)


def _folder(field: str, folder: Path, *, keeps: int) -> Finding:
    who = f"as user {_user()}"
    try:
        there = first_there(folder)
        if there == folder:
            if (foreign := foreign_file(folder)) is not None:
                return _unusable(field, f"{foreign}: another user's, not writable {who}")
            _write_there(folder)
            can = f"{folder}: writable {who}"
        elif os.access(there, os.W_OK | os.X_OK):
            can = f"{folder}: absent; the agent would make it {who}"
        else:
            return _unusable(field, f"{folder}: absent, and {there} is not writable {who}")
        free = shutil.disk_usage(there).free
    except OSError as err:
        return _unusable(field, f"{folder}: {err.strerror or err}, {who}")
    room = _ROOM_BYTES[field]
    what = f"{can}, {megabytes(free)} free"
    if free < room:
        return _unusable(field, f"{what}, {megabytes(room)} needed")
    if free < room + keeps:
        remedy = "Free disk space, or lower outbox.max_mb: past it results wait, and inputs behind."
        return warning(field, f"{what}, {megabytes(room + keeps)} needed by a full outbox", remedy)
    return ok(field, what)


def _unusable(field: str, found: str) -> Finding:
    remedy = (
        "Make it, give it to the agent's user, free disk space, or set another "
        f"{field}. Under systemd the unit makes it: look as root."
    )
    return error(field, found, remedy, status=EXIT_UNAVAILABLE)


def _outbox_left(settings: AgentSettings) -> int:
    """Bytes that the outbox, which is most of what lies in its folder, may yet grow by."""
    try:
        held = sum(f.stat().st_size for f in settings.state_dir.iterdir() if f.is_file())
    except OSError:
        held = 0
    return max(0, settings.outbox.max_mb * 2**20 - held)


def first_there(folder: Path) -> Path:
    """Return `folder`, or the nearest above it that exists.

    Raises:
        OSError: one on the way is no folder, or cannot be looked at.
    """
    there = folder.absolute()
    while True:
        try:
            mode = there.stat().st_mode
        except FileNotFoundError:
            if there == there.parent:
                raise
            there = there.parent
            continue
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(None, f"{there} is not a folder")
        return folder if there == folder.absolute() else there


def _write_there(folder: Path) -> None:
    """Write a little in `folder`, down to the disk: permission alone does not say that it can.

    Raises:
        OSError: read-only, full, or not ours.
    """
    with tempfile.TemporaryFile(dir=folder, prefix=".doctor.") as file:
        file.write(_PROBE)
        file.flush()
        os.fsync(file.fileno())


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # no name for this number
        return str(os.geteuid())


def settings_file(settings: AgentSettings | None, *, path: Path) -> Iterator[Finding]:
    """What the settings, which are valid, would not do; and a password in a file all may read.

    Raises:
        ConfigError: the file has gone bad since it was read.
    """
    if settings is None:
        return
    yield ok("config", f"{path}: device {settings.device_id}")
    if not settings.models:
        yield warning("config.models", "no model: nothing would be answered", "Add [models.NAME].")
    for name in settings.models:
        if not any(name in route.models for route in settings.routes.values()):
            remedy = f"Name it in a route's models, or remove [models.{name}]."
            yield warning(f"config.models.{name}", "no route leads to it", remedy)
    data = read_toml(path.read_bytes(), file=str(path), remedy="Correct it.")
    tables = (data.get("uplink"), data.get("input"))
    if any(isinstance(table, dict) and "password" in table for table in tables):
        yield from _private("config.password", path)


def secrets(settings: AgentSettings | None) -> Iterator[Finding]:
    """Whether files with passwords and keys are closed to other users."""
    for name, broker in brokers_of(settings):
        files = {
            "password_file": broker.password_file,
            "tls.key_file": broker.tls.key_file if broker.tls else None,
        }
        for field, path in files.items():
            if path is not None:
                yield from _private(f"{name}.{field}", path)
    for field, path in _lets_in(settings):
        yield from _private(f"provision.{field}", path)


def _lets_in(settings: AgentSettings | None) -> Iterator[tuple[str, Path]]:
    """Yield the files by which somebody could be let in as this device."""
    if settings is None or (provision := settings.provision) is None:
        return
    files = {
        "token_file": provision.token_file,
        "factory_key_file": provision.factory_key_file,
        "pkcs11.pin_file": provision.pkcs11.pin_file if provision.pkcs11 else None,
        "broker.password_file": provision.broker.password_file if provision.broker else None,
    }
    yield from ((field, path) for field, path in files.items() if path is not None)


def _private(check: str, path: Path) -> Iterator[Finding]:
    try:
        mode = path.stat().st_mode
    except OSError:  # said where it is read
        return
    if mode & stat.S_IRWXO:
        found = f"{path}: open to every user of this device (mode {stat.S_IMODE(mode):04o})"
        yield warning(check, found, f"chmod o= {shlex.quote(str(path))}")
    else:
        yield ok(check, f"{path}: closed to other users")


def brokers_of(settings: AgentSettings | None) -> Iterator[tuple[str, Broker]]:
    """The brokers that the settings name, each by its table."""
    if settings is not None:
        yield "uplink", settings.uplink
        if settings.input is not None:
            yield "input", settings.input


def unreadable(broker: Broker) -> Iterator[tuple[str, str]]:
    """Yield (field, what is wrong) of the files that a connection to `broker` needs."""
    tls = broker.tls
    files = {
        "password_file": broker.password_file,
        "tls.ca_file": tls.ca_file if tls else None,
        "tls.cert_file": tls.cert_file if tls else None,
        "tls.key_file": tls.key_file if tls else None,
    }
    for field, path in files.items():
        if path is None:
            continue
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block for ever
                yield field, f"{path}: not a file"
                continue
            path.open("rb").close()
        except (OSError, ValueError) as err:  # ValueError: a NUL in the path
            why = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
            yield field, f"{path}: {why}"
            continue
        if field == "password_file":
            try:
                password_of(broker)
            except UnicodeDecodeError as err:
                yield field, f"{path}: not UTF-8 at byte {err.start}"
