"""`make packages`: build what devices install, for each architecture, into dist/."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeslm.cli.main import call
from packages.contents import DEFAULT_REVISION, NAME, PROVIDERS, Build, build_device, build_provider
from packages.tools import ROOT, source_epoch
from packages.wheels import MACHINES, write_hashes

_EPILOG = """\
Times are those of SOURCE_DATE_EPOCH, else of the last commit: the same checkout gives the same
bytes.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Build what was asked for; print each file's path.

    Raises:
        EdgeSLMError: something cannot be built.
    """
    parser = argparse.ArgumentParser(
        prog="python -m packages",
        description="Build Debian packages, their SBOMs, and wheelhouses.",
        epilog=_EPILOG,
    )
    parser.add_argument("--arch", action="append", choices=MACHINES, help="default: each")
    parser.add_argument(
        "--only", action="append", choices=[NAME, *PROVIDERS], help="default: all of these"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="DIR")
    parser.add_argument(
        "--revision", default=DEFAULT_REVISION, help="Debian's, of one version of edgeslm"
    )
    parser.add_argument(
        "--uncompressed", action="store_true", help="packages in seconds, and thrice the size"
    )
    parser.add_argument(
        "--hashes",
        action="store_true",
        help="build nothing: write hashes*.txt, of the versions of constraints.txt",
    )
    args = parser.parse_args(argv)
    if args.hashes:
        wanted = [(arch, one.wheel) for one in PROVIDERS.values() for arch in one.arches]
        sys.stdout.writelines(f"{path}\n" for path in write_hashes(wanted))
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    build = Build(args.out, source_epoch(), args.revision, not args.uncompressed)
    for arch in args.arch or MACHINES:
        for what in args.only or (NAME, *PROVIDERS):
            if what != NAME and arch not in PROVIDERS[what].arches:
                continue
            with tempfile.TemporaryDirectory(prefix="edgeslm-packages-") as work:
                if what == NAME:
                    made = build_device(build, arch, Path(work))
                else:
                    made = build_provider(build, what, arch, Path(work))
            for path in made:
                sys.stdout.write(f"{path}\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(call(__name__, sys.argv[1:], prog="python -m packages"))
