"""A message and its route -> a request, or the reason why there is none."""

from __future__ import annotations

import functools
import json
import math
from typing import Final, NamedTuple

from edgeslm.contract.routes import Route
from edgeslm.ports import Received, Request

MAX_ID: Final = 512  # characters of a publisher's own id
_ABSENT: Final = object()


class Reading(NamedTuple):
    """What a message says.

    `request` is None where it says nothing we can answer; then `code`, one of `INPUT_ERRORS` in
    edgeslm/contract/vocabulary.py, and `why`, for people, tell. `own_id` is the publisher's id,
    where it gave one.
    """

    request: Request | None
    own_id: str | None = None
    code: str = ""
    why: str = ""


def read(
    message: Received, route: Route, *, size: int | None = None, delivery: int | None = None
) -> Reading:
    """Return what `message` asks; total for any bytes.

    Args:
        message: as it came.
        route: how it is read.
        size: of its payload, bytes, where that was too long to be kept.
        delivery: see `Request`.
    """
    own_id = id_of(message, route)
    payload = message.payload
    length = len(payload) if size is None else size
    if length > route.max_bytes:
        why = f"{length} bytes; the route takes {route.max_bytes}"
        return Reading(None, own_id, "input.too_long", why)
    try:
        text = payload.decode(route.encoding)
    except UnicodeDecodeError as err:
        why = f"not {route.encoding} at byte {err.start}"
        return Reading(None, own_id, "input.encoding", why)
    if route.text is not None:
        return _read_json(text, route, message.topic, own_id, delivery)
    if not text or text.isspace():
        return Reading(None, own_id, "input.empty", "no text")
    return Reading(Request(text, message.topic, id=own_id, delivery=delivery), own_id)


def _read_json(
    raw: str, route: Route, topic: str, own_id: str | None, delivery: int | None
) -> Reading:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as err:  # ValueError: also a number of 5,000 digits
        where = f" at character {err.pos}" if isinstance(err, json.JSONDecodeError) else ""
        return Reading(None, own_id, "input.not_json", f"not JSON{where}")
    if route.id is not None and own_id is None:
        own_id = _as_id(_at(document, route.id))
    text = _at(document, route.text or "")
    if not isinstance(text, str) or not text or text.isspace():
        return Reading(None, own_id, *_no_text(text, route))
    source = topic if route.source is None else _as_id(_at(document, route.source)) or topic
    key = None if route.key is None else _as_id(_at(document, route.key))
    time = None
    if (found := _given(document, route.time)) is not None and (time := _as_time(found)) is None:
        why = f"{route.time} is not a time in seconds since 1970"
        return Reading(None, own_id, "input.field_type", why)
    last = _given(document, route.last)
    if not isinstance(last, bool | None):
        return Reading(None, own_id, "input.field_type", f"{route.last} is not true or false")
    return Reading(Request(text, source, time, key, own_id, delivery, last is True), own_id)


def _no_text(found: object, route: Route) -> tuple[str, str]:
    """Return code and words of what is no text at its pointer."""
    if found is _ABSENT:
        return "input.field_missing", f"nothing at {route.text}"
    if not isinstance(found, str):
        return "input.field_type", f"{route.text} is not a string"
    return "input.empty", f"{route.text} is empty"


def id_of(message: Received, route: Route) -> str | None:
    """Return the id in the MQTT 5 user property that the route names; None without one."""
    if route.id_property is None:
        return None
    pairs = message.properties.get("UserProperty")
    if isinstance(pairs, list):
        for name, value in pairs:
            if name == route.id_property:
                return _as_id(value)
    return None


def _as_id(value: object) -> str | None:
    """A name that somebody gave: a string of up to `MAX_ID` characters, or a whole number.

    None for any other. Cut or mended, two of them could become one.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID:
        return None
    return None if any("\ud800" <= c <= "\udfff" for c in value) else value


def _as_time(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        time = float(value)
    except OverflowError:
        return None
    return time if math.isfinite(time) else None


def _given(document: object, pointer: str | None) -> object:
    """What a pointer points at; None where there is none, or nothing."""
    found = _ABSENT if pointer is None else _at(document, pointer)
    return None if found is _ABSENT else found


def _at(document: object, pointer: str) -> object:
    """What a JSON pointer (RFC 6901) points at; `_ABSENT` where it points at nothing."""
    for key in _keys(pointer):
        if isinstance(document, dict):
            document = document.get(key, _ABSENT)
        elif isinstance(document, list) and key.isascii() and key.isdigit():
            # "01" is no index; a huge one is past the end.
            index = int(key) if len(key) <= 9 and (key == "0" or key[0] != "0") else -1  # noqa: PLR2004
            document = document[index] if 0 <= index < len(document) else _ABSENT
        else:
            return _ABSENT
    return document


@functools.lru_cache(maxsize=1024)
def _keys(pointer: str) -> tuple[str, ...]:
    return tuple(t.replace("~1", "/").replace("~0", "~") for t in pointer.split("/")[1:])
