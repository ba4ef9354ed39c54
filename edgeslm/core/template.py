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
from collections.abc import Iterator
from typing import Final, NamedTuple

MARK: Final = "¤"
"""Stands for a slot. Where a text contains this sign itself, that sign is a slot."""
WILD: Final = "\ufffc"
"""Stands for a word that is another one each time, in templates that were merged; see `merged`."""
MASKS: Final = 2
"""Which things are slots, as a number that grows when that changes: templates become others."""
MAX_CHARS: Final = 4096
"""Longest part of a text that is split; what follows is one more slot. It bounds the memory of
whoever keeps templates, and the time of a hostile line."""

_NOT: Final = rf"[A-Za-z0-9{MARK}]"
_ALONE: Final = rf"(?<!{_NOT}.)"  # the character just read begins a word
_ENDS: Final = rf"(?!{_NOT})"
_D: Final = "[0-9]+"
_HEX: Final = "[0-9a-fA-F]"
_UUID: Final = rf"{_HEX}{{7}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}{_ENDS}"  # without its first digit
_MONTH: Final = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}"
_EXPONENT: Final = rf"[eE][-+]?{_D}{_ENDS}"
_GROUPS: Final = rf"(?:,[0-9]{{3}})+(?!,?[0-9])(?:\.{_D})?"  # of thousands, and a fraction
_FILE: Final = "A-Za-z0-9_.+@%~-"


def _any(*alternatives: str) -> str:
    return f"(?:{'|'.join(alternatives)})"


# Addresses, without their first character. Where words or numbers could be meant, they are: six
# pairs without a letter are a time, and an IPv6 address begins as those in use do (2000::/3; fc00::
# and above; ::1), so that "a::b" stays two names and "1::2" two numbers.
_PAIRS: Final = _any(*(rf"(?:{sign}{_HEX}{{2}}{_ENDS}){{5,}}" for sign in ":-"))
_FOURS: Final = rf"{_HEX}{{3}}(?:\.{_HEX}{{4}}){{2}}{_ENDS}"  # as Cisco writes a MAC
_GROUP: Final = rf"{_HEX}{{1,4}}+"
_V6: Final = (
    rf"{_HEX}{{3}}"
    + _any(
        rf"(?::{_GROUP}){{7}}",
        rf"(?::{_GROUP}){{0,6}}+::(?:{_GROUP}(?::{_GROUP}){{0,6}}+)?",
    )
    + rf"{_ENDS}(?:%[A-Za-z0-9_-]+)?"
)
_V6_AFTER_DIGIT: Final = rf"(?={_HEX}{{3}}:)(?=[0-9]{{3}}:[0-9]|[0-9:]{{0,42}}[a-fA-F]){_V6}"
_V6_AFTER_F: Final = rf"(?=[c-fC-F]{_HEX}{{2}}:)(?=[a-fA-F:]{{0,42}}[0-9]){_V6}"
_V6_AFTER_COLONS: Final = (
    _any("1(?![.:][0-9])", rf"[fF]{{4}}:{_GROUP}(?::{_GROUP}|(?:\.{_D}){{3}})") + _ENDS
)
_V6_AFTER_BRACKET: Final = (
    _any(f"[23]{_V6_AFTER_DIGIT}", f"[fF]{_V6_AFTER_F}", f"::(?:{_V6_AFTER_COLONS})?") + rf"\]:{_D}"
)
_ID_AFTER_DIGIT: Final = _any(
    _UUID,
    rf"(?={_HEX}[:-])(?=[0-9:-]{{0,15}}[a-fA-F]){_HEX}{_PAIRS}",
    rf"(?={_HEX}{{3}}\.)(?=[0-9.]{{0,12}}[a-fA-F]){_FOURS}",
    rf"(?<=[23]){_V6_AFTER_DIGIT}",
)
_NO_ID: Final = rf"(?![0-9]{_ID_AFTER_DIGIT})"
_NO_UUID: Final = rf"(?![0-9]{_UUID})"
_MAIL: Final = "A-Za-z0-9_.%+-"
_HOST: Final = rf"(?:[A-Za-z0-9-]++\.)+[A-Za-z]{{2,}}{_ENDS}"  # pump@line3 and t@72.4 are none
# A URL ends at what parts the fields of a line, since a field may be a reading, and before what
# ends a sentence.
_IN_URL: Final = rf"\s\"'<>|,;{MARK}"
_URL: Final = rf"[^{_IN_URL}]*[^{_IN_URL}.:!?)\]}}]"

