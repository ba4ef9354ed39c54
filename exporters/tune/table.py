"""The Pareto front, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_HEAD: Final = ("", "recipe", "points lost", "ms", "messages/s", "MB")


def render(search: Mapping[str, Any]) -> str:
    """Return the front of a search as a table; `*` is what was picked.

    Args:
        search: an entry of tune.json.
    """
    best = [trial for trial in search["trials"] if trial["front"] or _picked(trial, search)]
    best = sorted((trial for trial in best if "rows" in trial), key=lambda t: t["latency_ms"])
    rows = [_HEAD, *(_row(trial, search) for trial in best)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)  # noqa: PLR2004 -- words, numbers
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    tried = sum(trial["problem"] is None for trial in search["trials"])
    head = f"{search['provider']}: what none of {tried} recipes beats in quality, time and size"
    return "\n".join([head, *lines, search["why"], ""])


def _row(trial: Mapping[str, Any], search: Mapping[str, Any]) -> tuple[str, ...]:
    lost = max(0.0, *trial["lost_points"].values())
    return (
        "*" if _picked(trial, search) else "",
        trial["name"],
        f"{lost:.2f}",
        f"{trial['latency_ms']:.2f}",
        f"{trial['messages_per_s']:.0f}",
        f"{trial['size_bytes'] / 1e6:.1f}",
    )


def _picked(trial: Mapping[str, Any], search: Mapping[str, Any]) -> bool:
    return bool(trial["name"] == search["picked"])
