"""What operators have confirmed, laid over a bundle's statistics, which stay as they are.

A lesson covers what it was given for, and what is like it. Of an anomaly's line that is its
template, whoever says it; and of its numbers, in that source and template, the way from what was
seen in training to the value that was confirmed. An anomaly of a template that the bundle knows is
of its numbers where these explain it; else of its template, in that source. Of an intent it is the
exact text, and the text in any case of its letters. Where lessons contradict each other the last
one counts, by its time, then by its number.

Pure, and fit for one writer beside any number of readers: what is looked up is replaced whole.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final, Literal, NamedTuple

from edgeslm.core.novelty import Familiar
from edgeslm.core.template import canonical, number, split

Kind = Literal["normal", "anomaly", "intent"]
Covers = Literal["template", "numbers"]
Range = tuple[float, float]
WORDS: Final = "text"
"""The channel of a line's words."""
WIDER: Final = frozenset({"window", "session", "session_end"})
"""Channels that look at more than the line."""
FOUND: Final = 4096
"""Templates of which it is remembered what lessons say."""
_NOWHERE: Final[Range] = (math.inf, -math.inf)


@dataclass(frozen=True, slots=True)
class Lesson:
    """One thing that was confirmed.

    Args:
        id: its number, ascending as they came.
        kind: what it says; "anomaly" of an intent's text: that it is none of the intents.
        text: as it was answered; or a template, in which `MARK` stands for any number.
        whole: it is a text: its numbers are confirmed, too. A template says nothing of numbers.
        source: who said it; None: whoever does.
        label: of an intent; "" of others.
        time: when it was found, seconds since 1970.
        channel: what had made the alarm; one that looks at more than the line, a window or a
            session, is silenced with it, for lines of this template and source. `WORDS` of an
            anomaly that nothing else explains, too: it speaks of its template.
        signed: an operator's token was with it.
    """

    id: int
    kind: Kind
    text: str
    whole: bool = True
    source: str | None = None
    label: str = ""
    time: float = 0.0
    channel: str = ""
    signed: bool = False

    @property
    def order(self) -> tuple[bool, float, int]:
        """The last in this order counts."""
        return self.signed, self.time, self.id

    @property
    def is_of_numbers(self) -> bool:
        """Whether it holds numbers that it may speak of."""
        return self.whole and bool(split(self.text).slots)

    @property
    def covers(self) -> Covers | None:
        """Return of a line which ones are anomalies by it; None: it says so of none.

        All of its template; or this very one, and those beyond its numbers.
        """
        if self.kind != "anomaly":
            return None
        return "numbers" if self.is_of_numbers and self.channel != WORDS else "template"


class _Values(NamedTuple):
    """Values that some lessons in a row confirmed of one slot."""

    numbers: tuple[float, ...]
    """Ascending, without NaN."""
    lessons: tuple[Lesson, ...]
    """The last that confirmed each of them."""
    nothing: Lesson | None
    """The last in which it held no number."""

    def lead_to(self, value: float, seen: Range) -> Lesson | None:
        """Return what confirmed a value, or the next one beyond it from what was seen."""
        if math.isnan(value):
            return self.nothing
        i = bisect_left(self.numbers, value)
        if i < len(self.numbers) and self.numbers[i] == value:
            return self.lessons[i]
        low, high = seen
        if low > high:
            return None
        if value > high:
            return self.lessons[i] if i < len(self.numbers) else None
        return self.lessons[i - 1] if value < low and i else None

    def lie_before(self, value: float, seen: Range) -> Lesson | None:
        """Return what confirmed the last one on the way from what was seen to a value."""
        if math.isnan(value):
            return self.nothing
        low, high = seen
        above = bisect_right(self.numbers, value) - 1
        if above >= 0 and self.numbers[above] > high:
            return self.lessons[above]
        below = bisect_left(self.numbers, value)
        if below < len(self.numbers) and self.numbers[below] < low:
            return self.lessons[below]
        return None


class _Ranges(NamedTuple):
    """Of each slot, where its ordinary values lie: beyond begins what is confirmed."""

    normal: Sequence[Range]
    """To lessons that say that it is normal."""
    anomaly: Sequence[Range]
    """To those that say that it is none."""


class _Words(NamedTuple):
    """What lessons of one source say of a template's words."""

    last: Lesson
    overrules: bool
    """An earlier one says otherwise."""


class _Run(NamedTuple):
    """Lessons of one source that follow each other and say the same."""

    kind: Kind
    slots: tuple[_Values, ...]
    lines: Mapping[tuple[str, ...], Lesson]
    """The last of each very line."""


