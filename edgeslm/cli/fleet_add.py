"""`edgeslm fleet add BUNDLE...`: sign bundles of one version of a model for the fleet."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from edgeslm.cli.fleet import add_database, note, opened, parser
from edgeslm.cli.text import megabytes, printable, whole


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser("edgeslm fleet add", __doc__)
    options.add_argument(
        "bundles", nargs="+", type=Path, metavar="BUNDLE", help="bundle folder, one or more"
    )
    options.add_argument("--model", metavar="NAME", help="refuse bundles of another name")
    options.add_argument(
        "--version", type=whole(1, 2**53), metavar="N", help="refuse bundles of another version"
    )
    options.add_argument("--task", metavar="TASK", help="refuse bundles for another task")
    options.add_argument(
        "--older", action="store_true", help="the version is lower than the newest, and meant so"
    )
    add_database(options)
    args = options.parse_args(argv)
    repository = opened(args)
    from edgeslm.fleet.models import Stated, add  # noqa: PLC0415 -- needs the extra

    stated = Stated(args.model, args.version, args.task, args.older)
    new = add(repository, args.bundles, stated)
    for offer in new:
        profiles = ", ".join(offer.profiles) or "no profile"
        line = f"{offer.model} {offer.version} for {profiles}: {megabytes(offer.size)}, signed\n"
        sys.stdout.write(printable(line))
    if new:
        note(
            args,
            repository,
            "bundles.added",
            model=new[0].model,
            version=new[0].version,
            profiles=sorted({name for offer in new for name in offer.profiles}),
            bundles=[offer.bundle for offer in new],
        )
    else:
        sys.stdout.write("all of it was there already\n")
    return 0
