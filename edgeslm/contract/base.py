"""Shared by all schemas: strictness, common field types, and errors a person can act on."""

from __future__ import annotations

import json
import tomllib
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeslm.errors import InvalidFileError

SCHEMA_VERSION: Final = 1
UNKNOWN_KEY: Final = "unknown key"
MAX_DEPTH: Final = 32  # of TOML that people write

_SPELLED: Final[dict[str, str]] = {}


def spelled(pattern: str, wrong: str, **more: Any) -> Any:
    """Return the `Field` of a string that matches `pattern`; of another, errors say `wrong`."""
    _SPELLED[pattern] = wrong
    return Field(pattern=pattern, **more)


Sha256 = Annotated[str, spelled(r"^[0-9a-f]{64}$", "not a SHA-256 in lower-case hex")]
Name = Annotated[
    str,
    spelled(
        r"^[a-z0-9][a-z0-9._-]{0,63}$",
        "not a name: a-z, 0-9, '.', '_', '-', up to 64, the first a-z or 0-9",
        description="Lower case, up to 64.",
    ),
]
RelativePath = Annotated[
    str,
    spelled(
        r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$",
        "not a path inside the bundle",
        max_length=200,
        description="Inside the bundle: no leading slash, no part that begins with a dot.",
    ),
]


class Section(BaseModel):
    """A table of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Typed(BaseModel):
    """A file that people or tools write: unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


M = TypeVar("M", bound=BaseModel)


def problems_of(err: ValidationError) -> list[tuple[str, str]]:
    """Each fault as (dotted field, message), without echoing values: one may be a secret."""
    found = []
    faults = err.errors(include_input=False, include_url=False)
    inner = {e["loc"][:-1] for e in faults if e["loc"]}
    for e in faults:
        if e["type"] == "too_short" and e["loc"] in inner:
            continue  # nothing is left of it, since each of its items is wrong
        what = e["msg"]
        if e["type"] == "extra_forbidden":
            what = UNKNOWN_KEY
        elif e["type"] == "value_error":
            what = what.removeprefix("Value error, ")
        elif e["type"] == "string_pattern_mismatch":
            what = _SPELLED.get(e["ctx"]["pattern"], what)
        found.append((".".join(str(part) for part in e["loc"]), what))
    return found


def parse_json(
    model: type[M],
    raw: bytes | str,
    *,
    file: str,
    remedy: str,
    error: type[InvalidFileError] = InvalidFileError,
) -> M:
    """Return `raw` as `model`.

    Raises:
        InvalidFileError: (or `error`) not JSON, or a field is wrong; names each.
    """
    try:
        return model.model_validate_json(raw)
    except ValidationError as err:
        raise error(file, problems_of(err), remedy=remedy) from None


def read_toml(
    raw: bytes,
    *,
    file: str,
    remedy: str,
    error: type[InvalidFileError] = InvalidFileError,
) -> dict[str, object]:
    """Return `raw` as TOML.

    Raises:
        InvalidFileError: (or `error`) not UTF-8, not TOML, or nested without end.
    """
    try:
        data = tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as err:
        raise error(file, [("", f"not UTF-8 at byte {err.start}")], remedy=remedy) from None
    # ValueError: TOMLDecodeError, and what int() says of thousands of digits.
    except (ValueError, RecursionError) as err:
        raise error(file, [("", f"not TOML: {err}")], remedy=remedy) from None
    if _deeper(data, MAX_DEPTH):
        raise error(file, [("", f"nested deeper than {MAX_DEPTH} levels")], remedy=remedy)
    return data


def _deeper(data: dict[str, object], depth: int) -> bool:
    """Whether `data` nests deeper than `depth`: tomllib follows dotted keys to any depth."""
    level: list[object] = [data]
    for _ in range(depth):
        level = [
            inner
            for node in level
            if isinstance(node, dict | list)
            for inner in (node.values() if isinstance(node, dict) else node)
        ]
    return bool(level)


def parse_toml(
    model: type[M],
    raw: bytes,
    *,
    file: str,
    remedy: str,
    error: type[InvalidFileError] = InvalidFileError,
) -> M:
    """Return TOML `raw` as `model`, strictly typed.

    Raises:
        InvalidFileError: (or `error`) as for `read_toml` and `parse_json`.
    """
    data = read_toml(raw, file=file, remedy=remedy, error=error)
    # By way of JSON: pydantic's strict mode then takes an array for a tuple.
    return parse_json(model, json.dumps(data, default=str), file=file, remedy=remedy, error=error)
