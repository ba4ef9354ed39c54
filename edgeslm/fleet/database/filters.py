"""The meaning of filters: `core.filters` as conditions over the devices of a database."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    ColumnElement,
    FunctionElement,
    SQLColumnExpression,
    and_,
    exists,
    not_,
    or_,
    select,
    true,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from edgeslm.core.filters import All, And, Compare, Expression, Not, Or
from edgeslm.fleet.database.schema import device_models, devices, tags

_ESCAPE: Final = "!"  # of LIKE
_LIKE: Final = str.maketrans({"!": "!!", "%": "!%", "_": "!_", "*": "%", "?": "_"})
_OPERATORS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_GLOB: Final = str.maketrans({"[": "[[]"})


class _Glob(FunctionElement[bool]):
    """Whether a column matches a pattern of `*` and `?`: given as GLOB's, and as LIKE's."""

    name = "glob"
    type = Boolean()
    inherit_cache = True


@compiles(_Glob, "sqlite")
def _glob_sqlite(element: _Glob, compiler: SQLCompiler, **more: Any) -> str:
    column, glob, _ = element.clauses
    return f"({compiler.process(column, **more)} GLOB {compiler.process(glob, **more)})"


@compiles(_Glob, "postgresql")
def _glob_postgresql(element: _Glob, compiler: SQLCompiler, **more: Any) -> str:
    column, _, like = element.clauses
    text, pattern = compiler.process(column, **more), compiler.process(like, **more)
    return f"({text} LIKE {pattern} ESCAPE '{_ESCAPE}')"


def condition(expression: Expression, now: float) -> ColumnElement[bool]:
    """Return the condition over `devices` that an expression is.

    Args:
        expression: parsed.
        now: seconds since 1970, from which `heard_ago` counts.
    """
    match expression:
        case All():
            return true()
        case And():
            return and_(*(condition(part, now) for part in expression.parts))
        case Or():
            return or_(*(condition(part, now) for part in expression.parts))
        case Not():
            return not_(condition(expression.part, now))
        case Compare():
            return _compared(expression, now)


def _compared(compare: Compare, now: float) -> ColumnElement[bool]:
    if compare.op == "!=":  # of what a device does not have it is true
        return not_(_compared(Compare(compare.field, "=", compare.values), now))
    field = compare.field
    if field.name == "tag":
        return _tagged(field.key, compare)
    if field.name == "model":
        return _modelled(compare)
    if field.name == "heard_ago":
        # The other way round: the longer ago, the less the time.
        turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}[compare.op]
        return _op(devices.c.heard_at, turned, (now - float(compare.values[0]),))
    if field.kind == "truth":
        return devices.c[field.name].is_(bool(compare.values[0]))
    return _there(devices.c[field.name], compare)


# Not one device after the other, but once for all of them: indexes find tags and models.


def _tagged(key: str, compare: Compare) -> ColumnElement[bool]:
    """The tag that counts: the manager's, else the device's own."""
    given = tags.alias("given")
    overruled = exists().where(given.c.device == tags.c.device, given.c.key == key, given.c.given)
    found = select(tags.c.device).where(
        tags.c.key == key,
        _op(tags.c.value, compare.op, compare.values),
        or_(tags.c.given, not_(overruled)),
    )
    return devices.c.id.in_(found)


def _modelled(compare: Compare) -> ColumnElement[bool]:
    field, of = compare.field, device_models.c
    has = select(of.device).where(of.model == field.key)
    if not field.part:
        found = devices.c.id.in_(has)
        return found if compare.values[0] else not_(found)
    column = of[field.part]
    if field.kind == "text":
        return devices.c.id.in_(has.where(_there(column, compare)))
    return devices.c.id.in_(has.where(_op(column, compare.op, compare.values)))


def _there(column: SQLColumnExpression[Any], compare: Compare) -> ColumnElement[bool]:
    """Compare a text, where "" is what the device does not have: equal to '', like no pattern."""
    found = _op(column, compare.op, compare.values)
    return and_(column != "", found) if compare.op == "~" else found


def _op(column: SQLColumnExpression[Any], op: str, values: tuple[Any, ...]) -> ColumnElement[bool]:
    if op == "in":
        return column.in_(values)
    if op == "~":
        pattern = str(values[0])
        return _Glob(column, pattern.translate(_GLOB), pattern.translate(_LIKE))
    found: ColumnElement[bool] = _OPERATORS[op](column, values[0])
    return found
