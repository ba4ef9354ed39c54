"""What is gathered of the numbers of templates that a bundle lacks.

One that an operator has called normal has no statistics of its numbers. They are gathered from its
next lines, and tested by what was gathered.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from edgeslm.core import numbers
from edgeslm.core.learning import FEWEST, MAX_SLOTS
from edgeslm.core.numbers import Line
from edgeslm.core.overlay import Range

GATHERED: Final = 8 * FEWEST
"""Lines of a source and template whose numbers are gathered; then its statistics stay."""
PLACES: Final = 256
"""Pairs of source and template whose numbers are gathered at most; others are not tested."""
_LOOKS: Final = frozenset({FEWEST, 2 * FEWEST, 4 * FEWEST, GATHERED})


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
