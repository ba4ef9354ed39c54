"""`edgeslm fleet token`: let operators silence alarms on devices, by tokens that they send."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from edgeslm.cli.fleet import add_database, note, opened, parser
from edgeslm.cli.fleet_accounts import say, utc
from edgeslm.cli.text import positive

_VERBS: Final = """\
  make OPERATOR  sign a token and print it this once; its id goes into the audit log
  key            print the public key that devices verify by, for [feedback] keys in their
                 settings; made the first time
"""
_DAYS: Final = 30.0
_MOST_DAYS: Final = 3650


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser("edgeslm fleet token", __doc__)
    options.epilog = f"verbs:\n{_VERBS}\n{options.epilog}"
    options.add_argument("verb", choices=("make", "key"), metavar="VERB")
    options.add_argument("name", nargs="?", metavar="OPERATOR")
    for name, what in (("model", "NAME"), ("device", "ID")):
        options.add_argument(
            f"--{name}",
            action="append",
            default=[],
            metavar=what,
            help=f"make: for this {name} alone; may come again",
        )
    options.add_argument(
        "--tag",
        action="append",
        default=[],
        type=_tag,
        metavar="NAME=VALUE",
        help="make: for devices with this tag alone; may come again",
    )
    options.add_argument(
        "--days",
        type=positive(_MOST_DAYS, "days"),
        default=_DAYS,
        metavar="N",
        help=f"make: for which it is good (default: {_DAYS:g})",
    )
    options.add_argument(
        "--new", action="store_true", help="key: make another, which signs from now on"
    )
    add_database(options)
    args = options.parse_args(argv)
    if args.verb == "make" and args.name is None:
        options.error("make: for which OPERATOR?")
    repository = opened(args)
    from edgeslm.fleet import operators  # noqa: PLC0415 -- needs the extra

    if args.verb == "key":
        say(operators.public_key(repository, new=args.new))
        if args.new:
            note(args, repository, "operator_key.made")
        return 0
    claims, token = operators.make_token(
        repository,
        args.name,
        days=args.days,
        models=args.model,
        devices=args.device,
        tags=dict(args.tag),
    )
    say(token)
    note(
        args,
        repository,
        "operator_token.made",
        id=claims.id,
        operator=claims.operator,
        expires=utc(claims.expires),
    )
    return 0


def _tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        msg = f"{text!r} is not NAME=VALUE"
        raise argparse.ArgumentTypeError(msg)
    return name, value
