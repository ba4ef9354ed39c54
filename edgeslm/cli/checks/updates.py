"""What `edgeslm updater` works with, where the settings have [update]; nothing where not."""

from __future__ import annotations

import contextlib
import pwd
import shutil
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from edgeslm.adapters.clock import SystemClock
from edgeslm.adapters.slot_store import ReadOnlySlots
from edgeslm.cli.checks import Finding, error, guarded, ok, warning
from edgeslm.cli.checks.files import first_there
from edgeslm.cli.text import megabytes
from edgeslm.cli.updates import require_extra
from edgeslm.contract.control import MAX_LINE_BYTES, NEWS, Report
from edgeslm.contract.settings import AgentSettings, UpdateSettings
from edgeslm.contract.slots import SlotTable
from edgeslm.core.slots import committed, slots_of, spare
from edgeslm.core.trust import TRUST
from edgeslm.errors import EXIT_CONFIG, EdgeSLMError, RejectedError
from edgeslm.ports import Clock
from edgeslm.updater.control import SOCKET

_ANSWER_S: Final = 5.0
_DAY_S: Final = 86_400.0
_SOON_DAYS: Final = 30.0
_ROOTS: Final = "root_history"  # where tuf keeps those that it went on to
_FLASH: Final = "Flash the root.json of the device's fleet: `edgeslm fleet keys export-root`."
_EXTRA: Final = "Install it; until then nothing is fetched and no stick is taken."
_RENEW: Final = (
    "Renew the fleet's root (`edgeslm fleet keys renew root`): devices go on from this one to it."
)
_START: Final = "Start the updater: under systemd, edgeslm-updater.service makes it."
_LOOK: Final = "Look as root, or as the agent's user; the updater's group must be the agent's."
_ROOM: Final = "Free disk space, or lower update.min_free_mb: until then an update is put off."


def updates(settings: AgentSettings | None) -> Iterator[Finding]:
    """Whether models could come: who is trusted for them, where they go, and who tries them."""
    if settings is None or settings.update is None:
        return
    update = settings.update
    yield from guarded("update.root", partial(trusted_root, update), remedy=_EXTRA)
    yield from guarded("update.user", partial(_user, update))
    yield from guarded("update.dir", partial(_directory, update))
    yield from guarded("update.space", partial(_space, settings, update))
    yield from guarded("update.agent", partial(_agent, settings.runtime_dir / SOCKET))


def trusted_root(update: UpdateSettings, *, of: Clock | None = None) -> Iterator[Finding]:
    """Whether the root of trust is one, and until when.

    Raises:
        UpdateExtraError: what would read it is not installed.
        ConfigError: it cannot be read.
    """
    require_extra()
    from edgeslm.adapters.tuf import METADATA, root_of  # noqa: PLC0415 -- imports tuf
    from edgeslm.updater.wiring import flashed_root  # noqa: PLC0415 -- as above

    try:
        root = root_of(flashed_root(update))
    except RejectedError as err:
        found = f"{update.root}: {err}"
        yield error("update.root", found, _FLASH, status=EXIT_CONFIG, code=err.code)
        return
    newest = root
    with contextlib.suppress(OSError, ValueError, RejectedError):  # no updater has gone on yet
        known = (update.dir / TRUST / METADATA / _ROOTS).glob("*.root.json")
        last = max(known, key=lambda file: int(file.name.partition(".")[0]))
        newest = max(root, root_of(last.read_bytes()), key=lambda each: each.version)
    left_days = (newest.expires.timestamp() - (of or SystemClock()).wall()) / _DAY_S
    to = f", by which root {newest.version} is trusted" if newest is not root else ""
    until = f"{'good until' if left_days > 0 else 'ended'} {newest.expires:%Y-%m-%d}"
    found = f"{update.root}: root {root.version} of a fleet{to}, {until}"
    if left_days < _SOON_DAYS:
        yield warning("update.root", found, _RENEW)
    else:
        yield ok("update.root", found)


