"""`edgeslm fleet accounts`: say who may use the fleet's page and API."""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm.cli.fleet import add_database, database, opened, parser
from edgeslm.cli.text import printable

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from edgeslm.fleet.database.accounts import Role

_VERBS: Final = """\
  add NAME       make an account; there is none to begin with
  list           every account, and what it may
  role NAME      let it do more, or less: --role
  password NAME  set a new password, and forget the wrong ones; it is signed out everywhere
  disable NAME   it may nothing any more, and neither may its tokens
  enable NAME    it may again
  remove NAME    remove it, with its tokens
"""
_MAX_BYTES: Final = 4096


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser("edgeslm fleet accounts", __doc__)
    options.epilog = f"verbs:\n{_VERBS}\n{options.epilog}"
    options.add_argument("verb", choices=list(_RUN), metavar="VERB")
    options.add_argument("name", nargs="?", metavar="NAME")
    options.add_argument(
        "--role",
        choices=("viewer", "operator"),
        help="viewer: sees all and changes nothing (the default of add); operator: rolls out",
    )
    options.add_argument(
        "--password-file", type=Path, metavar="FILE", help="its password; else it is asked for"
    )
    add_database(options)
    args = options.parse_args(argv)
    if (args.name is None) != (args.verb == "list"):
        options.error(f"{args.verb}: {'no NAME' if args.verb == 'list' else 'which NAME?'}")
    if args.verb == "role" and args.role is None:
        options.error("role: --role viewer, or --role operator")
    _RUN[args.verb](database(args, opened(args)), args)
    return 0


def utc(at: float | None) -> str:
    """Return a time for people."""
    return "never" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def say(*lines: str) -> None:
    """Print lines that may hold anybody's text."""
    sys.stdout.writelines(printable(f"{line}\n") for line in lines)


def _add(engine: Engine, args: Any) -> None:
    from edgeslm.fleet.access import check_name  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database import accounts, audit  # noqa: PLC0415

    check_name(args.name)
    kept, now = _hashed(args), time.time()
    role: Role = args.role or "viewer"
    with engine.begin() as conn:
        accounts.create(conn, args.name, role, kept, now=now)
        actor = audit.at_terminal()
        audit.record(conn, actor, "account.added", now=now, name=args.name, role=role)
    say(f"{args.name}: {role}")


def _list(engine: Engine, args: Any) -> None:
    del args
    from edgeslm.fleet.database import accounts  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415

    with reading(engine) as conn:
        found = accounts.every(conn)
    for each in found:
        state = ", disabled" if each.disabled else ""
        say(f"{each.name}  {each.role}{state}, since {utc(each.created_at)}")
    if not found:
        say("none: edgeslm fleet accounts add NAME --role operator")


def _change(engine: Engine, args: Any, what: str, **values: Any) -> None:
    from edgeslm.fleet.database import accounts, audit  # noqa: PLC0415 -- needs the extra

    with engine.begin() as conn:
        accounts.change(conn, args.name, **values)
        shown = {key: value for key, value in values.items() if key == "role"}
        actor = audit.at_terminal()
        audit.record(conn, actor, what, now=time.time(), name=args.name, **shown)
    say(f"{args.name}: done, and signed out everywhere")


def _role(engine: Engine, args: Any) -> None:
    _change(engine, args, "account.role", role=args.role)


def _password(engine: Engine, args: Any) -> None:
    from edgeslm.fleet.access import of_account  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database import accounts  # noqa: PLC0415

    _change(engine, args, "account.password", password=_hashed(args))
    with engine.begin() as conn:
        accounts.forgive(conn, of_account(args.name))


def _disable(engine: Engine, args: Any) -> None:
    _change(engine, args, "account.disabled", disabled=True)


def _enable(engine: Engine, args: Any) -> None:
    _change(engine, args, "account.enabled", disabled=False)


def _remove(engine: Engine, args: Any) -> None:
    from edgeslm.fleet.database import accounts, audit  # noqa: PLC0415 -- needs the extra

    with engine.begin() as conn:
        accounts.remove(conn, args.name)
        actor = audit.at_terminal()
        audit.record(conn, actor, "account.removed", now=time.time(), name=args.name)
    say(f"{args.name}: removed")


def _hashed(args: Any) -> str:
    """Return what is kept of the password that a file has, or somebody types twice.

    Raises:
        PasswordRefusedError: there is none, or it is no good.
    """
    from edgeslm.fleet.access import (  # noqa: PLC0415 -- needs the extra
        PasswordRefusedError,
        Passwords,
        check_new,
    )

    if args.password_file is not None:
        password = _read(args.password_file)
    elif sys.stdin is not None and sys.stdin.isatty():
        password = getpass.getpass(f"Password of {args.name}: ")
        if password != getpass.getpass("The same again: "):
            msg = "the two passwords are not the same; nothing was changed. Try again."
            raise PasswordRefusedError(msg)
    else:
        msg = "no password was given and there is no terminal. Use --password-file."
        raise PasswordRefusedError(msg)
    check_new(args.name, password)
    return Passwords().hashed(password)


def _read(file: Path) -> str:
    from edgeslm.fleet.access import PasswordRefusedError  # noqa: PLC0415 -- needs the extra

    try:
        with file.open("rb") as opened_:
            raw = opened_.read(_MAX_BYTES + 1)
        return raw[:_MAX_BYTES].decode().removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError) as err:  # ValueError: no UTF-8, or a NUL in the path
        what = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        msg = f"{file}: {what}. It should hold a password."
        raise PasswordRefusedError(msg) from None


_RUN: Final[dict[str, Callable[[Engine, Any], None]]] = {
    "add": _add,
    "list": _list,
    "role": _role,
    "password": _password,
    "disable": _disable,
    "enable": _enable,
    "remove": _remove,
}
