"""A filter says which devices, or where it is wrong; and as a text again it says the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.contract.rollout import MAX_FILTER_CHARS
from edgeslm.core.expressions import OPS
from edgeslm.core.filters import (
    FIELDS,
    MAX_DEPTH,
    PARTS,
    All,
    And,
    Compare,
    Expression,
    Field,
    FilterError,
    Not,
    Or,
    parse,
)


def text_field(name: str, value: str, op: str = "=") -> Compare:
    return Compare(Field(name), op, (value,))  # type: ignore[arg-type]


ONLINE = Compare(Field("online"), "=", (True,))
A, B, C = (text_field("id", name) for name in "abc")
VERSION = Field("model", "press", "version")

GOOD: dict[str, Expression] = {
    "": All(),
    " \t\n ": All(),
    "id = a": A,
    "id=a": A,
    'id = "a"': A,
    "id = 'a'": A,
    "online": ONLINE,
    "online = true": ONLINE,
    "online != FALSE": ONLINE,
    "online = false": Compare(Field("online"), "=", (False,)),
    "not online": Not(ONLINE),
    "id = a and id = b and id = c": And((A, B, C)),
    "id = a AND id = b Or id = c": Or((And((A, B)), C)),
    "id = a or id = b and id = c": Or((A, And((B, C)))),
    "(id = a or id = b) and id = c": And((Or((A, B)), C)),
    "not id = a and id = b": And((Not(A), B)),
    "not (id = a and id = b)": Not(And((A, B))),
    "((id=a))": A,
    "id in (a, 'b c',c)": Compare(Field("id"), "in", ("a", "b c", "c")),
    "profile ~ pi-*": text_field("profile", "pi-*", "~"),
    'profile = ""': text_field("profile", ""),
    "arch != x86_64": text_field("arch", "x86_64", "!="),
    "phase = trial": text_field("phase", "trial"),
    "phase ~ re*": text_field("phase", "re*", "~"),
    "tag.hall = B": Compare(Field("tag", "hall"), "=", ("B",)),
    "tag.hall = true": Compare(Field("tag", "hall"), "=", ("true",)),
    "tag.hall = 7": Compare(Field("tag", "hall"), "=", ("7",)),
    "tag.a.b-c = x": Compare(Field("tag", "a.b-c"), "=", ("x",)),
    "tag.'Hall (old)' = x": Compare(Field("tag", "Hall (old)"), "=", ("x",)),
    "tag.hall = 'and'": Compare(Field("tag", "hall"), "=", ("and",)),
    r'tag.hall = "a\"b\\c"': Compare(Field("tag", "hall"), "=", ('a"b\\c',)),
    "tag.hall = Gebäude🙂": Compare(Field("tag", "hall"), "=", ("Gebäude🙂",)),
    "model.press": Compare(Field("model", "press"), "=", (True,)),
    "model.press = false": Compare(Field("model", "press"), "=", (False,)),
    "model.press.version = 007": Compare(VERSION, "=", (7,)),
    "model.press.version in (6, 7)": Compare(VERSION, "in", (6, 7)),
    "model.press.committed >= 9007199254740992": Compare(
        Field("model", "press", "committed"), ">=", (2**53,)
    ),
    "model.a.b.state = serving": Compare(Field("model", "a.b", "state"), "=", ("serving",)),
    "model.press.provider in (qnn, cuda)": Compare(
        Field("model", "press", "provider"), "in", ("qnn", "cuda")
    ),
    "model.'a.version'": Compare(Field("model", "a.version"), "=", (True,)),
    "model.'a.version'.version < 3": Compare(Field("model", "a.version", "version"), "<", (3,)),
    "heard_ago > 90": Compare(Field("heard_ago"), ">", (90,)),
    "heard_ago > 10m": Compare(Field("heard_ago"), ">", (600,)),
    "heard_ago <= 2h": Compare(Field("heard_ago"), "<=", (7200,)),
    "heard_ago >= 3d": Compare(Field("heard_ago"), ">=", (259_200,)),
    "heard_ago < 0s": Compare(Field("heard_ago"), "<", (0,)),
}

# What is written -> where it is wrong (from 0), and what the error says.
BAD: dict[str, tuple[int, str]] = {
    "id": (2, "found the end; expected '=', '!=', '~', in"),
    "id =": (4, "found the end; expected a value"),
    "id = and": (5, "found 'and'; expected a value"),
    "id == a": (4, "found '='; expected a value"),
    "id < a": (3, "found '<'; expected '=', '!=', '~', in"),
    "id = a b": (7, "found 'b'; expected and, or, the end"),
    "id = a or": (9, "found the end; expected not, '(', id"),
    "colour = red": (0, "found 'colour'; expected not, '(', id, profile"),
    "and": (0, "found 'and'; expected not"),
    "(id = a": (7, "found the end; expected and, or, ')'"),
    "id = a)": (6, "found ')'; expected and, or, the end"),
    "()": (1, "found ')'; expected not"),
    "id in a": (6, "found 'a'; expected '('"),
    "id in (a": (8, "found the end; expected ',', ')'"),
    "id in ()": (7, "found ')'; expected a value"),
    "id in (a,)": (9, "found ')'; expected a value"),
    "online > true": (7, "found '>'; expected '=', '!=', and, or, the end"),
    "online = maybe": (9, "expected true or false"),
    "heard_ago = 3": (10, "found '='; expected '<'"),
    "heard_ago > 2w": (12, "expected seconds, or a duration"),
    "heard_ago > -3": (12, "expected seconds, or a duration"),
    "heard_ago > 9999999999": (12, "expected seconds, or a duration"),
    "phase = idel": (8, "expected idle, resolving"),
    "model.press.state in (serving, faild)": (31, "expected loading, serving, failed"),
    "model.press.version = 9007199254740993": (22, "expected a whole number"),
    "model.press.version = ٣": (22, "expected a whole number"),
    "model.press.version ~ 3": (20, "found '~'; expected '='"),
    "model.Press": (0, "'Press' is no model's name"),
    "model.'a'.colour = 3": (0, "no such part; expected model.NAME.version"),
    "model.'a'. = 3": (0, "no such part"),
    "model.": (0, "found 'model.'"),
    "tag.'' = x": (0, "a tag's key has 1 to 64 characters"),
    "tag.'a'.b = x": (0, "a tag's key"),
    f"tag.{'k' * 65} = x": (0, "a tag's key"),
    f"id = {'v' * 201}": (5, "a value of more than 200 characters"),
    "id = 'a": (5, "quotes that do not end"),
    "id = 'a\nb'": (5, "quotes that do not end"),
    "id = a'b'": (5, "found \"a'b'\"; expected a value"),
    r"id = a\b": (6, r"what is '\\'?"),
    "id = a\0": (6, "a filter has no character 0x0"),
    "id = \ud800": (5, "a filter has no character 0xd800"),
    "id = a ! id = b": (7, "what is '!'?"),
    "(" * 33 + "online" + ")" * 33: (32, "nested deeper than 32 levels"),
    "not " * 33 + "online": (128, "nested deeper than 32 levels"),
    "x" * 2001: (2000, "longer than 2000 characters"),
    "online" + " " * 4000: (2000, "longer than 2000 characters"),
}


@pytest.mark.parametrize(("text", "expected"), GOOD.items(), ids=GOOD)
def test_what_a_filter_says(text: str, expected: Expression) -> None:
    assert parse(text) == expected
    assert parse(str(expected)) == expected


@pytest.mark.parametrize(("text", "where"), BAD.items(), ids=range(len(BAD)))
def test_what_is_wrong_is_shown_where_it_is(text: str, where: tuple[int, str]) -> None:
    with pytest.raises(FilterError, match=re.escape(where[1])) as err:
        parse(text)
    assert err.value.position == where[0]
    head, shown, caret, what = str(err.value).split("\n")
    assert head == f"filter, character {where[0] + 1}:"
    assert caret.strip() == "^"
    at = caret.index("^")
    assert len(shown) <= 62
    if where[0] < len(text) and text[where[0]].isprintable():
        assert shown[at] == text[where[0]]
    assert where[1] in what
    assert str(err.value).isprintable() or "\n" in str(err.value)
    assert err.value.code == "fleet.filter"


def test_a_filter_is_as_deep_as_it_may_be() -> None:
    text = "not (" * (MAX_DEPTH // 2) + "online or id = a" + ")" * (MAX_DEPTH // 2)
    assert parse(str(parse(text))) == parse(text)


def test_what_stands_side_by_side_is_not_deep() -> None:
    assert parse(" and ".join(["(not online)"] * 50)) == And((Not(ONLINE),) * 50)


def test_a_value_is_put_into_the_quotes_that_make_it_short() -> None:
    assert str(parse("""id = 'a"b"c'""")) == """id = 'a"b"c'"""
    assert str(parse("""id = 'it\\'s'""")) == """id = "it's\""""


def test_what_an_error_shows_cannot_disturb_a_terminal() -> None:
    with pytest.raises(FilterError) as err:
        parse("id = a\x1b[31m\u202e")
    assert "\x1b" not in str(err.value)
    assert "\u202e" not in str(err.value)


# Expressions, drawn.

VALUES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12) | st.sampled_from(
    ["and", "In", "true", "a b", "'", '"', "\\", "'\"\\", "*?", "", "-", "🙂"]
)
KEYS = VALUES.filter(lambda key: 0 < len(key) <= 64)
MODELS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True) | st.sampled_from(
    ["a.version", "x.state.error", "a.", "version"]
)
FIELD = st.one_of(
    st.sampled_from(sorted(FIELDS)).map(Field),
    KEYS.map(lambda key: Field("tag", key)),
    st.builds(Field, st.just("model"), MODELS, st.sampled_from(sorted(PARTS))),
)


@st.composite
def comparisons(draw: st.DrawFn) -> Compare:
    field = draw(FIELD)
    op = "=" if field.kind == "truth" else draw(st.sampled_from(OPS[field.kind]))
    values: st.SearchStrategy[object] = {
        "text": VALUES,
        "whole": st.integers(0, 2**53),
        "duration": st.integers(0, 999_999_999) | st.integers(0, 40).map(lambda n: n * 43_200),
        "truth": st.booleans(),
    }[field.kind]
    if field == Field("phase") and op != "~":
        values = st.sampled_from(["idle", "trial"])
    if field.name == "model" and field.part == "state" and op != "~":
        values = st.sampled_from(["serving", "failed"])
    several = draw(st.lists(values, min_size=1, max_size=3 if op == "in" else 1))
    return Compare(field, op, tuple(several))  # type: ignore[arg-type]


def several(
    of: st.SearchStrategy[Expression], join: type[And | Or]
) -> st.SearchStrategy[Expression]:
    return st.lists(of, min_size=2, max_size=3).map(lambda parts: join(tuple(parts)))


EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(
    comparisons(),
    lambda of: st.one_of(of.map(Not), several(of, And), several(of, Or)),
    max_leaves=12,
)


@given(EXPRESSIONS)
@settings(max_examples=400, deadline=None)
def test_an_expression_as_a_text_is_the_same_again(expression: Expression) -> None:
    text = str(expression)
    written = len(text) - sum(map(str.isspace, text))
    if written <= MAX_FILTER_CHARS:
        assert parse(text) == expression


SOURCES = st.lists(
    st.sampled_from(
        [
            *("id", "online", "heard_ago", "tag.a", "tag.'b c'", "model.m", "model.m.version"),
            *("=", "!=", "<", ">=", "~", "in", "(", ")", ",", "and", "or", "not", " ", " "),
            *("a", "'a'", '"x y"', "7", "90m", "true", "'\"'", r"'\''", r'"\\"'),
        ]
    ),
    max_size=25,
).map(" ".join)


@given(SOURCES)
@settings(max_examples=400, deadline=None)
def test_no_expression_is_longer_as_a_text_than_as_it_was_written(source: str) -> None:
    """So a filter that was accepted is accepted again however often it goes through."""
    try:
        expression = parse(source)
    except FilterError:
        return
    text = str(expression)
    assert parse(text) == expression
    assert len("".join(text.split())) <= len("".join(source.split()))
