"""A filter means the same on every database, and the same as its words."""

from __future__ import annotations

import fnmatch
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select

from edgeslm.core.filters import All, And, Compare, Expression, Field, Not, Or, parse
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.filters import condition
from edgeslm.fleet.database.schema import device_models, devices, tags

NOW: Final = 10_000.0
_MODEL: Final = {"state": "serving", "provider": "cpu", "error": ""}
DEVICES: Final[dict[str, dict[str, Any]]] = {
    "a": {
        "profile": "pi-4",
        "arch": "aarch64",
        "online": True,
        "heard_at": NOW - 60,
        "health": "ok",
        "phase": "idle",
    },
    "b": {"profile": "pi-5", "online": False, "heard_at": NOW - 7200, "health": "failing"},
    "C[1]": {"profile": "", "online": True, "heard_at": NOW, "phase": "trial"},
    "d%_": {"profile": "PI-4", "online": False, "heard_at": NOW - 3600.0},
}
TAGS: Final = [
    ("a", "hall", False, "A"),
    ("a", "hall", True, "B"),  # the manager's counts
    ("b", "hall", False, "A"),
    ("b", "line", True, "3"),
    ("d%_", "hall", False, "ä*"),
]
MODELS: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("a", "press"): {"version": 3, "committed": 3},
    ("a", "valve.version"): {"version": 1},
    ("b", "press"): {"version": None, "committed": 2, "state": "failed", "error": "load.memory"},
    ("C[1]", "press"): {"version": 7, "committed": 3, "provider": "qnn"},
}


def fill(database: Engine) -> None:
    with database.begin() as conn:
        for name, row in DEVICES.items():
            conn.execute(insert(devices).values(id=name, registered_at=0.0, **row))
        for device, key, given_, value in TAGS:
            conn.execute(insert(tags).values(device=device, key=key, given=given_, value=value))
        for (device, model), row in MODELS.items():
            values = {**_MODEL, **row, "device": device, "model": model}
            conn.execute(insert(device_models).values(trial=False, **values))


def found(database: Engine, expression: Expression) -> str:
    with reading(database) as conn:
        rows = select(devices.c.id).where(condition(expression, NOW)).order_by(devices.c.id)
        return " ".join(conn.execute(rows).scalars())


TABLE: Final = [
    ("", "C[1] a b d%_"),
    ("id = a", "a"),
    ("id != a", "C[1] b d%_"),
    ("id in (a, b, z)", "a b"),
    ("not id in (a, b)", "C[1] d%_"),
    ("id ~ '?[1]'", "C[1]"),
    ("id ~ 'C[?]'", "C[1]"),
    ("id ~ c*", ""),
    ("id ~ '*%_'", "d%_"),
    ("id ~ '%'", ""),
    ("id ~ '_'", ""),
    ("id ~ '?'", "a b"),
    ("profile = pi-4", "a"),
    ("profile ~ pi-*", "a b"),
    ("profile ~ *", "a b d%_"),
    ("not profile ~ *", "C[1]"),
    ("profile = ''", "C[1]"),
    ("not profile = ''", "a b d%_"),
    ("profile != ''", "a b d%_"),
    ("profile in ('', pi-5)", "C[1] b"),
    ("profile ~ ''", ""),
    ("arch = ''", "C[1] b d%_"),
    ("not arch = ''", "a"),
    ("model.press.error = ''", "C[1] a"),
    ("online", "C[1] a"),
    ("online = false", "b d%_"),
    ("not online and heard_ago > 1h", "b"),
    ("heard_ago >= 1h", "b d%_"),
    ("heard_ago < 1m", "C[1]"),
    ("heard_ago <= 60", "C[1] a"),
    ("health = failing or phase = trial", "C[1] b"),
    ("tag.hall = A", "b"),
    ("tag.hall = B", "a"),
    ("tag.hall in (A, B)", "a b"),
    ("tag.hall != A", "C[1] a d%_"),
    ("tag.hall ~ *", "a b d%_"),
    ("tag.hall ~ 'ä?'", "d%_"),
    ("tag.line = 3 and tag.hall = A", "b"),
    ("tag.nothing = x", ""),
    ("model.press", "C[1] a b"),
    ("not model.press", "d%_"),
    ("model.press.version = 3", "a"),
    ("model.press.version != 3", "C[1] b d%_"),
    ("model.press.version >= 3", "C[1] a"),
    ("model.press.version < 9", "C[1] a"),
    ("model.press.committed in (2, 3)", "C[1] a b"),
    ("model.press.state = failed", "b"),
    ("model.press.provider = qnn", "C[1]"),
    ("model.press.error ~ load.*", "b"),
    ("model.press.error ~ *", "b"),
    ("model.'valve.version'", "a"),
    ("model.valve.version.version = 1", "a"),
    ("model.press.version >= 3 and not (tag.hall = B or id = d)", "C[1]"),
]


def test_what_a_filter_finds(sample: Engine) -> None:
    assert [(text, found(sample, parse(text))) for text, _ in TABLE] == TABLE


@pytest.fixture
def sample(database: Engine) -> Engine:
    fill(database)
    return database


def means(expression: Expression, device: str) -> bool:  # noqa: PLR0911 -- one after the other
    """What it means, without a database."""
    match expression:
        case All():
            return True
        case And():
            return all(means(part, device) for part in expression.parts)
        case Or():
            return any(means(part, device) for part in expression.parts)
        case Not():
            return not means(expression.part, device)
        case Compare(field, op, values):
            if op == "!=":
                return not means(Compare(field, "=", values), device)
            value = value_of(field, device)
            if value in {None, ""}:  # "": it could have it, and does not
                return value == "" and op in {"=", "in"} and "" in values
            if op == "~":
                pattern = str(values[0]).replace("[", "[[]")
                return fnmatch.fnmatchcase(str(value), pattern)
            if op == "in":
                return value in values
            return bool(
                {
                    "=": value == values[0],
                    "<": not isinstance(value, str) and value < values[0],
                    "<=": not isinstance(value, str) and value <= values[0],
                    ">": not isinstance(value, str) and value > values[0],
                    ">=": not isinstance(value, str) and value >= values[0],
                }[op]
            )


def value_of(field: Field, device: str) -> Any:
    row = {"id": device, "phase": "idle", "health": "unknown", **DEVICES[device]}
    if field.name == "tag":
        values = {given_: v for d, key, given_, v in TAGS if (d, key) == (device, field.key)}
        return values.get(True, values.get(False))
    if field.name == "model":
        model = MODELS.get((device, field.key))
        if not field.part:
            return model is not None
        return {**_MODEL, **model}.get(field.part) if model is not None else None
    if field.name == "heard_ago":
        return NOW - row["heard_at"]
    return row.get(field.name, "")


leaves = st.sampled_from([parse(text) for text, _ in TABLE if text])
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: And(tuple(parts))),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: Or(tuple(parts))),
    ),
    max_leaves=12,
)


def test_any_filter_means_what_its_parts_mean(sample: Engine) -> None:
    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(trees)
    def holds(expression: Expression) -> None:
        expected = " ".join(name for name in sorted(DEVICES) if means(expression, name))
        assert found(sample, expression) == expected

    holds()


def test_the_longest_filter_is_one_that_databases_take(sample: Engine) -> None:
    for text in (
        " or ".join(["id = a"] * 180),
        "not " * 30 + "id = a",
        "(" * 31 + "id = a" + ")" * 31,
        f"id ~ '{'*a' * 90}b'",
        f"id in ({', '.join(['a'] * 300)})",
    ):
        assert found(sample, parse(text)) in {"a", ""}
