"""What devices say, read: whatever it is, it becomes a row, or a reason why it does not."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast, get_args

from pydantic import ValidationError

from edgeslm.contract.messages import ADAPTERS
from edgeslm.fleet.database.words import MAX_WHOLE, bounded

MAX_STATE_BYTES: Final = 64 * 1024  # of status, state and update
MAX_BYTES: Final = 16 * 1024  # of an event and of a result
MAX_TEXT: Final = 500  # characters that are kept of any string but a result's text
MAX_MEMBERS: Final = 512  # of one list or one object
MAX_MODELS: Final = 64  # as many as an assignment may name
MAX_TIME: Final = 32_503_680_000.0  # seconds since 1970: the year 3000

_DEVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TIMES: Final = ("time", "time_in", "time_out")

Retained = Literal["status", "state", "update"]
Kind = Literal[Retained, "event", "result"]
RETAINED: Final[frozenset[str]] = frozenset(get_args(Retained))
_KINDS: Final[Mapping[str, Kind]] = {
    "status": "status",
    "state": "state",
    "update": "update",
    "events": "event",
    "results": "result",
}
assert set(_KINDS.values()) == set(get_args(Kind))  # noqa: S101


class RefusedError(Exception):
    """A message that says nothing to us; `reason` is counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message of a device.

    Args:
        device: its id, by topic and by payload.
        kind: of message.
        message: as `ADAPTERS` has it; strings cut to what is kept, without what cannot be.
        model: of a result: that of its topic and its payload.
    """

    device: str
    kind: Kind
    message: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""


def read(root: str, topic: str, payload: bytes) -> Inbound:
    """Return what a message says.

    Raises:
        RefusedError: nothing that is of use: too long, malformed, of another device, ...
    """
    device, kind, model = _addressed(root, topic)
    if len(payload) > (MAX_STATE_BYTES if kind in RETAINED else MAX_BYTES):
        reason = "too_long"
        raise RefusedError(reason)
    try:
        message = ADAPTERS[kind].validate_json(payload)
    except ValidationError:
        reason = "malformed"
        raise RefusedError(reason) from None
    if message["device"] != device:
        reason = "of_another_device"
        raise RefusedError(reason)
    cleaned = cast("dict[str, Any]", _cleaned(message, keep="text" if kind == "result" else ""))
    _check(kind, cleaned, model)
    return Inbound(device, kind, cleaned, model)


def _addressed(root: str, topic: str) -> tuple[str, Kind, str]:
    levels = topic.removeprefix(f"{root}/").split("/")
    what = _KINDS.get(levels[1]) if len(levels) > 1 else None
    expected = 3 if what == "result" else 2
    if not topic.startswith(f"{root}/") or what is None or len(levels) != expected:
        reason = "unknown_topic"
        raise RefusedError(reason)
    if not _DEVICE.fullmatch(levels[0]):
        reason = "bad_device_id"
        raise RefusedError(reason)
    return levels[0], what, levels[2] if what == "result" else ""


def _check(kind: Kind, message: Mapping[str, Any], model: str) -> None:
    """Hold against what the database can hold, and what names are, beyond the schema."""
    reason = "out_of_bounds"
    if any(not 0 <= message.get(name, 0.0) <= MAX_TIME for name in _TIMES):
        raise RefusedError(reason)
    models = message.get("models", ())
    names = [each["name"] for each in models]
    if len(names) > MAX_MODELS or len(set(names)) != len(names):
        raise RefusedError(reason)
    if kind == "event" and not _WORD.fullmatch(message["event"]):
        raise RefusedError(reason)
    if kind == "result":
        if message["model"]["name"] != model:
            reason = "of_another_model"
            raise RefusedError(reason)
        names = [model]
    if "model" in message and kind in {"event", "update"}:
        names.append(message["model"])
    if not all(_NAME.fullmatch(name) for name in names):
        raise RefusedError(reason)
    for each in models:
        if any(value < 0 for value in each.values() if isinstance(value, int | float)):
            raise RefusedError(reason)


def _cleaned(value: Any, *, keep: str) -> Any:
    """Return what can be stored of a value: bounded, finite, without NUL and lone surrogates."""
    reason = "out_of_bounds"
    if isinstance(value, str):
        return bounded(value, MAX_TEXT)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        if not math.isfinite(value) or abs(value) > MAX_WHOLE:
            raise RefusedError(reason)
        return value
    if len(value) > MAX_MEMBERS:
        raise RefusedError(reason)
    if isinstance(value, list):
        return [_cleaned(each, keep="") for each in value]
    return {
        _cleaned(name, keep=""): (
            bounded(each, len(each))
            if name == keep and isinstance(each, str)
            else _cleaned(each, keep="")
        )
        for name, each in value.items()
    }
