"""What devices say, made so that every database takes it: bounded, without NUL, without halves."""

from __future__ import annotations

from typing import Any, Final

MAX_WHOLE: Final = 2**53
"""JSON's numbers are exact up to here; databases take more, and not without end."""
_MAX_DEPTH: Final = 16
_HALVES: Final = dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}")
_BAD: Final = {0: "\N{REPLACEMENT CHARACTER}", **_HALVES}


def bounded(text: object, chars: int) -> str:
    """Return a text of at most so many characters; "" for what is none."""
    return text.translate(_BAD)[:chars] if isinstance(text, str) else ""


def whole(number: object) -> int | None:
    """Return a count from 0 to `MAX_WHOLE`, the nearest; None for what is none."""
    if not isinstance(number, int) or isinstance(number, bool):
        return None
    return min(max(number, 0), MAX_WHOLE)


def real(number: object) -> float | None:
    """Return a finite number; None for what is none."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    try:
        found = float(number)
    except OverflowError:
        return None
    return found if abs(found) <= float(2**63) else None


def clean(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """Return JSON with texts and numbers that every database takes; None for what is too deep."""
    if isinstance(value, str):
        return bounded(value, len(value))
    if isinstance(value, dict):
        return (
            {bounded(k, len(k)): clean(v, depth - 1) for k, v in value.items()} if depth else None
        )
    if isinstance(value, list | tuple):
        return [clean(each, depth - 1) for each in value] if depth else None
    if isinstance(value, float):
        return real(value)
    return value
