"""A source that was not in training learns for a while what is its own, and is judged by it then.

Until then, and for good where nothing is learnt, it is judged by what all sources did. What it
learns are lines that were no alarm, of templates that are known, so that a fault does not teach
itself. Its numbers are its own from then on. Its words are only where they have settled: where the
chance that it says something new, by Good and Turing's estimate, is within the alarm budget.
Elsewhere a rare word of a few thousand lines would be an alarm, which training has seen.

A template that a bundle lacks, and that an operator has called normal, has no statistics of its
numbers either. They are gathered from its next lines, and tested by what was gathered.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from edgeslm.core import numbers
from edgeslm.core.numbers import Line
from edgeslm.core.overlay import Range
from edgeslm.core.template import number

LINES: Final = 1000
"""Lines that a source learns from, if nothing else is said."""
FEWEST: Final = 30
"""Lines below which time does not end it: of fewer, statistics say nothing."""
SOURCES: Final = 256
"""Sources that learn, or have learnt, at most; others are judged by what all sources did."""
MAX_SLOTS: Final = 32
"""Slots of a template whose numbers are learnt."""
GATHERED: Final = 8 * FEWEST
"""Lines of a source and template whose numbers are gathered; then its statistics stay."""
PLACES: Final = 256
"""Pairs of source and template whose numbers are gathered at most; others are not tested."""
_NEWS: Final = 4 * SOURCES
_LOOKS: Final = frozenset({FEWEST, 2 * FEWEST, 4 * FEWEST, GATHERED})


class Progress(NamedTuple):
    """How far a source has come."""

    lines: int
    of: int


@dataclass(frozen=True, slots=True)
class Learnt:
    """What one source did while it learnt; by its templates' names, so that any bundle can use it.

    Args:
        source: its name.
        lines: it learnt from, >= 1.
        once: how many templates it used only once.
        templates: those it used, canonical.
        histories: of those with numbers, a history of each slot.
    """

    source: str
    lines: int
    once: int
    templates: frozenset[str]
    histories: Mapping[str, Sequence[numbers.History]]

    def settled(self, budget: float) -> bool:
        """Whether it is within the budget that the next line is of a template new to it."""
        return (self.once + 1) / (self.lines + 1) <= budget


@dataclass(frozen=True, slots=True)
class Began:
    """A source has begun to learn."""

    source: str
    lines: int
    """It will learn from."""


@dataclass(slots=True)
class _Pupil:
    lines: int = 0
    templates: Counter[str] = field(default_factory=Counter)
    slots: dict[str, list[list[float]]] = field(default_factory=dict)


class School:
    """The sources that learn, and those that have. One thread's at a time.

    Args:
        lines: that each learns from; 0: none learns.

    Attributes:
        news: what has happened, oldest first; whoever reads it takes it out.
        refused: lines of sources beyond `SOURCES`.
    """

    def __init__(self, lines: int = LINES) -> None:
        self.lines = lines
        self.news: deque[Began | Learnt] = deque(maxlen=_NEWS)
        self.refused = 0
        self._pupils: dict[str, _Pupil] = {}
        self._learnt: dict[str, Learnt] = {}

    @property
    def learning(self) -> tuple[str, ...]:
        """Sources that learn now."""
        return tuple(self._pupils)

    def learnt(self, source: str) -> Learnt | None:
        """Return what a source has learnt; None: it has not."""
        return self._learnt.get(source) if self._learnt else None

    def recall(self, learnt: Learnt) -> None:
        """Take up what a source has learnt before."""
        if learnt.source in self._learnt or len(self._learnt) < SOURCES:
            self._pupils.pop(learnt.source, None)
            self._learnt[learnt.source] = learnt

    def forget(self, source: str) -> None:
        """Let a source learn anew."""
        self._pupils.pop(source, None)
        self._learnt.pop(source, None)

    def take(
        self, source: str, template: str | None, slots: Sequence[str], *, alarm: bool
    ) -> Progress | None:
        """Let a source learn from its next line; return how far it is, None: it does not learn.

        Args:
            source: that was not in training, and has learnt nothing yet; "" is nobody.
            template: of the line, canonical; None: it is not known.
            slots: what stands in it.
            alarm: it is one, and nothing to learn from.
        """
        if not self.lines or not source:
            return None
        if (pupil := self._pupils.get(source)) is None:
            if len(self._pupils) + len(self._learnt) >= SOURCES:
                self.refused += 1
                return None
            pupil = self._pupils[source] = _Pupil()
            self.news.append(Began(source, self.lines))
        if not alarm and template is not None:
            pupil.lines += 1
            pupil.templates[template] += 1
            if slots:
                columns = pupil.slots.setdefault(template, [[] for _ in slots])
                for column, slot in zip(columns, slots[:MAX_SLOTS], strict=False):
                    column.append(number(slot))
        progress = Progress(pupil.lines, self.lines)
        if pupil.lines >= self.lines:
            self.end(source)
        return progress

    def end(self, source: str, *, fewest: int = 1) -> bool:
        """Let a source be judged by what it has learnt, if that is enough; return whether it is."""
        pupil = self._pupils.get(source)
        if pupil is None or pupil.lines < fewest:
            return False
        del self._pupils[source]
        learnt = Learnt(
            source,
            pupil.lines,
            sum(count == 1 for count in pupil.templates.values()),
            frozenset(pupil.templates),
            {
                template: tuple(numbers.history(column) for column in columns)
                for template, columns in pupil.slots.items()
                if len(columns) <= MAX_SLOTS
            },
        )
        self._learnt[source] = learnt
        self.news.append(learnt)
        return True


class Gathered(NamedTuple):
    """What is known of the numbers of one source and template."""

    line: Line
    scales: tuple[float, ...]
    """Of each slot; see `numbers.History`."""

    def near(self, values: Sequence[float], confirmed: Sequence[Range]) -> tuple[bool, ...]:
        """Return in which slots a number is not far from what was seen, or confirmed.

        It is near where it lies no further beyond than that is wide.
        """
        found = []
        for value, scale, *ends in zip(values, self.scales, self.line.seen, confirmed, strict=True):
            low, high = min(end[0] for end in ends), max(end[1] for end in ends)
            wide = max(high - low, scale)
            found.append(low - wide <= value <= high + wide)
        return tuple(found)


@dataclass(slots=True)
class _Place:
    columns: list[array[float]]
    lines: int = 0
    found: Gathered | None = None


class Gathering:
    """Numbers of templates that a bundle lacks and operators have called normal, by source.

    They are tested from `FEWEST` lines on, by the same statistics as those of training, which are
    made anew whenever the lines have doubled. So few lines do not tell where the range of a number
    ends, and nobody has calibrated them: what is near it passes. One thread's at a time.

    Attributes:
        refused: lines of more than `PLACES`.
    """

    def __init__(self) -> None:
        self.refused = 0
        self._places: dict[tuple[str, str], _Place] = {}

    def at(self, source: str, template: str, width: int) -> Gathered | None:
        """Return what a line of so many slots is to be held against; None: too little is known."""
        place = self._places.get((source, template))
        return None if place is None or len(place.columns) != width else place.found

    def take(self, source: str, template: str, values: Sequence[float]) -> None:
        """Take the numbers of a line that was no alarm; NaN stands for a name."""
        if not 0 < len(values) <= MAX_SLOTS:
            return
        if (place := self._places.get((source, template))) is None:
            if len(self._places) >= PLACES:
                self.refused += 1
                return
            place = self._places[source, template] = _Place([array("d") for _ in values])
        if place.lines == GATHERED or len(place.columns) != len(values):
            return
        for column, value in zip(place.columns, values, strict=True):
            column.append(value)
        place.lines += 1
        if place.lines in _LOOKS:
            place.found = _gathered([numbers.history(column) for column in place.columns])
        if place.lines == GATHERED:
            place.columns = [array("d") for _ in values]


def _gathered(histories: Sequence[numbers.History]) -> Gathered:
    return Gathered(Line(histories), tuple(history.scale for history in histories))
