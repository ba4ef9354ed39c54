"""`edgeslm bundle verify BUNDLE`: check a bundle as a device would: files, graph, golden file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from edgeslm.cli.text import megabytes, printable
from edgeslm.runtime.golden import parse_golden
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.placement import fallen, placed, proved
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
        "variant": model.variant,
        "verified": model.verified,
        "node_share": model.node_share,
        "coverage": {name: c.model_dump() for name, c in model.coverages.items()},
        "passed_over": list(model.passed_over),
        "golden_cases": len(parse_golden(model.files.read("golden"))),
    }
    if args.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.write(printable("\n".join(_lines(model, found)) + "\n"))
    return 0


def _lines(model: Model, found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['name']} {found['version']} ({found['hash']})"
    yield f"  files     {found['files']} of {megabytes(found['bytes'])}, as listed"
    yield f"  graph     loads; {model.node_share:.1%} of its nodes on {model.provider}"
    for name, took in model.coverages.items():
        yield f"    {name:<14}  {placed(took, model.provider)}"
        for line in fallen(took):
            yield f"    {'':<14}  {line}"
    yield f"  verified  {proved(model.verified)}, by its exporter"
    yield f"  golden    {found['golden_cases']} cases, answered as expected"
    for reason in model.passed_over:
        yield f"  passed over {reason}"