def _user(update: UpdateSettings) -> Iterator[Finding]:
    """Whether there is the user whose orders the agent takes."""
    if update.user is None:
        return
    try:
        pwd.getpwnam(update.user)
    except KeyError:
        found = f"{update.user}: no such user; the agent takes orders of its own user and root"
        yield warning("update.user", found, "Make it, or correct update.user.")
    else:
        yield ok("update.user", f"{update.user} may order the agent about")


def _directory(update: UpdateSettings) -> Iterator[Finding]:
    """Whether the updater's directory can be read, and which models it has committed."""
    try:
        if not update.dir.is_dir():
            yield warning("update.dir", f"{update.dir}: absent; no updater has run", _START)
            return
        table = ReadOnlySlots(update.dir).read()
    except (OSError, EdgeSLMError) as err:
        yield warning("update.dir", f"{update.dir}: {err}", _LOOK)
        return
    yield ok("update.dir", f"{update.dir}: {_held(table)}")


def _held(table: SlotTable) -> str:
    held = {name: committed(table.models[name]) for name in sorted(table.models)}
    said = [f"{name} {s.version} ({s.bundle[:12]})" for name, s in held.items() if s is not None]
    found = ", ".join(said) or "no model committed yet"
    if table.operation is not None:
        found += f"; {table.operation.model or 'a configuration'}: {table.operation.phase}"
    return found


def _space(settings: AgentSettings, update: UpdateSettings) -> Iterator[Finding]:
    """Whether there is room for one more bundle, as large as the largest that is here."""
    try:
        free = shutil.disk_usage(first_there(update.dir)).free
        larger = max(_growth(settings, update), default=0)
    except (OSError, EdgeSLMError):  # said of the directory
        return
    needed = update.min_free_mb * 2**20 + larger
    found = f"{update.dir}: {megabytes(free)} free"
    if free < needed:
        what = f"{found}, {megabytes(needed)} needed by one more bundle like those here"
        yield warning("update.space", what, _ROOM)
    else:
        yield ok("update.space", f"{found}, enough for one more bundle like those here")


def _growth(settings: AgentSettings, update: UpdateSettings) -> Iterator[int]:
    """Yield, by model, the bytes that another bundle like its present one would take."""
    slots = ReadOnlySlots(update.dir)
    table = slots.read()
    for name in settings.models.keys() | table.models.keys():
        held = slots_of(table, name)
        flashed = settings.models[name].bundle if name in settings.models else None
        there = flashed if held.active is None else slots.folder(name, held.active)
        if there is not None:
            # The spare slot is emptied before it is filled.
            yield _bytes(there) - _bytes(slots.folder(name, spare(held)))


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _agent(path: Path) -> Iterator[Finding]:
    """Whether an agent that runs here answers; it speaks first, so that nothing is asked of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        opened.settimeout(_ANSWER_S)
        try:
            opened.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            yield ok("update.agent", f"{path}: no agent runs, so nothing would be tried now")
            return
        except OSError as err:
            found = f"{path}: {err.strerror or err}"
            yield warning("update.agent", found, "Look as root, or as the agent's user.")
            return
        try:
            with opened.makefile("rb") as lines:
                line = lines.readline(MAX_LINE_BYTES)
        except OSError as err:
            found = f"{path}: the agent says nothing: {err.strerror or err}"
            yield warning("update.agent", found, "Look at the agent's log; start it again.")
            return
    if not line:
        found = f"{path}: the agent does not hear this user"
        remedy = "Look as root. Is it the updater's? Set update.user, and start the agent again."
        yield warning("update.agent", found, remedy)
        return
    try:
        news = NEWS.validate_json(line)
    except ValidationError:
        found = f"{path}: what answers is no agent of this version"
        yield warning("update.agent", found, "Install the same version for both, and restart them.")
        return
    if isinstance(news, Report):
        serving = sum(model.state == "serving" for model in news.models)
        found = f"answers; {serving} of {len(news.models)} models serve"
    else:
        found = "answers; its updater is connected"
    yield ok("update.agent", f"{path}: {found}")