class Covered(NamedTuple):
    """What lessons say of one line."""

    words: Lesson | None
    """The last of those that say something of its words."""
    quiet: tuple[bool, ...]
    """Of each slot: its value was confirmed to be normal, or needs no test."""
    fault: Lesson | None
    """The last of those that say that it is an anomaly, unless a later one says otherwise."""
    silenced: Mapping[str, Lesson]
    """Channels of more than the line that make no alarm of it, by what says so."""
    confirmed: tuple[Range, ...] = ()
    """Of each slot, the least and the greatest number that was confirmed to be normal."""
    overrules: bool = False
    """But for `words`, another lesson would say otherwise of them."""
    numbers: Lesson | None = None
    """The last of those that confirmed one of its values."""
    outdoes: bool = False
    """But for `numbers`, another lesson would say that one of them is a fault."""


class Entry:
    """What lessons say of one template; immutable, but for what is found when it is asked for."""

    __slots__ = ("_always", "_channels", "_numbers", "_runs", "_unless_known", "_width")

    def __init__(self, lessons: Iterable[Lesson]) -> None:
        ordered = sorted(lessons, key=lambda each: each.order)
        self._unless_known = _last_of_each(_of_words(ordered), known=False)
        # Of a template that is in the bundle, a line is odd by its numbers, if these explain it.
        self._always = _last_of_each(
            (each for each in ordered if each.covers != "numbers"),
            known=True,
        )
        self._channels: dict[str | None, dict[str, Lesson]] = {}
        for each in ordered:
            if each.channel in WIDER:
                silenced = self._channels.setdefault(each.source, {})
                silenced.pop(each.channel, None)
                if each.kind == "normal":
                    silenced[each.channel] = each
        numbers = [each for each in ordered if each.is_of_numbers]
        # As many in all that are one template.
        self._width = len(split(numbers[0].text).slots) if numbers else 0
        self._numbers: dict[str | None, list[Lesson]] = {}
        for each in numbers:
            if len(split(each.text).slots) == self._width:
                self._numbers.setdefault(each.source, []).append(each)
        self._runs: dict[str | None, tuple[_Run, ...]] = {}  # of those that were asked for

    @property
    def is_normal(self) -> bool:
        """Whether the last that was said of its words, by whomever, is that they are normal."""
        last, _ = _latest(*self._unless_known.values())
        return last is not None and last.kind == "normal"

    def covers(
        self, slots: Sequence[str], source: str, *, known: bool, seen: Sequence[Range]
    ) -> Covered:
        """Return what lessons say of a line of this template.

        Args:
            slots: what stands in it.
            source: who says it.
            known: the bundle has the template.
            seen: of each slot, the least and the greatest number of training; where the bundle
                does not have it, of what came since. None where there was nothing.
        """
        said = self._always if known else self._unless_known
        words, overrules = _latest(said.get(source), said.get(None))
        runs = self._runs_of(source) if len(slots) == self._width else ()
        values = [number(slot) for slot in slots]
        confirmed = [_normal_range(runs, i) for i in range(len(slots))]
        # What came since was confirmed by nobody, so it makes no fault smaller.
        ranges = _Ranges(seen or confirmed, seen if known and seen else confirmed)
        quiet: list[Lesson | None] = [None] * len(slots)
        outdoes = False
        fault = words if words is not None and words.kind == "anomaly" else None
        if runs:
            said_here = _numbers_say(runs, slots, values, ranges, quiet)
            if said_here is not None and (fault is None or said_here.order > fault.order):
                fault = said_here
            if said_here is None and any(quiet):
                faults = [run for run in runs if run.kind == "anomaly"]
                nobody: list[Lesson | None] = [None] * len(slots)
                outdoes = _numbers_say(faults, slots, values, ranges, nobody) is not None
        silenced = self._channels.get(source, self._channels.get(None, {}))
        confirmers = [each for each in quiet if each is not None]
        return Covered(
            words,
            tuple(each is not None for each in quiet),
            fault,
            silenced,
            tuple(confirmed),
            overrules,
            max(confirmers, key=lambda each: each.order, default=None),
            outdoes,
        )

    def _runs_of(self, source: str) -> tuple[_Run, ...]:
        """Return the lessons with numbers that are of a source, the last first."""
        own = source if source in self._numbers else None
        if (runs := self._runs.get(own)) is None:
            lessons = self._numbers.get(None, [])
            if own is not None:
                lessons = sorted([*lessons, *self._numbers[own]], key=lambda each: each.order)
            runs = self._runs[own] = _runs(lessons)
        return runs


