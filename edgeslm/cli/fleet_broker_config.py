"""`edgeslm fleet broker-config`: print what a broker is to let devices and the service do."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from edgeslm.cli.fleet import add_database, opened, parser, using_database

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from edgeslm.fleet.repository import Repository

HOME_ASSISTANT: Final = "homeassistant"
_EPILOG: Final = """\
kinds:
  acl               file for `acl_file` of mosquitto: patterns, for every device there will be
  dynamic-security  commands of mosquitto's plug-in as JSON, to be published by its administrator on
                    $CONTROL/dynamic-security/v1; it knows no patterns: --device for each
  mosquitto-ctrl    the same as a script of mosquitto_ctrl
  ca                certificates of the authorities over devices, for `cafile`
  crl               certificates of devices that have ended before their time, for `crlfile`

Devices that `edgeslm fleet revoke` named may do nothing: print it anew after each, and have the
broker read it (SIGHUP).

exit status:
  0   printed
  65  a name or a filter cannot stand there, or there is no repository
  75  not now: the authority is not made yet, its key is not there, or the database is down
  78  fleet.toml or the database cannot be used
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser("edgeslm fleet broker-config", __doc__)
    options.epilog = _EPILOG
    add_database(options)
    options.add_argument(
        "--kind", choices=("acl", "dynamic-security", "mosquitto-ctrl", "ca", "crl"), default="acl"
    )
    options.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="FILTER",
        help="topics that devices read their inputs from; %%u in it: the device's id",
    )
    options.add_argument(
        "--device", action="append", default=[], metavar="ID", help="for kinds without patterns"
    )
    options.add_argument(
        "--homeassistant",
        nargs="?",
        const=HOME_ASSISTANT,
        metavar="PREFIX",
        help=f"devices may announce themselves there (default prefix: {HOME_ASSISTANT}); with "
        "--device for each whose id has a dot",
    )
    options.add_argument("--service", metavar="USER", help="default: edgeslm-fleet")
    options.add_argument(
        "--viewer", action="append", default=[], metavar="USER", help="sees what devices say"
    )
    options.add_argument(
        "--operator", action="append", default=[], metavar="USER", help="the same, and judges it"
    )
    args = options.parse_args(argv)
    if args.kind in {"dynamic-security", "mosquitto-ctrl"} and not args.device:
        options.error(f"--kind {args.kind}: needs --device for each")
    repository = opened(args)
    with _database(args, repository) as engine:
        if args.kind in {"ca", "crl"}:
            sys.stdout.write(_of_authority(args.kind, repository, engine))
            return 0
        revoked = _revoked(engine)
        _check_no_devices(engine, [args.service, *args.viewer, *args.operator])
    from edgeslm.fleet import broker_config as made  # noqa: PLC0415 -- needs the extra

    access = made.Access(
        repository.config.topic_root,
        inputs=args.input,
        devices=[device for device in args.device if device not in revoked],
        service=args.service or made.SERVICE,
        viewers=args.viewer,
        operators=args.operator,
        revoked=revoked,
        discovery=args.homeassistant,
    )
    kinds = {
        "acl": made.acl_file,
        "dynamic-security": made.dynamic_security,
        "mosquitto-ctrl": made.mosquitto_ctrl,
    }
    sys.stdout.write(kinds[args.kind](access))
    return 0


@contextlib.contextmanager
def _database(args: argparse.Namespace, repository: Repository) -> Iterator[Engine | None]:
    """Open the fleet's database where there is one: nobody was revoked where there is none."""
    from edgeslm.fleet.config import DATABASE  # noqa: PLC0415 -- needs the extra

    said = args.database or repository.config.database
    if said is None and not (repository.folder / DATABASE).exists():
        yield None
        return
    with using_database(args, repository) as engine:
        yield engine


def _revoked(engine: Engine | None) -> list[str]:
    from edgeslm.fleet.database import identities  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415

    if engine is None:
        return []
    with reading(engine) as conn:
        return identities.revoked(conn)


def _check_no_devices(engine: Engine | None, users: Sequence[str | None]) -> None:
    """Refuse users that are devices, too: whose certificate says that name would be both.

    Raises:
        BrokerConfigError: names them.
    """
    from edgeslm.fleet.broker_config import BrokerConfigError  # noqa: PLC0415 -- as above
    from edgeslm.fleet.database import identities  # noqa: PLC0415
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415

    names = [user for user in users if user is not None]
    if engine is None or not names:
        return
    with reading(engine) as conn:
        taken = identities.among(conn, names)
    if taken:
        msg = f"{', '.join(taken)}: an enrolled device; --service and --viewer are others' names"
        raise BrokerConfigError(msg)


def _of_authority(kind: str, repository: Repository, engine: Engine | None) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 -- as above

    from edgeslm.fleet.authority import Authority  # noqa: PLC0415
    from edgeslm.fleet.database import identities  # noqa: PLC0415
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415

    authority = Authority(repository)
    if kind == "ca":
        known = (own.public_bytes(Encoding.PEM) for own in authority.known())
        return b"".join(known).decode("ascii")
    ended: list[tuple[str, float]] = []
    if engine is not None:
        with reading(engine) as conn:
            ended = identities.ended(conn, repository.now())
    return authority.revoked_list(ended).decode("ascii")
