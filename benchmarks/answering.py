"""Answers of a bundle, by the runtime that serves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from edgeslm.ports import Answer, Request
from edgeslm.runtime.model import load_model
from exporters.data import Row

_TOLD_EVERY: Final = 500


def answers(bundle: Path, rows: Sequence[Row], *, tell: Callable[[str], None]) -> list[Answer]:
    """Return what the runtime answers to each row, one after another, as on a device."""
    return answers_to(bundle, [request(row) for row in rows], tell=tell)


def answers_to(
    bundle: Path, requests: Sequence[Request], *, tell: Callable[[str], None]
) -> list[Answer]:
    """Return what the runtime answers to each request, one after another, as on a device."""
    model = load_model(bundle)
    memory = model.memory()
    found = []
    for number, one in enumerate(requests):
        if number % _TOLD_EVERY == 0:
            tell(f"answering {number:,} of {len(requests):,}")
        found.append(model.answer(one, memory))
    return found


def request(row: Row) -> Request:
    """Return what a device is asked of `row`: everything but its label."""
    return Request(row.text, source=row.source, time=row.time, key=row.key)
