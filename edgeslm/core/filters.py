"""Which devices: the one filter language of commands, the API, the page and roll-out plans.

    profile = pi-4 and tag.hall in (A, B) and not (model.press.version >= 7 or heard_ago > 2h)

Here a text becomes an expression, whose meaning whoever looks for devices gives it: a comparison
with what a device does not have is false, `!=` is `not ... =`, and `~` takes `*` for any characters
and `?` for one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn, cast, get_args

from edgeslm.contract.messages import Phase
from edgeslm.contract.rollout import MAX_FILTER_CHARS
from edgeslm.core.expressions import (
    BARE,
    FIELDS,
    KEYWORDS,
    OPS,
    PARTS,
    PLAIN,
    QUOTED,
    UNITS,
    All,
    And,
    Compare,
    Expression,
    Field,
    Kind,
    Not,
    Op,
    Or,
    Part,
    Value,
    split_name,
)
from edgeslm.errors import RejectedError

MAX_DEPTH: Final = 32  # of parentheses and `not`, one in the other
MAX_VALUE_CHARS: Final = 200  # as long as a tag's value
MAX_KEY_CHARS: Final = 64
_MAX_WHOLE: Final = 2**53
_WINDOW: Final = 60  # characters of the text that an error shows

_WORDS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("phase", ""): ("idle", *get_args(Phase)),
    ("model", "state"): ("loading", "serving", "failed"),
}
"""Of fields that can be nothing else: a slip in one would match no device, and say nothing."""
_TOKEN: Final = re.compile(rf"\s*(?:(?P<op><=|>=|!=|[=<>~(),])|(?P<word>(?:{BARE}|{QUOTED})+))")
_STRING: Final = re.compile(QUOTED)
_KEYED: Final = re.compile(rf"(tag|model)\.(?:({QUOTED})(?:\.({BARE}*))?|({BARE}+))")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd]?)")
_WHOLE: Final = re.compile(r"[0-9]{1,16}")


class FilterError(RejectedError):
    """A filter does not say which devices.

    `what` of one is a line for people, which says too what was expected.

    Args:
        what: is wrong.
        text: the filter.
        position: of the character at which that shows, from 0.
        expected: what might stand there instead.
    """

    code = "fleet.filter"

    def __init__(self, what: str, text: str, position: int, expected: Collection[str] = ()) -> None:
        begin = max(0, min(position - _WINDOW // 2, len(text) - _WINDOW))
        shown = "".join(
            " " if c.isspace() else c if c.isprintable() else "\N{REPLACEMENT CHARACTER}"
            for c in text[begin : begin + _WINDOW]
        )
        self.what = f"{what}; expected {', '.join(expected)}" if expected else what
        super().__init__(
            f"filter, character {position + 1}:\n  {shown}\n  {' ' * (position - begin)}^\n"
            f"{self.what}"
        )
        self.position = position
        self.expected = tuple(expected)


def parse(text: str) -> Expression:
    """Return what a filter says; of one that says nothing, `All`.

    Raises:
        FilterError: it is wrong; says where, and what was expected.
    """
    return _Parser(text, _tokens(text)).whole()


@dataclass(frozen=True, slots=True)
class _Token:
    """A sign, or a word as written, quotes and all; "" at the end."""

    text: str
    at: int

    @property
    def keyword(self) -> str:
        return found if (found := self.text.lower()) in KEYWORDS else ""

    def __str__(self) -> str:
        shown = self.text if len(self.text) <= _WINDOW else f"{self.text[:_WINDOW]}..."
        return repr(shown) if self.text else "the end"


def _tokens(text: str) -> list[_Token]:
    # White space apart, no expression is longer as text than as it was written.
    written = len(text) - sum(map(str.isspace, text))
    if max(written, len(text) // 2) > MAX_FILTER_CHARS:
        what = f"longer than {MAX_FILTER_CHARS} characters"
        raise FilterError(what, text, MAX_FILTER_CHARS)
    for at, c in enumerate(text):
        if c not in "\t\n\r" and unicodedata.category(c) in {"Cc", "Cs"}:
            what = f"a filter has no character {ord(c):#x}"
            raise FilterError(what, text, at)
    found, at, end = [], 0, len(text.rstrip())
    while at < end:
        if (match := _TOKEN.match(text, at)) is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            quote = text[at] in "\"'"
            what = "quotes that do not end" if quote else f"what is {text[at]!r}?"
            raise FilterError(what, text, at)
        at = match.end()
        found.append(_Token(match[match.lastgroup or 0], match.start(match.lastgroup or 0)))
    return [*found, _Token("", end)]


class _Parser:
    """By recursive descent: or, and, not, then a comparison or parentheses."""

    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._next = 0
        self._depth = 0

    def whole(self) -> Expression:
        if not self._peek().text:
            return All()
        found = self._or()
        if self._peek().text:
            self._refuse("and", "or", "the end")
        return found

    def _or(self) -> Expression:
        parts = [self._and()]
        while self._peek().keyword == "or":
            self._take()
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _and(self) -> Expression:
        parts = [self._not()]
        while self._peek().keyword == "and":
            self._take()
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _not(self) -> Expression:
        token = self._peek()
        if token.keyword != "not" and token.text != "(":
            return self._compare()
        self._take()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            what = f"nested deeper than {MAX_DEPTH} levels"
            raise FilterError(what, self._text, token.at)
        if token.text == "(":
            found = self._or()
            if self._peek().text != ")":
                self._refuse("and", "or", "')'")
            self._take()
        else:
            found = Not(self._not())
        self._depth -= 1
        return found

    def _compare(self) -> Compare:
        field = self._field()
        token = self._peek()
        kind = field.kind
        op = token.keyword or token.text
        if op not in OPS[kind]:
            if kind == "truth" and (op in {"and", "or", ")"} or not op):
                return Compare(field, "=", (True,))
            ops = [repr(each) if each != "in" else each for each in OPS[kind]]
            self._refuse(*ops, *(("and", "or", "the end") if kind == "truth" else ()))
        self._take()
        if op == "in":
            return Compare(field, "in", self._values(field))
        value = self._value(field, any_word=op == "~")
        if kind == "truth":
            return Compare(field, "=", (value is (op == "="),))
        return Compare(field, cast("Op", op), (value,))

    def _values(self, field: Field) -> tuple[Value, ...]:
        if self._peek().text != "(":
            self._refuse("'('")
        self._take()
        values = [self._value(field)]
        while self._peek().text == ",":
            self._take()
            values.append(self._value(field))
        if self._peek().text != ")":
            self._refuse("','", "')'")
        self._take()
        return tuple(values)

    def _field(self) -> Field:
        token = self._peek()
        word = token.text
        if word in FIELDS:
            self._take()
            return Field(word)
        match = _KEYED.fullmatch(word)
        if match is None:
            self._refuse("not", "'('", *FIELDS, "tag.KEY", "model.NAME", *_MODEL_PARTS)
        name, quoted, part, bare = match.groups()
        key = _unquoted(quoted) if quoted is not None else bare
        part = part or ""
        if name == "model" and quoted is None:
            key, part = split_name(bare)
        self._take()
        if name == "tag":
            if not 0 < len(key) <= MAX_KEY_CHARS or match[3] is not None:
                what = f"a tag's key has 1 to {MAX_KEY_CHARS} characters"
                raise FilterError(what, self._text, token.at)
            return Field("tag", key)
        if not _NAME.fullmatch(key):
            what = f"{key[:_WINDOW]!r} is no model's name"
            raise FilterError(what, self._text, token.at)
        if part not in PARTS or (match[3] == ""):
            what = "a model has no such part"
            raise FilterError(what, self._text, token.at, _MODEL_PARTS)
        return Field("model", key, cast("Part", part))

    def _value(self, field: Field, *, any_word: bool = False) -> Value:
        token = self._peek()
        word = token.text
        quoted = _STRING.fullmatch(word) is not None
        if not quoted and (token.keyword or not PLAIN.fullmatch(word)):
            self._refuse(_WANTED[field.kind])
        value = _unquoted(word) if quoted else word
        found = _typed(value, field.kind)
        if found is None:
            self._refuse(_WANTED[field.kind])
        if isinstance(found, str) and len(found) > MAX_VALUE_CHARS:
            what = f"a value of more than {MAX_VALUE_CHARS} characters"
            raise FilterError(what, self._text, token.at)
        words = _WORDS.get((field.name, field.part))
        if words is not None and found not in words and not any_word:
            self._refuse(*words)
        self._take()
        return found

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> None:
        self._next += 1

    def _refuse(self, *expected: str) -> NoReturn:
        token = self._peek()
        what = f"found {token}"
        raise FilterError(what, self._text, token.at, expected)


_MODEL_PARTS: Final = tuple(f"model.NAME.{part}" for part in PARTS if part)
_WANTED: Final[Mapping[Kind, str]] = {
    "text": "a value; one with spaces, signs or a keyword in quotes",
    "whole": "a whole number",
    "duration": "seconds, or a duration such as 10m, 2h or 3d",
    "truth": "true or false",
}


def _typed(word: str, kind: Kind) -> Value | None:
    """Return a word as a value of this kind; None where it is none."""
    if kind == "text":
        return word
    if kind == "truth":
        return {"true": True, "false": False}.get(word.lower())
    if kind == "whole":
        return int(word) if _WHOLE.fullmatch(word) and int(word) <= _MAX_WHOLE else None
    match = _DURATION.fullmatch(word)
    return int(match[1]) * UNITS[match[2]] if match else None


def _unquoted(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:-1])


__all__ = [
    "FIELDS",
    "MAX_DEPTH",
    "PARTS",
    "All",
    "And",
    "Compare",
    "Expression",
    "Field",
    "FilterError",
    "Not",
    "Or",
    "parse",
]
