"""`edgeslm fleet authority`: who signs devices' certificates, and how another one takes over."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from edgeslm.cli.fleet import add_database, note, opened, parser, using_database
from edgeslm.cli.text import printable

if TYPE_CHECKING:
    from edgeslm.fleet.authority import Authority
    from edgeslm.fleet.repository import Repository

_VERBS: Final = """\
  show     each authority, until when it is good, and how many devices have a certificate of it
  prepare  make the next one. It signs nothing yet: give the broker both (broker-config --kind ca,
           and crl), restart it, and only then
  rotate   have the next one sign. Each device asks for a new certificate at its next run of
           `edgeslm provision`, which is within a day; what they have is good until then
  retire   have the one before be accepted no more, once `show` counts no device of it: give the
           broker `ca` and `crl` again. With --force whatever is counted
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser("edgeslm fleet authority", __doc__)
    options.epilog = f"verbs:\n{_VERBS}\n{options.epilog}"
    options.add_argument("verb", choices=list(_RUN), metavar="VERB")
    options.add_argument(
        "--force", action="store_true", help="retire: though devices have no other certificate"
    )
    options.add_argument("--json", action="store_true", help="show: as one JSON object")
    add_database(options)
    args = options.parse_args(argv)
    repository = opened(args)
    from edgeslm.fleet.authority import Authority  # noqa: PLC0415 -- needs the extra

    _RUN[args.verb](repository, Authority(repository), args)
    return 0


def _show(repository: Repository, authority: Authority, args: Any) -> None:
    from edgeslm.fleet.authority import name_of  # noqa: PLC0415 -- as above

    signing, *before = authority.certificates()
    waiting = authority.waiting()
    standing = [("signs", signing), *(("accepted", each) for each in before)]
    if waiting is not None:
        standing.append(("next", waiting))
    devices = _holders(repository, args)
    rows = [
        {
            "name": name_of(own),
            "state": state,
            "until": own.not_valid_after_utc.strftime("%Y-%m-%d"),
            "devices": devices[name_of(own)],
        }
        for state, own in standing
    ]
    strangers = devices.total() - sum(devices[name_of(own)] for _, own in standing)
    if args.json:
        sys.stdout.write(json.dumps({"authorities": rows, "retired_devices": strangers}) + "\n")
        return
    lines = [
        f"{row['name']}  {row['state']}, good until {row['until']}; {row['devices']} devices"
        for row in rows
    ]
    if strangers:
        lines.append(f"{strangers} devices have a certificate of one that was retired")
    sys.stdout.write(printable("\n".join(lines) + "\n"))


def _holders(repository: Repository, args: Any) -> Counter[str]:
    """Return how many devices have a certificate in force of each authority, by its name."""
    from edgeslm.fleet.database import identities  # noqa: PLC0415 -- as above
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415
    from edgeslm.fleet.shown import issuer_of  # noqa: PLC0415

    now = repository.now()
    with using_database(args, repository) as engine, reading(engine) as conn:
        return Counter(issuer_of(pem) for pem in identities.in_force(conn, now))


def _prepare(repository: Repository, authority: Authority, args: Any) -> None:
    from edgeslm.fleet.authority import name_of  # noqa: PLC0415 -- as above

    name = name_of(authority.prepare())
    note(args, repository, "authority.prepared", name=name)
    _tell(
        f"{name}: is next, and signs nothing yet. Have the broker trust it, and restart it:",
        "  edgeslm fleet broker-config --kind ca",
        "  edgeslm fleet broker-config --kind crl",
        "and then: edgeslm fleet authority rotate",
    )


def _rotate(repository: Repository, authority: Authority, args: Any) -> None:
    from edgeslm.fleet.authority import name_of  # noqa: PLC0415 -- as above

    name = name_of(authority.rotate())
    note(args, repository, "authority.rotated", name=name)
    _tell(
        f"{name}: signs from now on. Devices change within a day; when `show` counts none of "
        "the one before: edgeslm fleet authority retire"
    )


def _retire(repository: Repository, authority: Authority, args: Any) -> None:
    from edgeslm.fleet.authority import name_of  # noqa: PLC0415 -- as above
    from edgeslm.fleet.errors import AuthorityStepError  # noqa: PLC0415

    old = [name_of(own) for own in authority.certificates()[1:]]
    holders = _holders(repository, args)
    if (left := sum(holders[name] for name in old)) and not args.force:
        msg = (
            f"{left} devices have no other certificate yet, and would not get in by it any more. "
            "Wait for them, revoke those that are gone, or --force: by provision.broker they "
            "come back at their next run."
        )
        raise AuthorityStepError(msg)
    names = [name_of(own) for own in authority.retire()]
    note(args, repository, "authority.retired", names=names, devices=left)
    _tell(
        f"{', '.join(names)}: accepted no more. Have the broker forget it, and restart it:",
        "  edgeslm fleet broker-config --kind ca",
        "  edgeslm fleet broker-config --kind crl",
    )


def _tell(*lines: str) -> None:
    sys.stdout.write(printable("\n".join(lines) + "\n"))


_RUN: Final[dict[str, Callable[[Repository, Authority, Any], None]]] = {
    "show": _show,
    "prepare": _prepare,
    "rotate": _rotate,
    "retire": _retire,
}
