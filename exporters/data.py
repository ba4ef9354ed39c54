"""Training and evaluation examples: JSON lines or CSV, parsed before any long work starts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One example."""

    text: str
    label: str | None = None
    source: str = ""
    time: float | None = None
    key: str | None = None
