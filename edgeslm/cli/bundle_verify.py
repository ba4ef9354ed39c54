"""`edgeslm bundle verify BUNDLE`: check a bundle as a device would: files, graph, golden file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgeslm.cli.text import megabytes
from edgeslm.runtime.golden import parse_golden
from edgeslm.runtime.model import load_model
from edgeslm.runtime.profiles import load_profile

_EPILOG: Final = """\
exit status:
  0   this device may trust it
  65  it may not: says what is wrong, and what to do
  78  the device profile cannot be used
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="edgeslm bundle verify",
        description=(__doc__ or "").partition(": ")[2],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument("--profile", help="device profile, by name or .toml file")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    args = parser.parse_args(argv)
    model = load_model(
        args.bundle, profile=load_profile(args.profile) if args.profile else None, verdict_dir=None
    )
    manifest = model.bundle.manifest
    size = sum(artifact.size for artifact in manifest.artifacts)
    found = {
        **model.ref,
        "files": len(manifest.artifacts),
        "bytes": size,
        "provider": model.provider,
        "node_share": model.node_share,
        "golden_cases": len(parse_golden(model.files.read("golden"))),
    }
    if args.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.write(
            f"{found['name']} {found['version']} ({found['hash']})\n"
            f"  files   {found['files']} of {megabytes(size)}, as listed\n"
            f"  graph   loads; {model.node_share:.1%} of its nodes on {model.provider}\n"
            f"  golden  {found['golden_cases']} cases, answered as expected\n"
        )
    return 0
