"""`edgeslm fleet stick --to PATH`: write models and assignments for devices without a network."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from edgeslm.cli.fleet import add_database, note, opened, parser, using_database
from edgeslm.cli.text import megabytes, printable


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser("edgeslm fleet stick", __doc__)
    options.add_argument(
        "--to", type=Path, required=True, metavar="PATH", help="an empty folder, or a file .tar"
    )
    options.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="D",
        help="whose assignment; may be given more than once; all that have one, if absent",
    )
    add_database(options)
    args = options.parse_args(argv)
    repository = opened(args)
    from edgeslm.fleet.stick import write_stick  # noqa: PLC0415 -- needs the extra

    with using_database(args, repository) as engine:
        stick = write_stick(repository, engine, args.to, args.device)
    devices = args.device or "all that have an assignment"
    note(args, repository, "stick.written", to=str(args.to), devices=devices, until=stick.until)
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(stick.until))
    sys.stdout.write(
        printable(
            f"{args.to}: {megabytes(stick.size)}; edgeslm update --from it within "
            f"{round(stick.days, 1):g} days, before {until}: then {stick.ends} expires\n"
        )
    )
    return 0
