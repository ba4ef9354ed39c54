"""`edgeslm fleet broker-config`: print what a broker is to let devices and the service do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgeslm.cli.fleet import require_extra

_EPILOG: Final = """\
kinds:
  acl               file for `acl_file` of mosquitto: patterns, for every device there will be
  dynamic-security  commands of mosquitto's plug-in as JSON, to be published by its administrator on
                    $CONTROL/dynamic-security/v1; it knows no patterns: --device for each
  mosquitto-ctrl    the same as a script of mosquitto_ctrl

exit status:
  0   printed
  65  a name or a filter cannot stand there, or there is no repository
  78  fleet.toml cannot be used
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = argparse.ArgumentParser(
        prog="edgeslm fleet broker-config",
        description=(__doc__ or "").partition(": ")[2],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "--repository", type=Path, default=Path("fleet"), metavar="DIR", help="default: fleet"
    )
    options.add_argument(
        "--kind", choices=("acl", "dynamic-security", "mosquitto-ctrl"), default="acl"
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
    options.add_argument("--service", metavar="USER", help="default: edgeslm-fleet")
    options.add_argument(
        "--viewer", action="append", default=[], metavar="USER", help="sees what devices say"
    )
    args = options.parse_args(argv)
    if args.kind != "acl" and not args.device:
        options.error(f"--kind {args.kind}: needs --device for each")
    require_extra()
    from edgeslm.fleet import broker_config as made  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.config import load_config  # noqa: PLC0415

    access = made.Access(
        load_config(args.repository).topic_root,
        inputs=args.input,
        devices=args.device,
        service=args.service or made.SERVICE,
        viewers=args.viewer,
    )
    kinds = {
        "acl": made.acl_file,
        "dynamic-security": made.dynamic_security,
        "mosquitto-ctrl": made.mosquitto_ctrl,
    }
    sys.stdout.write(kinds[args.kind](access))
    return 0
