"""`edgeslm fleet collect --model NAME --out FILE`: results that came home, for the next export."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm.adapters.fs import write_durably
from edgeslm.cli.fleet import add_database, database, opened, parser
from edgeslm.cli.fleet_rollout import span
from edgeslm.cli.text import printable
from edgeslm.fleet.errors import FleetDiskError, UnknownModelError

if TYPE_CHECKING:
    from sqlalchemy import Connection


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser("edgeslm fleet collect", __doc__)
    options.add_argument("--model", required=True, metavar="NAME", help="whose results")
    options.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSON lines, as edgeslm-export reads",
    )
    options.add_argument(
        "--since",
        type=_moment,
        default=0.0,
        metavar="WHEN",
        help="such as 30d, 12h, 2026-05-01 or 2026-05-01T06:00 (UTC); all, if absent",
    )
    options.add_argument(
        "--judged-only", action="store_true", help="leave out what no person has judged"
    )
    options.add_argument(
        "--device", action="append", metavar="ID", help="of these devices; may come again"
    )
    options.add_argument("--where", metavar="FILTER", help="of devices that match")
    add_database(options)
    args = options.parse_args(argv)
    repository = opened(args)
    engine = database(args, repository)
    from edgeslm.fleet import collect  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database import evidence  # noqa: PLC0415
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415
    from edgeslm.fleet.service.shelf import RepositoryShelf  # noqa: PLC0415

    with reading(engine) as conn:
        devices = _devices(conn, args)
        found = evidence.collected(conn, args.model, since=args.since)
        lines, counts = collect.examples(found, judged_only=args.judged_only, devices=devices)
    if not counts and args.model not in (models := RepositoryShelf(repository).models()):
        msg = f"{args.model}: no such model here. There are: {', '.join(models) or 'none'}"
        raise UnknownModelError(msg)
    said = "; ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    if not lines:
        msg = f"{args.model}: no examples: {said or 'nothing came home'}"
        raise collect.NothingCollectedError(msg)
    try:
        write_durably(args.out, b"".join(lines))
    except OSError as err:
        msg = f"{args.out}: {err.strerror or err}"
        raise FleetDiskError(msg) from None
    note = f"edgeslm fleet collect: {len(lines)} examples in {args.out}: {said}\n"
    sys.stderr.write(printable(note))
    return 0


def _devices(conn: Connection, args: argparse.Namespace) -> Collection[str] | None:
    """Return the devices that are asked for; None: all."""
    from edgeslm.core.filters import parse  # noqa: PLC0415
    from edgeslm.fleet.database import registry  # noqa: PLC0415 -- needs the extra

    named = None if args.device is None else set(args.device)
    if args.where is None:
        return named
    matching = set(registry.ids(conn, parse(args.where), now=time.time()))
    return matching if named is None else named & matching


def _moment(text: str) -> float:
    """Return seconds since 1970 of a moment, or of so long ago."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return time.time() - _ago(text)
    return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()


def _ago(text: str) -> float:
    try:
        return span(text)
    except argparse.ArgumentTypeError as err:
        msg = f"{err}; nor a date such as 2026-05-01 or 2026-05-01T06:00"
        raise argparse.ArgumentTypeError(msg) from None
