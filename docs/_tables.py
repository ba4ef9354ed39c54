"""Reference tables in Markdown, drawn from a JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One key that a person may type.

    Args:
        path: the tables above it and its own name; NAME stands for a name of one's own.
        kind: what may be written, in words.
        default: as one would write it; None where the key is required.
        meaning: its description.
    """

    path: tuple[str, ...]
    kind: str
    default: str | None
    meaning: str


@dataclass(frozen=True, slots=True)
class Table:
    """One TOML table and the keys right in it."""

    path: tuple[str, ...]
    meaning: str
    keys: tuple[Key, ...]


def tables(schema: Schema) -> Iterator[Table]:
    """Yield the top level of `schema`, then each table below it, depth first."""
    yield from _tables(schema, schema.get("$defs", {}), (), schema.get("description", ""))


def _tables(node: Schema, defs: Schema, path: tuple[str, ...], meaning: str) -> Iterator[Table]:
    keys, below = [], []
    required = set(node.get("required", ()))
    for name, field in node["properties"].items():
        inner = _resolve(field, defs)
        text = field.get("description", inner.get("description", ""))
        here = (*path, name)
        if "properties" in inner:
            below.append((inner, here, text))
        elif "properties" in (named := _named(inner, defs)):
            below.append((named, (*here, "NAME"), text))
        else:
            default = None if name in required else _default(field)
            keys.append(Key(here, kind(inner, defs), default, text))
    yield Table(path, meaning, tuple(keys))
    for inner, here, text in below:
        own = inner.get("description", "")
        yield from _tables(inner, defs, here, " ".join(dict.fromkeys((text, own))).strip())


def _named(node: Schema, defs: Schema) -> Schema:
    """Return what a table holds under names of one's own; {} where it holds none."""
    of = node.get("patternProperties", {})
    return _resolve(next(iter(of.values())), defs) if of else {}


def _resolve(node: Schema, defs: Schema) -> Schema:
    """Follow a reference, and drop the null of an optional field."""
    if "$ref" in node:
        return _resolve(defs[node["$ref"].rsplit("/", 1)[1]], defs)
    some = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
    if len(some) == 1:
        return _resolve(some[0], defs)
    return node


def _default(field: Schema) -> str:
    value = field.get("default")
    return "absent" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"


def kind(node: Schema, defs: Schema) -> str:
    """Return in words what a value of `node` may be."""
    node = _resolve(node, defs)
    if "anyOf" in node:
        return " or ".join(kind(option, defs) for option in node["anyOf"])
    if values := node.get("enum", [node["const"]] if "const" in node else None):
        words = ", ".join(f"`{json.dumps(v)}`" for v in values)
        return f"one of {words}" if len(values) > 1 else words
    if node["type"] == "array":
        words = f"list of {kind(node['items'], defs)}"
        return f"{words}, not empty" if node.get("minItems") else words
    names = {"object": "table", "string": "path" if node.get("format") == "path" else "string"}
    return names.get(node["type"], str(node["type"])) + _bounds(node)


def _bounds(node: Schema) -> str:
    low = node.get("minimum")
    high = node.get("maximum")
    if (above := node.get("exclusiveMinimum")) is not None:
        return f" > {above:g}" + (f", <= {high}" if high is not None else "")
    if low is not None and high is not None:
        return f" {low}..{high}"
    return f" >= {low}" if low is not None else ""


def cell(text: str) -> str:
    """Return `text` so that it stays in one cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def rows(*columns: str, of: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(cell(c) for c in row) + " |" for row in of]
