"""A source that was not in training learns for a while what is its own, and is judged by it then.

Until then, and for good where nothing is learnt, it is judged by what all sources did. What it
learns are lines that were no alarm, of templates that are known, so that a fault does not teach
itself. Its numbers are its own from then on. Its words are only where they have settled: where the
chance that it says something new, by Good and Turing's estimate, is within the alarm budget.
Elsewhere a rare word of a few thousand lines would be an alarm, which training has seen.

Its period ends, whatever it has learnt. Where too few of its lines were normal it has learnt
nothing, and is judged by what all sources did from then on: a machine that is faulty, or works
elsewhere than those of training, does not teach that by itself. Who confirms lines of it as normal
has it begin anew (`School.again`).

All that sources learn is bounded, by their number and by bytes. Names that come once, a thousand of
them, keep nobody from learning: who was heard least gives way, and who was silent for long.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np

from edgeslm.core import numbers
from edgeslm.core.template import number

LINES: Final = 1000
"""Lines that a source learns from, if nothing else is said."""
FEWEST: Final = 30
"""Lines that a source learns its own from at least: of fewer, statistics say nothing."""
HEARD: Final = 2
"""Lines that are heard for each that a source is to learn from; then its period ends."""
TERMS: Final = 30
"""Times as long as it is to learn that a source is waited for of which hardly a line comes."""
SOURCES: Final = 256
"""Sources that learn, or did, at most; others are judged by what all sources did."""
MAX_SLOTS: Final = 32
"""Slots of a template whose numbers are learnt."""
MAX_BYTES: Final = 32 * 2**20
"""Of all that the sources of a model learn and have learnt, about."""
ROOM: Final = 2**18
"""Of what one source learns, bytes, about: beyond it, every second reading is forgotten."""
KEPT: Final = 2
"""Lines of a source from which on a restart does not forget it: names that come once are many."""
_TEMPLATE_BYTES: Final = 512  # of one that a source uses, beside its name and its numbers
_VALUE_BYTES: Final = 9  # of a number; an array has an eighth to spare
_HISTORY_BYTES: Final = 400
_KNOT_BYTES: Final = 72
_NEWS: Final = 4 * SOURCES


class Progress(NamedTuple):
    """How far a source has come."""

    lines: int
    """It has learnt from."""
    of: int
    heard: int
    """Lines that have come."""


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

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        found = sum(_TEMPLATE_BYTES + len(template) for template in self.templates)
        for histories in self.histories.values():
            found += sum(_HISTORY_BYTES + _KNOT_BYTES * len(h.values) for h in histories)
        return found

    def settled(self, budget: float) -> bool:
        """Whether it is within the budget that the next line is of a template new to it."""
        return (self.once + 1) / (self.lines + 1) <= budget


@dataclass(frozen=True, slots=True)
class Dropped:
    """A source gave way to another one: what it has learnt is forgotten."""

    source: str
    """A restart would have known it."""


class Readings:
    """The numbers of one template, row by row; of many, every second, fourth, ... row.

    Args:
        width: numbers in a row.
        values: of the rows that are kept, one after another.
        stride: rows that one that is kept stands for.
        seen: rows that have come.
    """

    __slots__ = ("seen", "stride", "values", "width")

    def __init__(
        self, width: int, values: array[float] | None = None, *, stride: int = 1, seen: int = 0
    ) -> None:
        self.width = width
        self.values = array("d") if values is None else values
        self.stride = stride
        self.seen = seen

    def take(self, row: Sequence[float]) -> int:
        """Take a row in; return how many numbers more are kept."""
        self.seen += 1
        if (self.seen - 1) % self.stride:
            return 0
        self.values.extend(row)
        return self.width

    def thin(self) -> int:
        """Forget every second row; return how many numbers fewer are kept."""
        rows = np.frombuffer(self.values).reshape(-1, self.width)
        before = rows.size
        self.values = array("d", rows[::2].tobytes())
        self.stride *= 2
        return before - len(self.values)

    def histories(self) -> tuple[numbers.History, ...]:
        """Return the history of each slot."""
        rows = np.frombuffer(self.values).reshape(-1, self.width)
        return tuple(numbers.history(column.tolist()) for column in rows.T)


@dataclass(slots=True)
class Pupil:
    """What a source has learnt so far.

    Args:
        lines: it learnt from.
        heard: lines that came, these and others.
        alarms: of these, those that were.
        templates: how often it used each.
        readings: of those with numbers.
        full: it has its fill, and thinning makes no room.
        ended: its period is over, and it has learnt nothing.
    """

    lines: int = 0
    heard: int = 0
    alarms: int = 0
    templates: Counter[str] = field(default_factory=Counter)
    readings: dict[str, Readings] = field(default_factory=dict)
    full: bool = False
    ended: bool = False

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        names = sum(_TEMPLATE_BYTES + len(template) for template in self.templates)
        return names + _VALUE_BYTES * sum(len(one.values) for one in self.readings.values())


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a source has learnt by now, to be kept over a restart; or that it has learnt nothing."""

    source: str
    pupil: Pupil