# What may follow a slot's first character, by its class. The leftmost place where something fits
# is taken, and there the first alternative that does. Each begins with a class, so that a place is
# refused by one look at one character; and each run of characters is scanned from its beginning
# only, by classes that do not overlap their neighbours, or no farther than some 40 characters: the
# whole is linear in the text's length.
_AFTER_DIGIT: Final = _any(
    # of one UUID in a hundred, and of some MACs, the first digits look like 7.24e1
    _ALONE + _ID_AFTER_DIGIT,
    # 7.24e1, before other ids that look like it
    rf"[0-9]*(?:\.{_D})?{_EXPONENT}",
    _ALONE
    + _any(
        rf"(?=[0-9]*[a-fA-F]){_HEX}{{7,}}{_ENDS}",
        rf"(?<=0)[xX]{_HEX}+{_ENDS}",
        # ids of letters and digits that are more than a number with its unit (12m3)
        "[0-9]*[A-Za-z]+(?:[0-9]{2}|[0-9][A-Za-z])[A-Za-z0-9]*",
        rf"[0-9]?[-/ ]{_MONTH}[-/ ][0-9]{{4}}{_ENDS}",
        "[0-9]?:[0-5][0-9](?![0-9:])",
    ),
    # addresses and versions, times, dates
    "[0-9]*"
    + _any(
        rf"(?:\.{_NO_UUID}{_D}){{2,}}(?::{_D})?",
        rf"(?::{_NO_ID}{_D}){{2,}}(?:[.,]{_D})?",
        rf"(?:-{_NO_UUID}{_D}){{2,}}",
        rf"(?:/{_NO_UUID}{_D}){{2,}}",
    ),
    # 1,234.5; a comma that groups no thousands ends the number: 72,4 is two slots
    rf"(?<=[1-9])[0-9]{{0,2}}{_GROUPS}",
    rf"[0-9]*(?:\.{_D})?",
)
_AFTER_LETTER: Final = _any(
    rf"(?<![_.%+-].)[{_MAIL}]*+" + _any(f"@{_HOST}", f"://{_URL}"),
    "(?<=[a-fA-F])"
    + _any(
        _UUID,
        rf"(?=[a-fA-F]*[0-9]){_HEX}{{7,}}{_ENDS}",
        rf"[a-fA-F]{{7}}(?:[a-fA-F]{{8}})?{_ENDS}",  # ffffffff: no word is of these alone
        rf"{_HEX}{_PAIRS}",
        rf"(?=[a-fA-F.]{{0,12}}[0-9]){_FOURS}",
        rf"(?<=[fF]){_V6_AFTER_F}",
    ),
    rf"[A-Za-z]*+{_D}[A-Za-z]+[0-9][A-Za-z0-9]*",
    "(?<=[JFMASONDTW])"
    + _any(
        _any("(?<=M)on", "(?<=T)(?:ue|hu)", "(?<=W)ed", "(?<=F)ri", "(?<=S)(?:at|un)")
        + rf",? +{_MONTH} +[0-9]{{1,2}}{_ENDS}",
        _any("(?<=J)(?:an|un|ul)", "(?<=F)eb", "(?<=M)(?:ar|ay)", "(?<=A)(?:pr|ug)", "(?<=S)ep",
             "(?<=O)ct", "(?<=N)ov", "(?<=D)ec")
        + rf"[a-z]{{0,6}} +[0-9]{{1,2}}{_ENDS}",
    ),
    "(?<=[nNiI])"
    + _any("(?<=n)an", "(?<=N)(?:aN|AN)", "(?<=[iI])nf(?:inity)?", "(?<=I)NF")
    + _ENDS,
    r":\\[^\s\"'<>|*?]+",  # C:\...
)  # fmt: skip
_AFTER_SIGN: Final = _any(
    rf"{_D}(?:\.{_D})?{_EXPONENT}",
    rf"[1-9][0-9]{{0,2}}{_GROUPS}",
    rf"{_D}(?:\.{_D})?",
    rf"\.{_D}",
    rf"(?:nan|NaN|NAN|[Ii]nf(?:inity)?|INF){_ENDS}",
)
_SLOT: Final = re.compile(
    "("
    + _any(
        rf"[0-9]{_AFTER_DIGIT}",
        rf"[A-Za-z]{_ALONE}{_AFTER_LETTER}",
        rf"[-+]{_ALONE}{_NO_ID}{_AFTER_SIGN}",
        rf"\.{_ALONE}{_NO_ID}{_D}",
        # a path of two parts or more
        rf"/(?<![A-Za-z0-9_.:/){MARK}-].)[{_FILE}]+/[/{_FILE}]*",
        rf":(?<![A-Za-z0-9:{MARK}].):{_V6_AFTER_COLONS}",
        rf"\[{_V6_AFTER_BRACKET}",
        MARK,
    )
    + ")",
    re.DOTALL,
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
    return template.replace(MARK, "0").replace(WILD, "x")


def canonical(template: str) -> str:
    """Return `template` with its words in lower case.

    Words of one or two letters keep theirs: those are units, and mW is not MW.
    """
    return _WORD.sub(lambda match: match[0].lower(), template)


def tokens(template: str) -> list[str]:
    """Return the words, marks and signs of a canonical template, in order."""
    return _TOKEN.findall(template)


def shape(template: str) -> tuple[str, ...]:
    """Return the words, marks and signs of a template as a key that merged templates share."""
    return tuple(tokens(canonical(template)))


def wildcards(words: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield every place of a word, with the key in which it is `WILD`."""
    for place, word in enumerate(words):
        if word.isalpha():
            yield place, (*words[:place], WILD, *words[place + 1 :])
