"""`edgeslm fleet keys`: list, replace and export the keys of a fleet's repository."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm.adapters.fs import write_durably
from edgeslm.cli.fleet import add_database, note, opened, parser, using_database
from edgeslm.cli.text import printable
from edgeslm.fleet.errors import FleetDiskError

if TYPE_CHECKING:
    from edgeslm.fleet.repository import Repository

_READABLE: Final = 0o644
_VERBS: Final = """\
  list         every key, what it may sign and where it is; how long signatures are good
  rotate KEY   put a new key in its place; both sign until the change is complete
  revoke KEY   the same for a key that is in other hands: it signs nothing any more
  renew ROLE   sign root, targets or model-NAME for another lifetime; all three kinds without ROLE
  export-root  write the root of trust that is flashed into devices
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser("edgeslm fleet keys", __doc__)
    options.epilog = f"verbs:\n{_VERBS}\n{options.epilog}"
    options.add_argument("verb", choices=list(_RUN), metavar="VERB")
    options.add_argument("name", nargs="?", metavar="KEY|ROLE")
    options.add_argument("--key", metavar="URI", help="the new key, in hardware: its PKCS#11 URI")
    options.add_argument("--to", type=Path, metavar="FILE", help="export-root: where to")
    options.add_argument("--json", action="store_true", help="list: as one JSON object")
    add_database(options)
    args = options.parse_args(argv)
    if args.verb in {"rotate", "revoke"} and args.name is None:
        options.error(f"{args.verb}: which KEY? `edgeslm fleet keys list` has them")
    if args.verb == "export-root" and args.to is None:
        options.error("export-root: --to FILE")
    _RUN[args.verb](opened(args), args)
    return 0


def _list(repository: Repository, args: Any) -> None:
    from edgeslm.fleet.rotation import list_keys  # noqa: PLC0415 -- needs the extra

    keys, days = list_keys(repository), repository.lifetimes()
    if args.json:
        rows = [{"name": k.name, "signs": list(k.roles), "where": k.where} for k in keys]
        sys.stdout.write(json.dumps({"keys": rows, "days_left": days}) + "\n")
        return
    lines: list[str] = []
    width = max(len(key.name) for key in keys)
    for key in keys:
        signs = f"signs {', '.join(key.roles)}" if key.roles else "signs nothing any more"
        lines.append(f"{key.name:<{width}}  {signs}; {key.where}")
    lines += [f"{role:<{width}}  {_left(left)}" for role, left in days.items()]
    sys.stdout.write(printable("\n".join(lines) + "\n"))


def _left(days: float) -> str:
    return f"is good for {days:.1f} days" if days > 0 else "has expired: renew it"


def _replace(repository: Repository, args: Any) -> None:
    from edgeslm.fleet.rotation import replace_key  # noqa: PLC0415 -- needs the extra

    with contextlib.ExitStack() as opened_now:
        new = replace_key(
            repository,
            args.name,
            database=lambda: opened_now.enter_context(using_database(args, repository)),
            how=args.verb,
            hardware=args.key,
        )
    done = "rotated" if args.verb == "rotate" else "revoked"
    sys.stdout.write(printable(f"{args.name}: {done}; {new} signs in its place\n"))
    note(args, repository, f"key.{done}", key=args.name, new=new)


def _renew(repository: Repository, args: Any) -> None:
    roles = [args.name] if args.name is not None else list(_renewable(repository))
    repository.renew(roles)
    sys.stdout.write(printable(f"{', '.join(roles)}: signed anew\n"))
    note(args, repository, "roles.renewed", roles=roles)


def _renewable(repository: Repository) -> Iterator[str]:
    return (role for role in repository.lifetimes() if role not in {"snapshot", "timestamp"})


def _export_root(repository: Repository, args: Any) -> None:
    root = repository.export_root()
    try:  # it is public: every device has it
        write_durably(args.to, root, mode=_READABLE)
    except OSError as err:
        msg = f"{args.to}: {err.strerror or err}. Give --to a place that can be written."
        raise FleetDiskError(msg) from None
    sys.stdout.write(printable(f"{args.to}: flash it as update.root of every device\n"))


_RUN: Final[dict[str, Callable[[Repository, Any], None]]] = {
    "list": _list,
    "rotate": _replace,
    "revoke": _replace,
    "renew": _renew,
    "export-root": _export_root,
}
