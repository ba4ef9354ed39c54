"""Letting devices in, many at a time: all of them, or none where one cannot be.

A token is written to its file before the database knows its hash. Whoever is killed in between
gives the command again: what is in the file counts, and nothing is made twice.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import os
import re
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from edgeslm.adapters.fs import write_durably
from edgeslm.core.provisioning import RESERVED, FactoryKeyUnknownError, reserved
from edgeslm.errors import InvalidFileError, RejectedError
from edgeslm.fleet.database import audit, identities
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.errors import UnknownDeviceError, some
from edgeslm.fleet.database.identities import Enrolled
from edgeslm.fleet.errors import FleetDiskError
from edgeslm.fleet.issuing import fingerprint
from edgeslm.fleet.shown import factory_key, fingerprint_of

TOKEN_PREFIX: Final = "edp_"  # noqa: S105 -- so that scanners of secrets know one
MAX_BYTES: Final = 64 * 2**20
MAX_DEVICES: Final = 1_000_000
SHOWN: Final = 1000  # lines of a file that are named as wrong
HEAD: Final = ("device", "factory_key")
_DEVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256: Final = re.compile(r"(sha256:)?[0-9a-f]{64}")
_TOKEN: Final = re.compile(r"edp_[A-Za-z0-9_-]{43}")
_REMEDY: Final = "Nobody was enrolled. Correct the lines and give the command again."


class BatchError(InvalidFileError):
    """Lines of a batch cannot be; names each of them, and nobody is enrolled."""

    code = "fleet.batch"


class EnrolledError(RejectedError):
    """Devices are enrolled already, by something else; nobody was enrolled."""

    code = "fleet.enrolled"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One device to let in.

    Args:
        device: its id.
        key: SHA-256 of its factory key; None: it gets a token.
        line: of the file that names it, from 1; 0: no file does.
    """

    device: str
    key: str | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a batch.

    Args:
        new: devices that were let in.
        same: devices that had been let in by the same before.
        tokens: of devices that have one, by device.
    """

    new: int
    same: int
    tokens: dict[str, str]


def read_batch(raw: bytes, *, file: str) -> list[Wanted]:
    """Return the devices that a CSV names: `device`, and `factory_key` where it has one.

    A factory key is the SHA-256 of its public half (DER, hex), or that half itself, PEM in quotes.

    Raises:
        BatchError: names each line that cannot be.
    """
    try:
        if len(raw) > MAX_BYTES:
            raise BatchError(file, [("", f"longer than {MAX_BYTES} bytes")], remedy=_REMEDY)
        rows = csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True)
        return _checked(rows, file)
    except UnicodeDecodeError as err:
        problem = ("", f"not UTF-8 at byte {err.start}")
        raise BatchError(file, [problem], remedy=_REMEDY) from None
    except csv.Error as err:
        raise BatchError(file, [("", f"not CSV: {err}")], remedy=_REMEDY) from None


def read_tokens(file: Path) -> dict[str, str]:
    """Return the tokens that were written to a file before, by device; none where there is none.

    Raises:
        BatchError: it is something else, which is not to be overwritten.
        FleetDiskError: it cannot be read.
    """
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as err:
        msg = f"{file}: {err.strerror or err}. Give --to a place that can be read and written."
        raise FleetDiskError(msg) from None
    remedy = "It holds no tokens, and is left alone: give --to another place."
    lines = raw.decode("utf-8", "replace").splitlines()
    if lines[:1] != ["device,token"]:
        raise BatchError(str(file), [("line 1", "not device,token")], remedy=remedy)
    found: dict[str, str] = {}
    for number, line in enumerate(lines[1:], 2):
        device, _, token = line.partition(",")
        if not _DEVICE.fullmatch(device) or not _TOKEN.fullmatch(token):
            raise BatchError(str(file), [(f"line {number}", "no token")], remedy=remedy)
        found[device] = token
    return found


def enrol(  # noqa: PLR0913 -- by name
    engine: Engine,
    wanted: Sequence[Wanted],
    *,
    actor: audit.Actor,
    now: float,
    days: float,
    to: Path | None = None,
    again: bool = False,
) -> Done:
    """Let devices in: all of them, or none.

    Args:
        engine: of the fleet's database.
        wanted: no two with the same id or key.
        actor: who lets them in.
        now: seconds since 1970.
        days: that a token is good for.
        to: file that tokens are written to, before anybody is let in, and read from where it is
            there; None: the caller shows them.
        again: also those that are enrolled already: they get another token, or another key.

    Raises:
        EnrolledError: some are enrolled already, or a key is another device's.
        BatchError, FleetDiskError: the file of tokens cannot be read or written.
        DatabaseError: not now.
    """
    with contextlib.nullcontext() if to is None else _alone(to.parent):
        return _enrol(engine, wanted, actor=actor, now=now, days=days, to=to, again=again)


def _enrol(  # noqa: PLR0913 -- as above
    engine: Engine,
    wanted: Sequence[Wanted],
    *,
    actor: audit.Actor,
    now: float,
    days: float,
    to: Path | None,
    again: bool,
) -> Done:
    kept = read_tokens(to) if to is not None else {}
    with reading(engine) as conn:
        there = identities.some(conn, [each.device for each in wanted])
    _plan(wanted, kept, there, again=again)
    spent = {_spent(each, now) for each in there.values()}
    tokens = {
        each.device: token
        if (token := kept.get(each.device)) and fingerprint(token) not in spent
        else TOKEN_PREFIX + secrets.token_urlsafe(32)
        for each in wanted
        if each.key is None
    }
    if to is not None and (more := {**kept, **tokens}) != kept:
        _write(to, more)
    with engine.begin() as conn:
        there = identities.some(conn, [each.device for each in wanted])
        rows = [
            Enrolled(
                each.device,
                "token" if each.key is None else "factory_key",
                fingerprint(tokens[each.device]) if each.key is None else each.key,
                enrolled_at=now,
                expires_at=now + days * 86_400 if each.key is None else None,
            )
            for each in wanted
        ]
        _check_free(identities.holders(conn, [row.proof for row in rows]), rows)
        _plan(wanted, tokens, there, again=again)
        new = [row for row in rows if _is_new(row, there.get(row.device), again=again)]
        identities.enrol(conn, new)
        if new:
            names = [row.device for row in new[:SHOWN]]
            detail = {"count": len(new), "devices": names}
            audit.record(conn, actor, "devices.enrolled", now=now, **detail)
    return Done(len(new), len(rows) - len(new), tokens)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder of tokens: two that wrote one file would each forget the other's.

    Raises:
        FleetDiskError: there is none, or it cannot be read.
    """
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError:
            os.close(held)
            raise
    except OSError as err:
        msg = f"{folder}: {err.strerror or err}. Give --to a place that can be read and written."
        raise FleetDiskError(msg) from None
    try:
        yield
    finally:
        os.close(held)


