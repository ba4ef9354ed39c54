"""Expressions over devices, as a filter says them; `edgeslm.core.filters` makes them of a text.

`str` of one is a text that parses to the same, and no longer than the one that was written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind = Literal["text", "whole", "duration", "truth"]
Op = Literal["=", "!=", "<", "<=", ">", ">=", "~", "in"]
Part = Literal["", "version", "committed", "state", "provider", "error"]
Value: TypeAlias = str | int | bool

FIELDS: Final[Mapping[str, Kind]] = {
    "id": "text",
    "profile": "text",
    "arch": "text",
    "agent_version": "text",
    "updater_version": "text",
    "online": "truth",
    "health": "text",
    "phase": "text",
    "heard_ago": "duration",
}
"""Fields without a key. Besides them there are `tag.KEY` and `model.NAME`, with `PARTS`."""
PARTS: Final[Mapping[Part, Kind]] = {
    "": "truth",  # whether the device has the model
    "version": "whole",  # that its agent answers with
    "committed": "whole",  # by its updater
    "state": "text",
    "provider": "text",
    "error": "text",  # code
}
OPS: Final[Mapping[Kind, tuple[Op, ...]]] = {
    "text": ("=", "!=", "~", "in"),
    "whole": ("=", "!=", "<", "<=", ">", ">=", "in"),
    "duration": ("<", "<=", ">", ">="),
    "truth": ("=", "!="),
}

UNITS: Final = {"d": 86_400, "h": 3600, "m": 60, "s": 1, "": 1}
KEYWORDS: Final = frozenset({"and", "or", "not", "in"})

BARE: Final = r"[^\s()=!<>~,\"'\\]"
QUOTED: Final = r"\"(?:[^\"\\\t\n\r]|\\[\"\\])*\"|'(?:[^'\\\t\n\r]|\\['\\])*'"
PLAIN: Final = re.compile(rf"{BARE}+")


@dataclass(frozen=True, slots=True)
class Field:
    """What of a device is looked at.

    Args:
        name: one of `FIELDS`, or tag, or model.
        key: of a tag; of a model its name; else "".
        part: of a model; "": whether the device has it.
    """

    name: str
    key: str = ""
    part: Part = ""

    @property
    def kind(self) -> Kind:
        """Of its values."""
        if self.name == "model":
            return PARTS[self.part]
        return "text" if self.name == "tag" else FIELDS[self.name]

    def __str__(self) -> str:
        if self.name not in {"tag", "model"}:
            return self.name
        # A model may be named so that its end looks like a part.
        clash = self.name == "model" and not self.part and split_name(self.key)[1]
        key = _quoted(self.key) if clash or not PLAIN.fullmatch(self.key) else self.key
        return f"{self.name}.{key}" + (f".{self.part}" if self.part else "")


@dataclass(frozen=True, slots=True)
class All:
    """Every device."""

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Compare:
    """One comparison.

    Args:
        field: what is compared.
        op: how; of a truth always "=".
        values: one, or for "in" one or more: str, int (a duration in seconds), or bool.
    """

    field: Field
    op: Op
    values: tuple[Value, ...]

    def __str__(self) -> str:
        kind = self.field.kind
        if self.values == (True,) and kind == "truth":
            return str(self.field)
        words = [_written(value, kind) for value in self.values]
        if self.op == "in":
            return f"{self.field} in ({', '.join(words)})"
        return f"{self.field} {self.op} {words[0]}"


@dataclass(frozen=True, slots=True)
class And:
    """All of two or more."""

    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return " and ".join(
            f"({part})" if isinstance(part, And | Or) else str(part) for part in self.parts
        )


@dataclass(frozen=True, slots=True)
class Or:
    """Any of two or more."""

    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return " or ".join(
            f"({part})" if isinstance(part, Or) else str(part) for part in self.parts
        )


@dataclass(frozen=True, slots=True)
class Not:
    """Whatever is not so."""

    part: Expression

    def __str__(self) -> str:
        inner = f"({self.part})" if isinstance(self.part, And | Or) else str(self.part)
        return f"not {inner}"


Expression: TypeAlias = All | Compare | And | Or | Not


def split_name(name: str) -> tuple[str, str]:
    """Return the name of a model, and the part that its field's end names; "" for none."""
    head, _, tail = name.rpartition(".")
    return (head, tail) if head and tail and tail in PARTS else (name, "")


def _written(value: Value, kind: Kind) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if kind == "duration" and value:
            unit, seconds = next((u, s) for u, s in UNITS.items() if value % s == 0 and u != "s")
            return f"{value // seconds}{unit}"
        return str(value)
    plain = PLAIN.fullmatch(value) and value.lower() not in KEYWORDS
    return value if plain else _quoted(value)


def _quoted(value: str) -> str:
    """Return it in the quotes that it has fewer of itself."""
    quote = "'" if value.count('"') > value.count("'") else '"'
    return quote + re.sub(rf"([{quote}\\])", r"\\\1", value) + quote
