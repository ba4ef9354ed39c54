"""What an exporter said of a bundle, kept beside the repository for the page that shows it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgeslm.adapters.fs import write_durably

REPORTS: Final = "reports"
PAGE: Final = "report.html"
QUALITY: Final = "quality.json"
MAX_BYTES: Final = 8 * 2**20
_READABLE: Final = 0o644
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of one bundle.

    Args:
        page: report.html, where it was there.
        metrics: by variant, as quality.json has them; empty where it was not there.
        fp32: the same of the model that it was made from.
        cautions: of the exporter, for people.
    """

    page: Path | None = None
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    fp32: Mapping[str, float] = field(default_factory=dict)
    cautions: tuple[str, ...] = ()


def keep(repository: Path, bundle: Path, digest: str) -> None:
    """Copy the reports that lie beside a bundle, and are of it; what is not there is not needed.

    Raises:
        OSError: the disk refused.
    """
    beside = bundle.absolute().parent
    if _quality(beside / QUALITY, digest):
        folder = repository / REPORTS / digest
        folder.mkdir(parents=True, exist_ok=True)
        for file in (beside / PAGE, beside / QUALITY):
            if file.is_file() and file.stat().st_size <= MAX_BYTES:
                write_durably(folder / file.name, file.read_bytes(), mode=_READABLE)


def report_of(repository: Path, digest: str) -> Report:
    """Return what is kept of a bundle; an empty one where nothing is, or it cannot be read."""
    if not _HASH.fullmatch(digest):
        return Report()
    folder = repository / REPORTS / digest
    page = folder / PAGE
    found = _quality(folder / QUALITY, digest)
    variants = found.get("variants")
    cautions = found.get("cautions")
    return Report(
        page=page if page.is_file() else None,
        metrics={
            str(name): _numbers(of.get("artifact") if isinstance(of, dict) else None)
            for name, of in (variants.items() if isinstance(variants, dict) else ())
        },
        fp32=_numbers(found.get("fp32")),
        cautions=tuple(map(str, cautions)) if isinstance(cautions, list) else (),
    )


def _quality(file: Path, digest: str) -> dict[str, Any]:
    """Return what quality.json says of a bundle; {} where it says nothing of this one."""
    found: object = None
    # Of an older exporter, or half restored: as if it were missing.
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if file.stat().st_size <= MAX_BYTES:
            found = json.loads(file.read_bytes())
    return found if isinstance(found, dict) and found.get("bundle") == digest else {}


def _numbers(found: object) -> dict[str, float]:
    if not isinstance(found, dict):
        return {}
    return {
        str(name): float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