def _plan(
    wanted: Sequence[Wanted],
    tokens: dict[str, str],
    there: dict[str, Enrolled],
    *,
    again: bool,
) -> None:
    """Refuse devices that are enrolled by something else."""
    if again:
        return
    other = []
    for each in wanted:
        known = there.get(each.device)
        if known is None:
            continue
        token = tokens.get(each.device)
        proof = each.key if each.key is not None else fingerprint(token) if token else None
        if known.proof != proof or known.revoked_at is not None:
            other.append(each)
    if other:
        named = (f"{x.device} (line {x.line})" if x.line else x.device for x in other)
        lines = _some(named)
        msg = (
            f"{lines}: enrolled already, or revoked; nobody was enrolled. With --again they get "
            "another token, or the key that is said now."
        )
        raise EnrolledError(msg)


def _check_free(holders: dict[str, str], rows: Iterable[Enrolled]) -> None:
    taken = [row.device for row in rows if holders.get(row.proof, row.device) != row.device]
    if taken:
        msg = f"{_some(taken)}: what is to let it in is another device's; nobody was enrolled."
        raise EnrolledError(msg)


def _is_new(row: Enrolled, known: Enrolled | None, *, again: bool) -> bool:
    if known is None or known.proof != row.proof or known.revoked_at is not None:
        return True
    return again and known.used_at is not None


