"""`edgeslm bundle inspect BUNDLE`: show what a bundle holds and whether this device can run it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from edgeslm.cli.text import megabytes, printable
from edgeslm.core.support import has_ended
from edgeslm.runtime.bundle import Bundle, open_bundle, read_report
from edgeslm.runtime.device import this_device
from edgeslm.runtime.placement import fallen, placed, proved
from edgeslm.runtime.variants import CPU, NoArtifactError, choose_variant

_EPILOG: Final = """\
Hashes are not checked here: `edgeslm bundle verify` does that.

exit status:
  0   shown
  65  not a bundle: says why
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="edgeslm bundle inspect",
        description=(__doc__ or "").partition(": ")[2],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument("--json", action="store_true", help="all of it, as one JSON object")
    args = parser.parse_args(argv)
    bundle = open_bundle(args.bundle, verify=False)
    runs, why_not, passed_over = _fit(bundle)
    found = {
        "path": str(bundle.path),
        "hash": bundle.hash,
        "bytes": sum(artifact.size for artifact in bundle.manifest.artifacts),
        "runs_here": runs,
        "why_not": why_not,
        "passed_over": passed_over,
        "manifest": bundle.manifest.model_dump(mode="json"),
        "quality": read_report(bundle, "quality"),
    }
    if args.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        sys.stdout.write(printable("\n".join(_lines(bundle, found))) + "\n")
    return 0


def _fit(bundle: Bundle) -> tuple[str | None, str | None, list[str]]:
    """Return the variant (or graph) that this device would run, or why none; which it passes by."""
    try:
        chosen = choose_variant(bundle, device=this_device(), profile=None)
    except NoArtifactError as err:
        return None, str(err), []
    return chosen.name or chosen.graphs[0].path, None, list(chosen.passed_over)


def _lines(bundle: Bundle, found: dict[str, Any]) -> Iterator[str]:
    manifest = found["manifest"]
    base = manifest["base_model"]
    yield f"{manifest['name']} {manifest['version']}: {manifest['task']}, {found['hash']}"
    yield f"  made for     {', '.join(manifest['profiles'])}; by edgeslm {manifest['exporter']}"
    yield f"  made from    {base['source']} ({base['sha256'][:12]})"
    yield f"  reads        {manifest['max_tokens']} tokens"
    if len(bundle.manifest.stages()) > 1:
        yield "  cascade      the first stage hands over what it is not sure of to the second"
    if (until := bundle.manifest.supported_until) is not None:
        over = ", which is over" if has_ended(until, wall=time.time()) else ""
        yield f"  supported    until {until}{over}"
    yield f"  on this one  {found['runs_here'] or found['why_not']}"
    for reason in found["passed_over"]:
        yield f"  passed over  {reason}"
    yield from _graphs(bundle)
    yield f"  files        {megabytes(found['bytes'])}"
    width = max(len(artifact["path"]) for artifact in manifest["artifacts"])
    for artifact in manifest["artifacts"]:
        of = ", ".join(filter(None, (artifact["provider"], artifact["precision"])))
        size = megabytes(artifact["size"])
        yield f"    {artifact['path']:<{width}} {size:>9}  {artifact['role']}{of and f' ({of})'}"
    if found["quality"] is not None:
        yield "  quality"
        yield from _tree(found["quality"], indent=4)


def _graphs(bundle: Bundle) -> Iterator[str]:
    """Yield what the exporter says of each graph: where it ran, and what its provider took."""
    for graph in (a for a in bundle.manifest.artifacts if a.role == "graph"):
        yield f"  graph        {graph.path}: verified {proved(graph.verified)}"
        if graph.coverage is not None:
            yield f"    {placed(graph.coverage, graph.provider or CPU)}"
            yield from (f"    {line}" for line in fallen(graph.coverage))


def _tree(value: Any, *, indent: int) -> Iterator[str]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield f"{'':{indent}}{name}"
            yield from _tree(inner, indent=indent + 2)
        else:
            shown = f"{inner:.6g}" if isinstance(inner, float) else inner
            yield f"{'':{indent}}{name}: {shown}"
