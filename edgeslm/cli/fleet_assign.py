"""`edgeslm fleet assign --device D --model NAME`: say, signed, what a device is to run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgeslm.cli.fleet import add_database, opened, parser, using_database
from edgeslm.cli.text import positive, printable, whole

_MOST_DAYS: Final = 7300  # twenty years


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser("edgeslm fleet assign", __doc__)
    options.add_argument("--device", required=True, metavar="D", help="id of the device")
    options.add_argument("--model", metavar="NAME", help="model to run beside those it has")
    options.add_argument(
        "--version", type=whole(1, 2**53), metavar="N", help="of the model; the newest, if absent"
    )
    options.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="NAME",
        help="model that is assigned no more",
    )
    options.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML: routes, models, outbox, state_interval_s"
    )
    options.add_argument(
        "--no-config", action="store_true", help="the device's own settings hold again"
    )
    options.add_argument(
        "--expires",
        type=positive(_MOST_DAYS, "days"),
        metavar="DAYS",
        help="no install begins after it",
    )
    options.add_argument(
        "--seq", type=whole(1, 2**53), metavar="N", help="its number, where the last one was lost"
    )
    add_database(options)
    args = options.parse_args(argv)
    if args.version is not None and args.model is None:
        options.error("--version: of which --model?")
    if args.config is not None and args.no_config:
        options.error("--config and --no-config: one of them")
    repository = opened(args)
    from edgeslm.fleet.director import (  # noqa: PLC0415 -- needs the extra
        Wish,
        assign,
        is_stranger,
        read_config,
    )

    wish = Wish(
        models={args.model: args.version} if args.model is not None else {},
        without=args.without,
        config=read_config(args.config) if args.config is not None else None,
        configures=args.config is not None or args.no_config,
        days=args.expires,
        seq=args.seq,
    )
    with using_database(args, repository) as engine:
        new = assign(repository, engine, args.device, wish)
        stranger = is_stranger(engine, args.device)
    models = ", ".join(f"{name} {each.version}" for name, each in sorted(new.models.items()))
    config = ", with a configuration" if new.config is not None else ""
    sys.stdout.write(
        printable(f"{new.device}: assignment {new.seq}: {models or 'no model'}{config}\n")
    )
    if stranger:
        said = f"{new.device} has not registered yet; `edgeslm fleet devices` lists those that have"
        sys.stderr.write(printable(f"edgeslm fleet assign: {said}\n"))
    return 0
