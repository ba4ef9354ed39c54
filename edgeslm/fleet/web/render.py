"""Templates, and how they say things: times, shares, states. All text in them is escaped."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgeslm.fleet.database.audit import in_words

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_ORDER: Final = (
    *("succeeded", "restored", "moved", "taken_back", "waiting"),
    *("silent", "failed", "written_off", "left_out"),
)
"""Of device states in a bar, from the left."""
_TONES: Final = {
    **dict.fromkeys(("ok", "serving", "completed", "succeeded", "restored", "idle"), "good"),
    **dict.fromkeys(("degraded", "silent", "paused", "taken_back", "taking_back"), "warn"),
    **dict.fromkeys(("failed", "aborted", "lost"), "bad"),
    **dict.fromkeys(("moving", "soaking", "moved", "loading", "trial"), "busy"),
}
_NONE: Final = "-"
_BAR: Final = 1000.0  # width of a bar in its own units
_DETAILS: Final = 12  # of one event or entry that are shown


@dataclass(frozen=True, slots=True)
class Static:
    """One file that browsers keep: its name changes with its bytes."""

    body: bytes
    type: str
    digest: str


def static_files() -> dict[str, Static]:
    """Return what lies in static/, by name."""
    found = {}
    for file in files(__package__).joinpath("static").iterdir():
        body = file.read_bytes()
        kind = _TYPES[file.name.rpartition(".")[2]]
        found[file.name] = Static(body, kind, hashlib.sha256(body).hexdigest()[:16])
    return found


def environment(static: Mapping[str, Static]) -> Environment:
    """Return the templates; `static` are the files that they name."""
    env = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    env.globals["static"] = lambda name: f"/static/{name}?v={static[name].digest}"
    env.globals["pieces"] = pieces
    env.filters |= {
        "iso": iso,
        "utc": utc,
        "whole": whole,
        "percent": percent,
        "ms": milliseconds,
        "short": short,
        "span": span,
        "tone": lambda word: _TONES.get(word, "quiet"),
        "words": lambda word: str(word).replace("_", " "),
        "in_order": in_order,
        "told": told,
        "facts": facts,
        "segment": segment,
    }
    return env


def segment(text: str) -> str:
    """Return a text as one segment of a path."""
    return quote(text, safe="")


def iso(at: float) -> str:
    """Return a time as <time> has it; one that no calendar has becomes its beginning."""
    return _date(at).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc(at: float) -> str:
    """Return a time for people."""
    return _date(at).strftime("%Y-%m-%d %H:%M:%S UTC")


def whole(number: float) -> str:
    """Return a count."""
    return f"{number:,.0f}"


def percent(share: float | None) -> str:
    """Return a share from 0 to 1."""
    if share is None:
        return _NONE
    if share >= 1:
        return f"{share:.0%}"
    return f"{share:.2%}" if share < 0.1 else f"{share:.1%}"  # noqa: PLR2004 -- one digit less


def milliseconds(value: float | None) -> str:
    """Return a latency."""
    if value is None:
        return _NONE
    return f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"  # noqa: PLR2004


def short(value: float | None) -> str:
    """Return a number in four digits."""
    return _NONE if value is None else f"{value:.4g}"


def span(seconds: float) -> str:
    """Return a length of time."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def in_order(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the states that there are, as a bar shows them."""
    return [(state, counts[state]) for state in _ORDER if counts.get(state)]


def told(counts: Mapping[str, int]) -> str:
    """Return in words what a bar shows."""
    said = [f"{whole(count)} {state.replace('_', ' ')}" for state, count in in_order(counts)]
    return ", ".join(said) or "none"


def pieces(counts: Mapping[str, int], total: int) -> list[dict[str, str]]:
    """Return the pieces of a bar; one that is there is never too thin to be seen."""
    found = []
    x = 0.0
    for state, count in in_order(counts):
        width = min(_BAR - x, max(4.0, _BAR * count / max(total, 1)))
        found.append({"state": state, "x": f"{x:.1f}", "width": f"{width:.1f}"})
        x += width
    return found


def facts(detail: Mapping[str, Any] | None) -> str:
    """Return a few named values in one line."""
    if not isinstance(detail, Mapping):
        return ""
    shown = [f"{key}: {_value(value)}" for key, value in list(detail.items())[:_DETAILS]]
    more = len(detail) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _value(value: object) -> str:
    text = in_words(value)
    return text if len(text) <= 200 else text[:199] + "\N{HORIZONTAL ELLIPSIS}"  # noqa: PLR2004


def _date(at: float) -> datetime:
    try:
        if math.isfinite(at):
            return datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError):
        pass
    return datetime.fromtimestamp(0, UTC)
