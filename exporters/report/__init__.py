"""What an export says of itself beside its bundle: `coverage.json` and `report.html`.

Made from what was judged and from `tune.json`, where that lies there; never from the clock, so that
the same export gives the same bytes. Times that were taken are in `measurements.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from edgeslm.contract.manifest import Manifest
from exporters.report.content import Content
from exporters.report.page import page

COVERAGE: Final = "coverage.json"
PAGE: Final = "report.html"
TUNE: Final = "tune.json"


def write_reports(folder: Path, content: Content) -> None:
    """Write both into `folder`, where the bundle's folder and its other reports lie."""
    found = coverage(content.manifest, content.bundle_hash)
    (folder / COVERAGE).write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    (folder / PAGE).write_text(page(content, _searches(folder / TUNE)), "utf-8")


def coverage(manifest: Manifest, bundle_hash: str) -> dict[str, Any]:
    """Return who takes how much of each graph of a bundle, and what it must take."""
    variants: dict[str, Any] = {}
    for graph in (a for a in manifest.artifacts if a.role == "graph"):
        variant = variants.setdefault(
            str(graph.variant or graph.stage),
            {
                "provider": graph.provider,
                "precision": graph.precision,
                "verified": graph.verified,
                "placement": graph.placement.model_dump(),
                "graphs": {},
            },
        )
        # Null where nothing that could be asked was here: the device finds it, and says so.
        found = None if graph.coverage is None else graph.coverage.model_dump(mode="json")
        variant["graphs"][graph.path] = found
    return {"bundle": bundle_hash, "profiles": list(manifest.profiles), "variants": variants}


def _searches(file: Path) -> list[dict[str, Any]]:
    """Return the searches for a recipe, one for each provider; see exporters/tune/."""
    if not file.is_file():
        return []
    found: list[dict[str, Any]] = json.loads(file.read_bytes())["searches"]
    return found
