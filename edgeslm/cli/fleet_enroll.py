"""`edgeslm fleet enroll`: let devices in, by tokens or factory keys, and list who is."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm.cli.fleet import EPILOG, add_database, note, opened, parser, using_database
from edgeslm.cli.fleet_accounts import utc
from edgeslm.cli.text import positive, printable
from edgeslm.fleet.errors import FleetDiskError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from edgeslm.fleet.database.identities import Enrolled, Issued
    from edgeslm.fleet.repository import Repository

_DAYS: Final = 30.0
_MOST_DAYS: Final = 3650
_USES: Final = """\
uses:
  enroll DEVICE...                    a token for each, shown this once
  enroll --csv FILE [--to FILE]       a batch: columns device and, where it has one, factory_key,
                                      the SHA-256 of its public half (DER, hex) or that half (PEM);
                                      tokens of the others are written to --to. All, or none. The
                                      same command again goes on where it was killed
  enroll --list                       who is enrolled, with certificates, and copies that were seen
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = _options()
    args = options.parse_args(argv)
    if sum((bool(args.devices), args.csv is not None, args.list)) != 1:
        options.error("name DEVICEs, or give --csv or --list")
    if args.csv is None and args.to is not None:
        options.error("--to goes with --csv")
    repository = opened(args)
    with using_database(args, repository) as engine:
        if args.list:
            _list(engine, args)
        else:
            _enrol(repository, engine, args)
    return 0


def _enrol(repository: Repository, engine: Engine, args: argparse.Namespace) -> None:
    from edgeslm.fleet import enrolment  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.authority import Authority  # noqa: PLC0415
    from edgeslm.fleet.database import audit  # noqa: PLC0415

    if args.csv is not None:
        wanted = enrolment.read_batch(_read(args.csv), file=str(args.csv))
        if args.to is None and any(each.key is None for each in wanted):
            problem = ("--to", "missing: some of the devices get tokens, and they must be kept")
            raise enrolment.BatchError(str(args.csv), [problem], remedy="Give --to FILE.")
    else:
        lines = "".join(f"{device}\n" for device in dict.fromkeys(args.devices))
        wanted = enrolment.read_batch(lines.encode(), file="DEVICE")
    authority = Authority(repository)
    if not authority.exists:
        authority.make()
        note(args, repository, "authority.made")
        _tell(f"{repository.folder}: made the authority over devices. Have the broker trust it:")
        _tell("  edgeslm fleet broker-config --kind ca")
    done = enrolment.enrol(
        engine,
        wanted,
        actor=audit.at_terminal(),
        now=repository.now(),
        days=args.days,
        to=args.to,
        again=args.again,
    )
    if args.csv is None:
        for device, token in done.tokens.items():
            sys.stdout.write(printable(f"{device},{token}\n"))
    else:
        where = f"; tokens are in {args.to}" if args.to is not None and done.tokens else ""
        same = f", {done.same} were before" if done.same else ""
        sys.stdout.write(printable(f"{done.new} devices enrolled{same}{where}\n"))


def _list(engine: Engine, args: argparse.Namespace) -> None:
    from edgeslm.fleet.database import identities  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415

    now = time.time()
    with reading(engine) as conn:
        rows = identities.every(conn)
    for enrolled, issued in rows:
        found = _described(enrolled, issued, now)
        sys.stdout.write(printable((json.dumps(found) if args.json else _line(found)) + "\n"))
    if not rows and not args.json:
        sys.stdout.write("no device is enrolled\n")


def _described(enrolled: Enrolled, issued: Issued | None, now: float) -> dict[str, Any]:
    if enrolled.revoked_at is not None:
        state = "revoked"
    elif issued is not None:
        state = "expired" if now > issued.not_after else "active"
    elif enrolled.expires_at is not None and now > enrolled.expires_at:
        state = "token expired"
    else:
        state = "waiting"
    return {
        "device": enrolled.device,
        "state": state,
        "by": enrolled.kind,
        "enrolled_at": enrolled.enrolled_at,
        "serial": issued.serial if issued is not None else None,
        "not_after": issued.not_after if issued is not None else None,
        "clones": enrolled.clones,
        "cloned_at": enrolled.cloned_at,
        "cloned_why": enrolled.cloned_why,
    }


def _line(found: dict[str, Any]) -> str:
    until = f"until {utc(found['not_after'])}" if found["not_after"] is not None else ""
    cloned = ""
    if found["clones"]:
        cloned = f"COPIED, {found['clones']} times seen: {found['cloned_why']}"
    return f"{found['device']:<24}  {found['state']:<13}  {until:<27}  {cloned}".rstrip()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as err:
        msg = f"{file}: {err.strerror or err}. Give --csv a file that can be read."
        raise FleetDiskError(msg) from None


def _tell(line: str) -> None:
    sys.stderr.write(printable(line + "\n"))


def _options() -> argparse.ArgumentParser:
    options = parser("edgeslm fleet enroll", __doc__)
    options.epilog = f"{_USES}\n{EPILOG}"
    options.add_argument("devices", nargs="*", metavar="DEVICE")
    options.add_argument("--csv", type=Path, metavar="FILE", help="a batch")
    options.add_argument("--to", type=Path, metavar="FILE", help="where its tokens go, mode 0600")
    options.add_argument(
        "--days",
        type=positive(_MOST_DAYS, "days"),
        default=_DAYS,
        metavar="N",
        help=f"that tokens are good for (default: {_DAYS:g})",
    )
    options.add_argument(
        "--again", action="store_true", help="also those that are enrolled, or were revoked"
    )
    options.add_argument("--list", action="store_true", help="who is enrolled")
    options.add_argument("--json", action="store_true", help="list: one JSON object a line")
    add_database(options)
    return options