def _numbers_say(
    runs: Sequence[_Run],
    slots: Sequence[str],
    values: Sequence[float],
    ranges: _Ranges,
    quiet: list[Lesson | None],
) -> Lesson | None:
    """Note in `quiet` what confirms a slot; return what says that one of them is a fault."""
    line = tuple(slots)
    open_ = set(range(len(slots)))
    for run in runs:  # the last first
        said = run.lines.get(line)
        if run.kind == "anomaly":
            met = [run.slots[i].lie_before(values[i], ranges.anomaly[i]) for i in sorted(open_)]
            if said or any(met):
                return said or next(filter(None, met))
            continue
        for i in sorted(open_):
            quiet[i] = said or run.slots[i].lead_to(values[i], ranges.normal[i])
            if quiet[i] is not None:
                open_.remove(i)
        if not open_:
            return None
    return None


def _of_words(ordered: Iterable[Lesson]) -> Iterator[Lesson]:
    """Yield those that say something of a template that the bundle does not have.

    An anomaly does, unless its numbers lie outside those that were confirmed to be normal before.
    """
    ends: list[Range] = []
    for lesson in ordered:
        values = [number(slot) for slot in split(lesson.text).slots] if lesson.whole else []
        apart = any(v < low or v > high for v, (low, high) in zip(values, ends, strict=False))
        if lesson.kind == "normal" or not apart:  # a name is no number, and lies nowhere
            yield lesson
        if lesson.kind == "normal" and values:
            ends = ends or [_NOWHERE] * len(values)
            ends = [
                (min(low, v), max(high, v)) if not math.isnan(v) else (low, high)
                for v, (low, high) in zip(values, ends, strict=False)
            ]


def _last_of_each(ordered: Iterable[Lesson], *, known: bool) -> dict[str | None, _Words]:
    """By source, the last lesson. A whole line is of every source.

    Not so where it is an anomaly, and `known`: other sources say these words with good reason.
    """
    found: dict[str | None, _Words] = {}
    for each in ordered:
        of = None if each.whole and not (known and each.kind == "anomaly") else each.source
        before = found.get(of)
        overrules = before is not None and (before.overrules or before.last.kind != each.kind)
        found[of] = _Words(each, overrules)
    return found


def _latest(*said: _Words | None) -> tuple[Lesson | None, bool]:
    """Return what counts of what several say of the same words, and whether it must."""
    found = [each for each in said if each is not None]
    last = max((each.last for each in found), key=lambda each: each.order, default=None)
    if last is None:
        return None, False
    return last, any(each.overrules or each.last.kind != last.kind for each in found)


def _runs(ordered: Sequence[Lesson]) -> tuple[_Run, ...]:
    """Return lessons with numbers by runs that say the same, the last first."""
    runs = []
    for kind, group in groupby(ordered, key=lambda each: each.kind):
        members = list(group)
        lines = [tuple(split(each.text).slots) for each in members]
        slots = tuple(_values(column, members) for column in zip(*lines, strict=True))
        runs.append(_Run(kind, slots, dict(zip(lines, members, strict=True))))
    return tuple(reversed(runs))


def _values(column: Iterable[str], lessons: Iterable[Lesson]) -> _Values:
    """Return what stands in a slot of lines that follow each other, each with its lesson."""
    said = [(number(slot), each) for slot, each in zip(column, lessons, strict=True)]
    last = {value: each for value, each in said if not math.isnan(value)}
    numbers = tuple(sorted(last))
    nothing = [each for value, each in said if math.isnan(value)]
    return _Values(numbers, tuple(last[v] for v in numbers), nothing[-1] if nothing else None)


def _normal_range(runs: Sequence[_Run], i: int) -> Range:
    """Least and greatest value of a slot that were confirmed to be normal."""
    found = [run.slots[i].numbers for run in runs if run.kind == "normal"]
    ends = [end for numbers in found if numbers for end in (numbers[0], numbers[-1])]
    return (min(ends), max(ends)) if ends else _NOWHERE


