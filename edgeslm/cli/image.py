"""`edgeslm image ROOTFS`: lay a working set-up into a device's root file system, offline.

Settings, root of trust, bundles in the updater's slots, users, units that are enabled, and what
the device profile allows them. The same twice gives the same bytes; what is wrong is refused
before anything is written.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgeslm.cli.text import printable
from edgeslm.cli.updates import require_extra
from edgeslm.runtime.profiles import load_profile

# Every archive format can hold it. A bundle of an image is older than whatever comes by update.
_TIME: Final = 315_532_800  # 1980-01-01
_EPILOG: Final = """\
Without --config only the drop-in of the profile is laid: so also on a running device, with / as
ROOTFS. Files are dated by SOURCE_DATE_EPOCH, or 1980. Users that are absent get ids 871 and 872.

exit status:
  0   laid
  65  the root, a bundle or the root of trust does not fit: nothing was written
  75  the disk refused, or files cannot be given owners: the image is as it was
  78  the settings or the profile cannot be used: nothing was written
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="edgeslm image",
        description="Lay a working set-up into a device's root file system, offline.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", type=Path, metavar="ROOTFS", help="folder")
    parser.add_argument("--profile", required=True, metavar="P", help="device profile, or .toml")
    parser.add_argument("--config", type=Path, metavar="F", help="the agent's settings, TOML")
    parser.add_argument(
        "--bundle",
        type=Path,
        action="append",
        default=[],
        metavar="B",
        help="bundle folder, of a model in the settings; may be given more than once",
    )
    parser.add_argument("--root-of-trust", type=Path, metavar="R", help="the fleet's root.json")
    parser.add_argument(
        "--overlay", action="store_true", help="ROOTFS is laid over a root file system"
    )
    args = parser.parse_args(argv)
    if args.config is None and (args.bundle or args.root_of_trust is not None):
        parser.error("--bundle and --root-of-trust need --config")
    require_extra()
    from edgeslm.cli.imaging.plan import Given, plan  # noqa: PLC0415 -- needs the extra
    from edgeslm.cli.imaging.root import lay, restore  # noqa: PLC0415

    given = Given(
        root=args.root,
        overlay=args.overlay,
        profile=load_profile(args.profile),
        profile_file=Path(args.profile) if args.profile.endswith(".toml") else None,
        config=args.config,
        bundles=args.bundle,
        root_of_trust=args.root_of_trust,
    )
    restore(args.root)
    made = plan(given)
    lay(args.root, made.items, time=_time(parser))
    lines = [f"laid      /{item.path}" for item in made.items]
    lines += [f"missing   {what}, to be brought by you" for what in made.missing]
    sys.stdout.write(printable("\n".join(lines)) + "\n")
    return 0


def _time(parser: argparse.ArgumentParser) -> int:
    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    if said and not (said.isascii() and said.isdecimal()):
        parser.error(f"SOURCE_DATE_EPOCH: {said!r} is no number of seconds")
    return int(said) if said else _TIME
