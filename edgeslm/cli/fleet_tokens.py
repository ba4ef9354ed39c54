"""`edgeslm fleet tokens`: make, list and revoke tokens of the fleet's API."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from edgeslm.cli.fleet import add_database, database, opened, parser
from edgeslm.cli.fleet_accounts import say, utc
from edgeslm.cli.text import positive

if TYPE_CHECKING:
    from sqlalchemy import Engine

_VERBS: Final = """\
  create ACCOUNT  make a token with the rights of the account, and print it this once
  list [ACCOUNT]  every token, without its secret
  revoke ID       it opens nothing any more
"""
_DAYS: Final = 90.0
_MOST_DAYS: Final = 3650
_DAY_S: Final = 86_400.0


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser("edgeslm fleet tokens", __doc__)
    options.epilog = f"verbs:\n{_VERBS}\n{options.epilog}"
    options.add_argument("verb", choices=list(_RUN), metavar="VERB")
    options.add_argument("name", nargs="?", metavar="ACCOUNT|ID")
    options.add_argument("--label", default="", metavar="TEXT", help="create: what it is for")
    options.add_argument(
        "--days",
        type=positive(_MOST_DAYS, "days"),
        default=_DAYS,
        metavar="N",
        help=f"create: for which it is good (default: {_DAYS:g})",
    )
    options.add_argument("--for-ever", action="store_true", help="create: until it is revoked")
    add_database(options)
    args = options.parse_args(argv)
    if args.name is None and args.verb != "list":
        options.error(f"{args.verb}: which {'ACCOUNT' if args.verb == 'create' else 'ID'}?")
    _RUN[args.verb](database(args, opened(args)), args)
    return 0


def _create(engine: Engine, args: Any) -> None:
    from edgeslm.fleet.access import fingerprint, new_token  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database import accounts, audit  # noqa: PLC0415

    number, token = new_token()
    now = time.time()
    expires = None if args.for_ever else now + args.days * _DAY_S
    made = accounts.Token(
        number, args.name, fingerprint(token), args.label or "made by hand", now, expires
    )
    with engine.begin() as conn:
        accounts.add_token(conn, made)
        actor = audit.at_terminal()
        detail = {"id": number, "account": args.name, "label": made.label}
        audit.record(conn, actor, "token.made", now=now, **detail)
    say(token)


def _list(engine: Engine, args: Any) -> None:
    from edgeslm.fleet.database import accounts  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415

    with reading(engine) as conn:
        found = accounts.tokens_of(conn, args.name)
    for each in found:
        until = "until it is revoked" if each.expires_at is None else f"to {utc(each.expires_at)}"
        used = utc(each.used_at)
        say(f"{each.id}  {each.account}  good {until}, last used: {used}  {each.label}")
    if not found:
        say("none")


def _revoke(engine: Engine, args: Any) -> None:
    from edgeslm.fleet.database import accounts, audit  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database.errors import AccountError  # noqa: PLC0415

    with engine.begin() as conn:
        if not accounts.remove_token(conn, args.name):
            msg = f"{args.name}: there is no token of this id. `edgeslm fleet tokens list` has them"
            raise AccountError(msg)
        audit.record(conn, audit.at_terminal(), "token.revoked", now=time.time(), id=args.name)
    say(f"{args.name}: revoked")


_RUN: Final[dict[str, Callable[[Engine, Any], None]]] = {
    "create": _create,
    "list": _list,
    "revoke": _revoke,
}