def _spent(known: Enrolled, now: float) -> str | None:
    """Return the proof of a device, where it lets nobody in any more."""
    over = known.expires_at is not None and now > known.expires_at
    return known.proof if known.used_at or known.revoked_at or over else None


def _write(to: Path, tokens: dict[str, str]) -> None:
    text = "".join(f"{device},{token}\n" for device, token in tokens.items())
    try:
        write_durably(to, f"device,token\n{text}".encode())
    except OSError as err:
        msg = f"{to}: {err.strerror or err}. Nobody was enrolled. Give --to another place."
        raise FleetDiskError(msg) from None


def _checked(rows: Iterable[list[str]], file: str) -> list[Wanted]:
    problems: list[tuple[str, str]] = []
    found: list[Wanted] = []
    for number, row in enumerate(rows, 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and tuple(cells) in {HEAD, HEAD[:1]}):
            continue
        try:
            found.append(_wanted(cells, number))
        except ValueError as err:
            problems.append((f"line {number}", str(err)))
    for column in ("device", "key"):
        values = [getattr(each, column) for each in found]
        counts = Counter(value for value in values if value is not None)
        problems += [
            (f"line {each.line}", f"the {column} of another line, too")
            for each, value in zip(found, values, strict=True)
            if counts[value] > 1
        ]
    if not found and not problems:
        problems = [("", "names no device")]
    if len(found) > MAX_DEVICES:
        problems = [("", f"more than {MAX_DEVICES} devices")]
    if problems:
        problems.sort(key=lambda each: int(each[0].removeprefix("line ") or 0))
        more = len(problems) - SHOWN
        shown = problems[:SHOWN] + ([("", f"and {more} more")] if more > 0 else [])
        raise BatchError(file, shown, remedy=_REMEDY)
    return found


def _wanted(cells: list[str], line: int) -> Wanted:
    """Return what a line says.

    Raises:
        ValueError: says what is wrong with it.
    """
    if len(cells) > len(HEAD):
        msg = f"{len(cells)} columns: device, and factory_key where it has one"
        raise ValueError(msg)
    device, key = (*cells, "")[:2]
    if not _DEVICE.fullmatch(device):
        msg = "not an id: letters, digits, '.', '_', '-', up to 64, the first a letter or digit"
        raise ValueError(msg)
    if reserved(device):
        msg = f"no device's: ids that begin with {' or '.join(RESERVED)} are not given"
        raise ValueError(msg)
    if not key:
        return Wanted(device, line=line)
    if _SHA256.fullmatch(key.lower()):
        return Wanted(device, key.lower().removeprefix("sha256:"), line)
    try:
        return Wanted(device, fingerprint_of(factory_key(key)), line)
    except FactoryKeyUnknownError:
        msg = "factory_key: neither a SHA-256 in hex nor a public key, PEM"
        raise ValueError(msg) from None


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def revoke(engine: Engine, names: Collection[str], *, actor: audit.Actor, now: float) -> None:
    """Let devices in no more, and end their certificates.

    Raises:
        UnknownDeviceError: some were never enrolled; then none is revoked.
    """
    with engine.begin() as conn:
        known = identities.some(conn, names)
        if unknown := sorted(set(names) - set(known)):
            msg = f"{some(unknown)}: not enrolled; none was revoked."
            raise UnknownDeviceError(msg)
        identities.revoke(conn, names, now)
        audit.record(conn, actor, "devices.revoked", now=now, devices=sorted(names))
