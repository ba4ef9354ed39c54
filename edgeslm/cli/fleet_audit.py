"""`edgeslm fleet audit`: say who did what, newest first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from edgeslm.cli.fleet import add_database, database, opened, parser
from edgeslm.cli.fleet_accounts import say, utc
from edgeslm.cli.text import whole


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser("edgeslm fleet audit", __doc__)
    options.add_argument("--who", metavar="NAME", help="what this account, or user, did")
    options.add_argument("--limit", type=whole(1, 100_000), default=50, metavar="N")
    options.add_argument("--json", action="store_true", help="a JSON object on each line")
    add_database(options)
    args = options.parse_args(argv)
    engine = database(args, opened(args))
    from edgeslm.fleet.database import audit, pages  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415

    with reading(engine) as conn:
        if args.who is not None:
            found = pages.done_by(conn, args.who, limit=args.limit)
        else:
            found = audit.entries(conn, limit=args.limit)
    for each in found:
        if args.json:
            say(json.dumps(asdict(each)))
        else:
            detail = ", ".join(
                f"{key}: {audit.in_words(value)}" for key, value in each.detail.items()
            )
            say(f"{utc(each.at)}  {each.who} ({each.by})  {each.what}  {detail}")
    return 0