class Overlay:
    """Lessons of one model, by where they are looked up.

    Args:
        by_template: they are of lines (an anomaly's); else of exact texts (an intent's).
        name: returns what a template, as it was split, is known by: those that are one to a bundle
            have one name.
    """

    def __init__(self, *, by_template: bool, name: Callable[[str], str] = canonical) -> None:
        self._by_template = by_template
        self._name = name
        self._lessons: dict[int, Lesson] = {}
        self._places: dict[str, tuple[Lesson, ...]] = {}
        self._entries: dict[str, Entry] = {}
        self._found: dict[str, Entry | None] = {}  # by template as split, since the last lesson
        self.familiar = Familiar()
        """Words of templates that are normal by what was said of them last."""

    def __len__(self) -> int:
        return len(self._lessons)

    @property
    def lessons(self) -> Mapping[int, Lesson]:
        """Those that it holds, by number."""
        return self._lessons

    def learn(self, *lessons: Lesson) -> None:
        """Take lessons in; those it has already change nothing."""
        new = {each.id: each for each in lessons if each.id not in self._lessons}
        found: dict[str, list[Lesson]] = {}
        for each in new.values():
            for place in self._where(each):
                found.setdefault(place, []).append(each)
        self._lessons.update(new)
        for place, more in found.items():
            self._put(place, [*self._places.get(place, ()), *more])

    def unlearn(self, *ids: int) -> None:
        """Be as if these had never been learnt; those it does not have change nothing."""
        gone = [self._lessons.pop(id_) for id_ in ids if id_ in self._lessons]
        for each in gone:
            for place in self._where(each):
                self._put(place, [x for x in self._places.get(place, ()) if x.id != each.id])

    def at(self, template: str) -> Entry | None:
        """Return what lessons say of a template, as it was split; None: nothing."""
        if not self._entries:
            return None
        found = self._found
        try:
            return found[template]
        except KeyError:
            entry = self._entries.get(self._name(template))
            if len(found) < FOUND:
                found[template] = entry
            return entry

    def of(self, text: str) -> Lesson | None:
        """Return what a lesson says of a text, first of the exact one; None: nothing.

        What nobody has signed of the exact one is no more than what was signed of one like it.
        """
        if not self._places or (alike := self._places.get(f"~{text.casefold()}")) is None:
            return None
        return _nearer(self._places.get(f"={text}", alike)[-1], alike[-1])

    def contradicted(self, lesson: Lesson) -> Lesson | None:
        """Return the lesson that says otherwise of the very text of `lesson`; None: none does."""
        if not self._by_template:
            said = self.of(lesson.text)
            return None if said is None or _agree(said, lesson) else said
        entry = self.at(split(lesson.text).template)
        return None if entry is None else _against(entry, lesson)

    def overrules(self, lesson: Lesson) -> Lesson | None:
        """Return the lesson that would count all the same if `lesson` were learnt now; None: none.

        It is one that was signed where this is not, or of a later time.
        """
        new = replace(lesson, id=max(self._lessons, default=0) + 1)
        held = [[*self._places.get(place, ()), new] for place in self._where(new)]
        if self._by_template:
            return _against(Entry(held[0]), new)
        last = _nearer(*(max(each, key=lambda lesson: lesson.order) for each in held))
        return None if _agree(last, new) else last

    def is_of_words(self, lesson: Lesson) -> bool:
        """Whether `lesson`, learnt now, would say something of words that the bundle lacks."""
        new = replace(lesson, id=max(self._lessons, default=0) + 1)
        held = [*self._places.get(self._where(new)[0], ()), new]
        return any(each is new for each in _of_words(sorted(held, key=lambda each: each.order)))

    def same(self, lesson: Lesson) -> Lesson | None:
        """Return a lesson that says the same of the same; None: none, or to say it counts anew."""
        found = self._places.get(self._where(lesson)[0], ())
        alike = [x for x in found if _said(x) == _said(lesson) and x.signed >= lesson.signed]
        if not alike:
            return None
        last, now = alike[-1], (lesson.signed, lesson.time, math.inf)
        between = (x for x in found if not _agree(x, lesson) and last.order < x.order < now)
        return None if any(between) else last

    def _where(self, lesson: Lesson) -> tuple[str, ...]:
        if self._by_template:
            return (self._name(split(lesson.text).template),)
        return f"={lesson.text}", f"~{lesson.text.casefold()}"

    def _put(self, place: str, lessons: Iterable[Lesson]) -> None:
        ordered = tuple(sorted(lessons, key=lambda each: each.order))
        if ordered:
            self._places[place] = ordered
        else:
            self._places.pop(place, None)
        if not self._by_template:
            return
        before, after = self._entries.pop(place, None), Entry(ordered) if ordered else None
        if after is not None:
            self._entries[place] = after
        self._found = {}
        was_normal = before is not None and before.is_normal
        if after is not None and after.is_normal:
            if not was_normal:
                self.familiar.add(place)
        elif was_normal:
            self.familiar.remove(place)


def _against(entry: Entry, lesson: Lesson) -> Lesson | None:
    """Return what counts of the very text of a lesson and says otherwise; None: nothing does."""
    slots = split(lesson.text).slots if lesson.whole else []
    covered = entry.covers(slots, lesson.source or "", known=False, seen=())
    if lesson.kind == "normal":
        return covered.fault
    return covered.words if covered.fault is None and all(covered.quiet) else None


def _nearer(exact: Lesson, alike: Lesson) -> Lesson:
    """Return which of two lessons counts: of the very text, and of it in any case of letters."""
    return exact if exact.signed or not alike.signed else alike


def _agree(one: Lesson, other: Lesson) -> bool:
    return (one.kind, one.label) == (other.kind, other.label)


def _said(lesson: Lesson) -> tuple[object, ...]:
    channel = lesson.channel if lesson.channel in WIDER else ""
    said = lesson.kind, lesson.label, lesson.text, lesson.whole, lesson.source
    return *said, channel, lesson.covers
