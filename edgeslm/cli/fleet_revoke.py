"""`edgeslm fleet revoke DEVICE`: end its certificates, and let it in no more."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edgeslm.cli.fleet import add_database, opened, parser, using_database
from edgeslm.cli.text import printable


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser("edgeslm fleet revoke", __doc__)
    options.add_argument("devices", nargs="+", metavar="DEVICE")
    add_database(options)
    args = options.parse_args(argv)
    repository = opened(args)
    from edgeslm.fleet import enrolment  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database import audit  # noqa: PLC0415

    names = sorted(set(args.devices))
    with using_database(args, repository) as engine:
        enrolment.revoke(engine, names, actor=audit.at_terminal(), now=repository.now())
    sys.stdout.write(
        printable(
            f"{', '.join(names)}: revoked. Renewals are refused from now on; for connections, the "
            "broker must know:\n"
            "  edgeslm fleet broker-config              its acl_file: they may do nothing\n"
            "  edgeslm fleet broker-config --kind crl   its crlfile: nor do they get in\n"
            "mosquitto reads the former at SIGHUP, and the latter when it is restarted\n"
        )
    )
    return 0
