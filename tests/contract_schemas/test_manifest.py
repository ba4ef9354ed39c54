"""A manifest is believed only as far as it can be checked."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edgeslm.contract.base import parse_json
from edgeslm.contract.manifest import Manifest
from edgeslm.errors import InvalidFileError

DOCS = Path(__file__).parents[2] / "docs"
GOOD = json.loads((DOCS / "examples" / "manifest.json").read_bytes())
SCHEMA = Draft202012Validator(json.loads((DOCS / "schemas" / "manifest.json").read_bytes()))
GRAPH = ("artifacts", 0)
GOLDEN = ("artifacts", 4)


def parse(data: Any) -> Manifest:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return parse_json(Manifest, raw, file="b/manifest.json", remedy="Export again.")


def changed(*path: str | int, to: object) -> dict[str, Any]:
    data = copy.deepcopy(GOOD)
    node: Any = data
    for part in path[:-1]:
        node = node[part]
    if to is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = to
    assert isinstance(data, dict)
    return data


# A change to the example -> the field that the error names.
BAD = {
    "unknown key": (changed("colour", to=1), "colour: unknown key"),
    "unknown key of an artifact": (changed(*GRAPH, "x", to=1), "artifacts.0.x: unknown key"),
    "foreign version": (changed("schema_version", to=2), "schema_version"),
    "no version": (changed("version", to=...), "version"),
    "no day": (changed("supported_until", to="31.12.2031"), "supported_until: not a day"),
    "version as text": (changed("version", to="3"), "version"),
    "version as a fraction": (changed("version", to=3.0), "version"),
    "version zero": (changed("version", to=0), "version"),
    "a feature we lack": (changed("requires", to=["telepathy"]), "telepathy"),
    "name as a path": (changed("name", to="../x"), "name: not a name"),
    "task as a module": (changed("task", to="os.path"), "task"),
    "task as a private module": (changed("task", to="_x"), "task"),
    "absolute path": (
        changed(*GRAPH, "path", to="/etc/passwd"),
        "path: not a path inside the bundle",
    ),
    "path upwards": (changed(*GRAPH, "path", to="../model.onnx"), "artifacts.0.path"),
    "path upwards, inside": (changed(*GRAPH, "path", to="a/../../b"), "artifacts.0.path"),
    "hidden file": (changed(*GRAPH, "path", to=".ssh/id"), "artifacts.0.path"),
    "backslash": (changed(*GRAPH, "path", to="a\\b"), "artifacts.0.path"),
    "NUL in a path": (changed(*GRAPH, "path", to="a\0b"), "artifacts.0.path"),
    "newline at a path's end": (changed(*GRAPH, "path", to="model.onnx\n"), "artifacts.0.path"),
    "short hash": (changed(*GRAPH, "sha256", to="ab"), "artifacts.0.sha256"),
    "hash in capitals": (changed(*GRAPH, "sha256", to="A" * 64), "artifacts.0.sha256"),
    "negative size": (changed(*GRAPH, "size", to=-1), "artifacts.0.size"),
    "size as a boolean": (changed(*GRAPH, "size", to=True), "artifacts.0.size"),
    "unknown role": (changed(*GRAPH, "role", to="script"), "artifacts.0.role"),
    "no graph": (changed("artifacts", to=GOOD["artifacts"][1:]), "graph"),
    "the same path twice": (
        changed("artifacts", 1, "path", to="cpu-int8-dynamic/model.onnx"),
        "same path",
    ),
    "lists itself": (changed("artifacts", 1, "path", to="manifest.json"), "list itself"),
    "tolerance below zero": (changed(*GOLDEN, "tolerance", "score", to=-1), "tolerance.score"),
    "a golden file without tolerance": (changed(*GOLDEN, "tolerance", to=...), "its tolerance"),
    "a variant without a graph": (changed(*GRAPH, "variant", to="other"), "of variant"),
    "a list": ([], "object"),
    "no JSON": (b"{", "JSON"),
    "no UTF-8": (b'{"name": "\xff"}', "JSON"),
    "a number out of range": (
        json.dumps(GOOD).replace('"score": 0.001', '"score": 1e999').encode(),
        "tolerance.score",
    ),
    "nested without end": (b"[" * 100_000, "JSON"),
}


@pytest.mark.parametrize(("data", "named"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_named(data: Any, named: str) -> None:
    with pytest.raises(InvalidFileError, match=re.escape(named)) as err:
        parse(data)
    assert str(err.value).startswith("b/manifest.json: ")
    assert str(err.value).endswith("Export again.")


def test_the_same_manifest_is_read_back() -> None:
    manifest = parse(GOOD)
    assert parse(manifest.model_dump_json().encode()) == manifest


# What a schema cannot say: rules about several fields at once, and about Python's `$`.
BEYOND_SCHEMA = {
    "a feature we lack",
    "no graph",
    "the same path twice",
    "lists itself",
    "version as a fraction",
    "newline at a path's end",
    "a golden file without tolerance",
    "a variant without a graph",
}


@pytest.mark.parametrize("case", [c for c in BAD if not isinstance(BAD[c][0], bytes)])
def test_the_json_schema_refuses_the_same(case: str) -> None:
    assert SCHEMA.is_valid(BAD[case][0]) is (case in BEYOND_SCHEMA)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@given(st.data(), json_values)
def test_what_the_code_takes_the_schema_takes(data: st.DataObject, value: object) -> None:
    path: list[str | int] = []
    node: Any = GOOD
    while isinstance(node, dict | list) and node and (not path or data.draw(st.booleans())):
        inner: dict[Any, Any] = node if isinstance(node, dict) else dict(enumerate(node))
        path.append(data.draw(st.sampled_from(list(inner))))
        node = inner[path[-1]]
    mutant = changed(*path, to=value)
    try:
        manifest = parse(mutant)
    except InvalidFileError:
        return
    SCHEMA.validate(json.loads(manifest.model_dump_json()))
