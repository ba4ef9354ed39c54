"""Bytes -> text and its fields. Total: any bytes give an input or an `InputError`.

The same for a payload over MQTT and for a line of a file, so that both get the same answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgeslm.errors import RejectedError

Pointer = tuple[str, ...]  # a JSON pointer's reference tokens, unescaped
_MISSING: Final = object()


class InputError(RejectedError):
    """These bytes are not an input. Its message quotes none of them."""

    code = "input.invalid"


class InputTooLongError(InputError):
    """More bytes than allowed."""

    code = "input.too_long"


class InputEncodingError(InputError):
    """Not text in the encoding that was promised."""

    code = "input.encoding"


class InputJsonError(InputError):
    """Not JSON."""

    code = "input.json"


class InputFieldError(InputError):
    """JSON without the field that should be there, or of another type."""

    code = "input.field"


@dataclass(frozen=True, slots=True)
class Input:
    """One text with what came beside it; None where absent."""

    text: str
    source: str | None = None
    time: float | None = None
    key: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Fields:
    """Where an input's fields lie in a JSON document; None where they are not looked for."""

    text: Pointer
    source: Pointer | None = None
    time: Pointer | None = None
    key: Pointer | None = None
    id: Pointer | None = None


def pointer(text: str) -> Pointer:
    """Split a JSON pointer (RFC 6901) that is known to be well-formed."""
    parts = text.split("/")[1:]
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in parts)


def decode_text(data: bytes, *, encoding: str = "utf-8", max_bytes: int) -> str:
    """Return `data` as text.

    Raises:
        InputTooLongError: more than `max_bytes`.
        InputEncodingError: not in `encoding`.
    """
    if len(data) > max_bytes:
        msg = f"{len(data)} bytes, allowed are {max_bytes}"
        raise InputTooLongError(msg)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as err:
        msg = f"not {encoding} at byte {err.start}"
        raise InputEncodingError(msg) from None


def parse_json(text: str) -> object:
    """Return the JSON document in `text`.

    Raises:
        InputJsonError: it is none.
    """
    try:
        document: object = json.loads(text)
    except json.JSONDecodeError as err:
        msg = f"not JSON: {err.msg} at character {err.pos}"
        raise InputJsonError(msg) from None
    except (ValueError, RecursionError):  # a number of thousands of digits; endless nesting
        msg = "not JSON that can be read: a number too long, or nested too deep"
        raise InputJsonError(msg) from None
    return document


def read_fields(document: object, fields: Fields) -> Input:
    """Return the input in a JSON document. Source, key and id may be null, or whole numbers.

    Raises:
        InputFieldError: no text, or a field of another type.
    """
    text = _lookup(document, fields.text)
    if not isinstance(text, str):
        what = "is not there" if text is _MISSING else "is not a string"
        raise InputFieldError(_named(fields.text, what))
    return Input(
        text,
        source=_string(document, fields.source),
        time=_number(document, fields.time),
        key=_string(document, fields.key),
        id=_string(document, fields.id),
    )


def _string(document: object, where: Pointer | None) -> str | None:
    value = _MISSING if where is None else _lookup(document, where)
    if where is None or value is _MISSING or value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise InputFieldError(_named(where, "is neither a string nor a whole number"))
    return value


def _number(document: object, where: Pointer | None) -> float | None:
    value = _MISSING if where is None else _lookup(document, where)
    if where is None or value is _MISSING or value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise InputFieldError(_named(where, "is not a finite number"))


def _lookup(document: object, where: Pointer) -> object:
    """Return what a pointer leads to; `_MISSING` where it leads nowhere."""
    at = document
    for part in where:
        if isinstance(at, Mapping):
            at = at.get(part, _MISSING)
        elif isinstance(at, Sequence) and not isinstance(at, str):
            # RFC 6901, 4: digits without leading zeros.
            index = int(part) if part.isascii() and part.isdigit() and len(part) < 10 else -1  # noqa: PLR2004
            if str(index) != part or index >= len(at):
                return _MISSING
            at = at[index]
        else:
            return _MISSING
    return at


def _named(where: Pointer, what: str) -> str:
    return f"/{'/'.join(where)} {what}"