class School:
    """The sources that learn, and those that did. One thread's at a time.

    Args:
        lines: that each learns from; 0: none learns.

    Attributes:
        news: what has happened, oldest first; whoever reads it takes it out.
        heard: sources of which a line came; whoever reads it puts an empty one in its place.
        silent: sources that were not heard for so long that they may give way.
        refused: lines of sources for which there was no room.
        dropped: sources that gave way to others.
        unkept: lines of which something would not fit.
    """

    def __init__(self, lines: int = LINES) -> None:
        self.lines = lines
        self.news: deque[Learnt | Dropped | Snapshot] = deque(maxlen=_NEWS)
        self.heard: set[str] = set()
        self.silent: Collection[str] = frozenset()
        self.refused = self.dropped = self.unkept = 0
        self._pupils: dict[str, Pupil] = {}
        self._sizes: dict[str, int] = {}  # of each, bytes
        self._held = 0
        self._learnt: dict[str, Learnt] = {}
        self._unlearnt: set[str] = set()

    @property
    def learning(self) -> tuple[str, ...]:
        """Sources that learn now."""
        return tuple(self._pupils)

    @property
    def size(self) -> int:
        """Bytes of all that is held, about."""
        return self._held

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources that learn, or did."""
        return tuple(self._sizes)

    @property
    def unlearnt(self) -> int:
        """Sources that learn no more, and have learnt nothing."""
        return len(self._unlearnt)

    def learns_no_more(self, source: str) -> bool:
        """Whether a source's period is over, whatever came of it."""
        return source in self._learnt or source in self._unlearnt

    def weight(self, source: str) -> int:
        """Return the bytes that a source takes, about."""
        return self._sizes.get(source, 0)

    def learnt(self, source: str) -> Learnt | None:
        """Return what a source has learnt; None: it has not."""
        return self._learnt.get(source) if self._learnt else None

    def hear(self, source: str) -> None:
        """A line of a source has come: it is not silent."""
        if source in self._sizes:
            self.heard.add(source)

    def recall(self, learnt: Learnt) -> None:
        """Take up what a source has learnt before, if there is room."""
        source, size = learnt.source, learnt.size
        full = len(self._sizes) >= SOURCES and source not in self._sizes
        if not full and self._held - self._sizes.get(source, 0) + size <= MAX_BYTES:
            self._leave(source)
            self._learnt[source] = learnt
            self._weigh(source, size)

    def resume(self, source: str, pupil: Pupil) -> None:
        """Let a source that learnt before go on where it was, if there is room."""
        size = pupil.size
        if source in self._sizes or len(self._sizes) >= SOURCES or self._held + size > MAX_BYTES:
            return
        if pupil.ended:
            self._unlearnt.add(source)
        else:
            self._pupils[source] = pupil
        self._weigh(source, size)

    def forget(self, source: str) -> None:
        """Let a source learn anew."""
        self._leave(source)

    def again(self, source: str) -> None:
        """Let a source's period begin anew: lines of it were confirmed. What it learnt stays."""
        if (pupil := self._pupils.get(source)) is not None:
            pupil.heard, pupil.alarms = pupil.lines, 0
        elif source in self._unlearnt:
            self._leave(source)

    def snapshot(self, sources: Collection[str]) -> None:
        """Put into the news what these have learnt by now."""
        for source in sources:
            if (pupil := self._pupils.get(source)) is not None:
                readings = {
                    template: Readings(one.width, one.values[:], stride=one.stride, seen=one.seen)
                    for template, one in list(pupil.readings.items())
                }
                copy = replace(pupil, templates=Counter(pupil.templates), readings=readings)
                self.news.append(Snapshot(source, copy))

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
        if source in self._unlearnt:
            self.heard.add(source)
            return None
        pupil = self._pupils.pop(source, None)  # who was heard last is the last one
        if pupil is None:
            if len(self._sizes) >= SOURCES and not self._make_room():
                self.refused += 1
                return None
            pupil = Pupil()
            self._weigh(source, 0)
        self._pupils[source] = pupil
        self.hear(source)
        pupil.heard += 1
        pupil.alarms += alarm
        if not alarm and template is not None:
            pupil.lines += 1
            self._keep(source, pupil, template, slots[:MAX_SLOTS])
        progress = Progress(pupil.lines, self.lines, pupil.heard)
        if pupil.lines >= self.lines:
            self.end(source)
        elif pupil.heard >= HEARD * max(self.lines, FEWEST):
            self.close(source)
        return progress

    def close(self, source: str, *, waits: bool = False) -> None:
        """End the period of a source, whatever it has learnt.

        Args:
            source: that learns; another one is left alone.
            waits: for more lines, where these are too few to tell.
        """
        pupil = self._pupils.get(source)
        if pupil is None or self.end(source, fewest=FEWEST):
            return
        if not waits or pupil.heard >= HEARD * FEWEST:
            self._leave(source)
            self._unlearnt.add(source)
            self._weigh(source, 0)
            ended = Pupil(pupil.lines, pupil.heard, pupil.alarms, ended=True)
            self.news.append(Snapshot(source, ended))

    def end(self, source: str, *, fewest: int = 1) -> bool:
        """Let a source be judged by what it has learnt, if that is enough; return whether it is."""
        pupil = self._pupils.get(source)
        if pupil is None or pupil.lines < fewest:
            return False
        self._leave(source)
        histories: dict[str, Sequence[numbers.History]] = {}
        once = sum(count == 1 for count in pupil.templates.values())
        templates = frozenset(pupil.templates)
        # Where not all fit, all sources together answer for the numbers of the rarest.
        room = min(2 * ROOM, MAX_BYTES - self._held) - Learnt(source, 1, 0, templates, {}).size
        for template, _ in pupil.templates.most_common():
            if (readings := pupil.readings.get(template)) is not None:
                found = readings.histories()
                room -= sum(_HISTORY_BYTES + _KNOT_BYTES * len(h.values) for h in found)
                if room < 0:
                    break
                histories[template] = found
        learnt = Learnt(source, pupil.lines, once, templates, histories)
        self._learnt[source] = learnt
        self._weigh(source, learnt.size)
        self.news.append(learnt)
        return True

    def _keep(self, source: str, pupil: Pupil, template: str, slots: Sequence[str]) -> None:
        """Keep what a line teaches, as far as there is room."""
        grown = 0
        if template not in pupil.templates:
            grown = _TEMPLATE_BYTES + len(template)
            if not self._fits(source, pupil, grown):
                self.unkept += 1
                return
            if slots:
                pupil.readings[template] = Readings(len(slots))
        pupil.templates[template] += 1
        readings = pupil.readings.get(template)
        if readings is not None and readings.width == len(slots):
            if self._fits(source, pupil, grown + _VALUE_BYTES * len(slots)):
                grown += _VALUE_BYTES * readings.take([number(slot) for slot in slots])
            else:
                self.unkept += 1
        self._weigh(source, self._sizes[source] + grown)

    def _fits(self, source: str, pupil: Pupil, more: int) -> bool:
        """Whether a pupil may grow by so many bytes; its readings are thinned for that."""

        def fits() -> bool:
            return self._sizes[source] + more <= ROOM and self._held + more <= MAX_BYTES

        if not fits() and not pupil.full:
            gone = _VALUE_BYTES * sum(one.thin() for one in pupil.readings.values())
            self._weigh(source, self._sizes[source] - gone)
            pupil.full = gone < ROOM // 16  # it would be looked through again at every line
        return fits()

    def _make_room(self) -> bool:
        """Let a source give way, if there is one that may."""
        # Of those of which as few lines came, who was heard longest ago.
        least = min(self._pupils, key=lambda source: self._pupils[source].heard, default=None)
        if least is None or self._pupils[least].heard >= FEWEST:
            least = next((source for source in self._sizes if source in self.silent), None)
            if least is None:
                return False
        pupil = self._pupils.get(least)
        if pupil is None or pupil.heard >= KEPT:
            self.news.append(Dropped(least))
        self._leave(least)
        self.dropped += 1
        return True

    def _weigh(self, source: str, size: int) -> None:
        self._held += size - self._sizes.get(source, 0)
        self._sizes[source] = size

    def _leave(self, source: str) -> None:
        self._pupils.pop(source, None)
        self._learnt.pop(source, None)
        self._unlearnt.discard(source)
        self._held -= self._sizes.pop(source, 0)
        self.heard.discard(source)
