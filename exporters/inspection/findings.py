"""What was found: how often, where it is worst, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from exporters.data import Row

WORST: Final = 20
"""Offenders of one kind that a report lists, the worst first."""
_SHOWN: Final = 3  # of them, in a sentence
_TEXT: Final = 200  # characters of a text that are quoted
_LABEL: Final = 60  # of a label, in a sentence

Offender = Mapping[str, str | int | float]
"""A line, a pair of lines or a label, as columns of a table: name -> value."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of trouble.

    Args:
        kind: stable name.
        what: what there is `count` of, for a sentence that begins with it.
        count: how many.
        worst: at most `WORST` of them, the worst first.
        shown: the first of them in a few words each, with file and line where they have them.
        remedy: what to do, in a sentence.
    """

    kind: str
    what: str
    count: int
    worst: Sequence[Offender]
    shown: Sequence[str]
    remedy: str

    def caution(self) -> str:
        """Return all of it in a sentence or two."""
        shown = "; ".join(self.shown[:_SHOWN])
        more = "; ..." if self.count > _SHOWN else ""
        return f"{self.what}: {self.count} ({shown}{more}). {self.remedy}"


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `data.json` says of the examples of one model.

    Args:
        task: that they are for.
        groups: what `counts` counts by: labels or sources.
        counts: of each label, or source, how many lines there are of which kind.
        findings: of each kind of trouble that there is, the graver first.
        notes: what could not be looked for, and why; and what an export would refuse.
    """

    task: str
    groups: str
    counts: Mapping[str, Mapping[str, int]]
    findings: Sequence[Finding]
    notes: Sequence[str] = ()

    def cautions(self) -> list[str]:
        """Return a sentence or two for each finding, and the notes."""
        return [*(finding.caution() for finding in self.findings), *self.notes]

    def as_json(self) -> dict[str, Any]:
        """Return the object that `data.json` holds: the same examples, the same bytes."""
        found = asdict(self)
        for finding, said in zip(found["findings"], self.findings, strict=True):
            finding["caution"] = said.caution()
            del finding["shown"]
        return found

    def to_bytes(self) -> bytes:
        """Return `data.json`."""
        return (json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n").encode()


def line(row: Row, prefix: str = "") -> dict[str, str | int | float]:
    """Return a line as columns, each named with `prefix` before it."""
    return {
        f"{prefix}file": row.file,
        f"{prefix}line": row.line,
        f"{prefix}label": row.label or "",
        f"{prefix}text": quoted(row.text),
    }


def quoted(text: str) -> str:
    """Return as much of a text as a table has room for."""
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}\N{HORIZONTAL ELLIPSIS}"


def named(label: str | None) -> str:
    """Return a label as sentences have it."""
    text = label or ""
    return repr(text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}\N{HORIZONTAL ELLIPSIS}")


def pair(row: Row, other: Row) -> str:
    """Return two lines and their labels in a few words."""
    return f"{row.place} {named(row.label)}, {other.place} {named(other.label)}"
