"""`edgeslm fleet database`: say which schema the fleet's database has, or bring it to this one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

from edgeslm.cli.fleet import add_database, opened, parser
from edgeslm.cli.text import printable

_VERBS: Final = """\
  show     where it is, and which schema it has
  upgrade  bring its schema to what this version works with, in one transaction; SQLite's is by any
           command that opens it. Stop all that use it first, and keep a copy
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser("edgeslm fleet database", __doc__)
    options.epilog = f"verbs:\n{_VERBS}\n{options.epilog}"
    options.add_argument("verb", choices=("show", "upgrade"), metavar="VERB")
    add_database(options)
    args = options.parse_args(argv)
    sys.stdout.write(printable(_said(args)))
    return 0


def _said(args: Any) -> str:
    repository = opened(args)
    from edgeslm.fleet.config import database_url  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database import migrate  # noqa: PLC0415
    from edgeslm.fleet.database.engine import connect, shown  # noqa: PLC0415

    engine = connect(args.database or database_url(repository.config, repository.folder))
    name = shown(engine.url)
    try:
        if args.verb == "upgrade":
            was = migrate.upgrade(engine, name)
            if was == migrate.REVISION:
                return f"{name}: schema {was} already\n"
            return f"{name}: schema {migrate.REVISION}, was {was or 'empty'}\n"
        with engine.connect() as conn:
            found = migrate.revision(conn, name)
    finally:
        engine.dispose()
    return f"{name}: {f'schema {found}' if found else 'empty'}; this version: {migrate.REVISION}\n"
