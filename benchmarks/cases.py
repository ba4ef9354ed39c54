"""The evaluation cases: JSON lines that do not ship with edgeslm; see docs/benchmarks.md."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks.errors import MissingDataError
from benchmarks.setup import Setup
from exporters.data import Row, read_rows


def path(setup: Setup, case: str, part: str) -> Path:
    """Return the file of one part of a case.

    Raises:
        MissingDataError: it is not there.
    """
    found = setup.data / case / f"{part}.jsonl"
    if not found.is_file():
        msg = f"{found}: missing; docs/benchmarks.md says how to make the evaluation cases"
        raise MissingDataError(msg)
    return found


def rows(setup: Setup, case: str, part: str) -> list[Row]:
    """Return the lines of one part of a case, in order.

    Raises:
        MissingDataError: the file is not there.
        DataError: lines of it are not examples; names them.
    """
    return read_rows(path(setup, case, part))


def to_jsonl(lines: Iterable[Row]) -> bytes:
    """Return rows as the exporter reads them."""
    objects = ({k: v for k, v in dataclasses.asdict(r).items() if v is not None} for r in lines)
    return "".join(json.dumps(o, ensure_ascii=False) + "\n" for o in objects).encode("utf-8")
