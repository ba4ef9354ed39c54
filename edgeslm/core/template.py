"""A text split into its template (words, units, shapes of identifiers) and what varies: its slots.

Equipment repeats its words and changes its numbers, so a model that reads templates runs once for
thousands of lines. The split loses nothing: `join` gives back the text. It knows one kind of
slot. Whether a slot is a number is asked of the slot (`number`), not of the template: a hex field
that happens to hold digits alone, or a sensor that says "nan", stays in its template and is
judged against that slot's history.

    >>> split("motor temp=-72.4 C at 12:30:01")
    Split(template='motor temp=¤ C at ¤', slots=['-72.4', '12:30:01'])
"""

from __future__ import annotations

import math
import re
from typing import Final, NamedTuple

MARK: Final = "¤"
"""Stands for a slot. Where a text contains this sign itself, that sign is a slot."""
MAX_CHARS: Final = 4096
"""Longest part of a text that is split; what follows is one more slot. It bounds the memory of
whoever keeps templates, and the time of a hostile line."""

_MONTH: Final = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}"
_HEX: Final = "[0-9a-fA-F]"
_DIGITS: Final = "[0-9]+"
_ALONE: Final = rf"(?<![A-Za-z0-9{MARK}])"
_ENDS: Final = rf"(?![A-Za-z0-9{MARK}])"
_PATH: Final = "[A-Za-z0-9_.+@%~-]"
# The first alternative that fits is taken, at the leftmost place where one does. Repetitions of
# neighbouring classes are disjoint and every alternative that scans is anchored to the beginning
# of a run, so the whole is linear in the length of the text.
_SLOT: Final = re.compile(
    "("
    + "|".join(
        (
            # Numbers in scientific notation, before ids which look like them.
            rf"(?:{_ALONE}[-+])?{_DIGITS}(?:\.{_DIGITS})?[eE][-+]?{_DIGITS}{_ENDS}",
            # UUID; hex of eight digits or more that has a digit; 0x...
            rf"{_ALONE}{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}{_ENDS}",
            rf"{_ALONE}(?=[a-fA-F]*[0-9]){_HEX}{{8,}}{_ENDS}",
            rf"{_ALONE}0[xX]{_HEX}+{_ENDS}",
            # Ids of letters and digits: at least two changes between them and no mere unit.
            rf"{_ALONE}[A-Za-z]+{_DIGITS}[A-Za-z]+[0-9][A-Za-z0-9]*",
            rf"{_ALONE}{_DIGITS}[A-Za-z]+(?:[0-9]{{2}}|[0-9][A-Za-z])[A-Za-z0-9]*",
            # Dates and times, addresses with their port, versions.
            rf"{_ALONE}(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? +)?{_MONTH} +[0-9]{{1,2}}{_ENDS}",
            rf"{_ALONE}[0-9]{{1,2}}[-/ ]{_MONTH}[-/ ][0-9]{{4}}{_ENDS}",
            rf"{_DIGITS}(?:\.{_DIGITS}){{2,}}(?::{_DIGITS})?",
            rf"{_DIGITS}(?::{_DIGITS}){{2,}}(?:[.,]{_DIGITS})?",
            rf"{_DIGITS}(?:-{_DIGITS}){{2,}}",
            rf"{_DIGITS}(?:/{_DIGITS}){{2,}}",
            rf"{_ALONE}[0-2]?[0-9]:[0-5][0-9](?![0-9])",
            # Numbers; a comma is one only where it groups thousands: 72,4 is two slots.
            rf"(?:{_ALONE}[-+])?[1-9][0-9]{{0,2}}(?:,[0-9]{{3}})+(?!,?[0-9])(?:\.{_DIGITS})?",
            rf"(?:{_ALONE}[-+])?{_DIGITS}(?:\.{_DIGITS})?",
            rf"{_ALONE}[-+]?\.{_DIGITS}",
            rf"{_ALONE}[-+]?(?:nan|NaN|NAN|[Ii]nf(?:inity)?|INF){_ENDS}",
            # Paths of two parts or more.
            rf"(?<![A-Za-z0-9_.:/){MARK}-])/{_PATH}+/[/{_PATH[1:]}*",
            rf"{_ALONE}[A-Za-z]:\\[^\s\"'<>|*?]+",
            MARK,
        )
    )
    + ")"
)
_WORD: Final = re.compile(r"[A-Za-z]{3,}")
_TOKEN: Final = re.compile(rf"[^\W\d_]+|{MARK}|[^\s\w]|[\d_]+")


class Split(NamedTuple):
    """A text as template and slots.

    Args:
        template: the text with `MARK` in place of each slot.
        slots: what stood there, as written, in order; as many as the template has marks.
    """

    template: str
    slots: list[str]


def split(text: str) -> Split:
    """Return `text` as template and slots; pure, total for any string, linear in its length."""
    rest = ""
    if len(text) > MAX_CHARS:
        text, rest = text[:MAX_CHARS], text[MAX_CHARS:]
    parts = _SLOT.split(text)
    if rest:
        parts += rest, ""
    return Split(MARK.join(parts[::2]), parts[1::2])


def join(split_text: Split) -> str:
    """Return the text that `split` was given."""
    parts = [""] * (2 * len(split_text.slots) + 1)
    parts[::2] = split_text.template.split(MARK)
    parts[1::2] = split_text.slots
    return "".join(parts)


def number(slot: str) -> float:
    """Return the number in `slot`; NaN where it holds none, an infinity, or one beyond float."""
    try:
        value = float(slot.replace(",", "")) if "," in slot else float(slot)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def readable(template: str) -> str:
    """Return `template` as a model reads it: a text in which every number is 0."""
    return template.replace(MARK, "0")


def canonical(template: str) -> str:
    """Return `template` with its words in lower case.

    Words of one or two letters keep theirs: those are units, and mW is not MW.
    """
    return _WORD.sub(lambda match: match[0].lower(), template)


def tokens(template: str) -> list[str]:
    """Return the words, marks and signs of a canonical template, in order."""
    return _TOKEN.findall(template)
