"""`edgeslm fleet init`: make a fleet's signed repository, and its keys."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from edgeslm.cli.fleet import note, opened, parser, require_extra
from edgeslm.cli.text import printable
from edgeslm.contract.base import problems_of
from edgeslm.contract.topics import DEFAULT_ROOT

_NAMES: Final = (
    *("root-1", "root-2", "root-3"),
    *("targets", "snapshot", "timestamp", "director", "time"),
)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser("edgeslm fleet init", __doc__)
    options.add_argument(
        "--topic-root", default=DEFAULT_ROOT, metavar="TOPIC", help="above the devices' ids"
    )
    options.add_argument(
        "--online-passphrase-file",
        type=Path,
        metavar="FILE",
        help="of the keys that sign daily: snapshot, timestamp, director, time",
    )
    options.add_argument(
        "--key",
        action="append",
        default=[],
        type=_key,
        metavar="NAME=URI",
        help=f"a key in hardware by its PKCS#11 URI; NAME is one of {', '.join(_NAMES)}",
    )
    options.set_defaults(database=None)  # the one that fleet.toml says
    args = options.parse_args(argv)
    require_extra()
    from edgeslm.fleet.config import DATABASE, FleetConfig  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.passphrases import Passphrases  # noqa: PLC0415
    from edgeslm.fleet.repository import init_repository  # noqa: PLC0415

    online = args.online_passphrase_file
    try:
        config = FleetConfig(
            topic_root=args.topic_root,
            online_passphrase_file=str(online.absolute()) if online is not None else None,
        )
    except ValidationError as err:
        options.error(f"--topic-root: {problems_of(err)[0][1]}")
    passphrases = Passphrases(args.passphrase_file)
    init_repository(args.repository, passphrases, config, hardware=dict(args.key))
    folder = args.repository
    if (folder / DATABASE).exists():  # of a repository that is made anew: none is made for this
        note(args, opened(args), "fleet.made", topic_root=args.topic_root)
    sys.stdout.write(
        printable(
            f"{folder}: made\n"
            f"  for devices  edgeslm fleet keys export-root --repository {folder} --to root.json\n"
            f"  keep apart   {folder}/keys/root-*.pem and targets.pem: on sticks, in a safe\n"
            f"  keep copies  of {folder}: without its keys no model can be signed again\n"
        )
    )
    return 0


def _key(text: str) -> tuple[str, str]:
    name, _, uri = text.partition("=")
    if not uri.startswith("pkcs11:"):
        msg = f"{text!r} is not NAME=pkcs11:token=...;id=..."
        raise argparse.ArgumentTypeError(msg)
    if name not in _NAMES:
        msg = f"{name!r}: no key has this name; there are {', '.join(_NAMES)}"
        raise argparse.ArgumentTypeError(msg)
    return name, uri
