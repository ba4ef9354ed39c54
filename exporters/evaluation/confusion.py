"""What was said of what."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from edgeslm.ports import Answer
from exporters.data import ANOMALY, NORMAL, OUT_OF_SCOPE, Row

REJECTED: Final = "(rejected)"
LINES: Final = 5
"""Examples that are named of each pair."""
Confusions = Counter[tuple[str, str]]
"""(truth, said) -> how often."""


class Pair(NamedTuple):
    """A truth, and what was said instead."""

    truth: str
    said: str
    times: int
    lines: list[int]
    """Where the first of them are in their file."""


def confusions(rows: Sequence[Row], answers: Sequence[Answer]) -> Confusions:
    """Count what was said of what: intents, `oos` and rejection, or lines normal and not."""
    return Counter((truth, said) for truth, said, _ in _each(rows, answers))


def worst(rows: Sequence[Row], answers: Sequence[Answer], *, pairs: int) -> list[Pair]:
    """Return the most frequent mistakes, at most so many."""
    lines: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for truth, said, line in _each(rows, answers):
        if not right(truth, said):
            lines[truth, said].append(line)
    found = [Pair(*pair, len(all_of), all_of[:LINES]) for pair, all_of in lines.items()]
    return sorted(found, key=lambda pair: (-pair.times, pair))[:pairs]


def right(truth: str, said: str) -> bool:
    """Return whether this is what should be said."""
    return truth == said or (truth, said) == (OUT_OF_SCOPE, REJECTED)


def _each(rows: Sequence[Row], answers: Sequence[Answer]) -> Iterator[tuple[str, str, int]]:
    for row, answer in zip(rows, answers, strict=True):
        yield truth_of(row, answer), said_of(answer), row.line


def truth_of(row: Row, answer: Answer) -> str:
    """Return what should be said of a row: its label; of a line, whether it is normal."""
    if answer.accepted is None:
        return ANOMALY if row.label == ANOMALY else NORMAL
    return str(row.label)


def said_of(answer: Answer) -> str:
    """Return what is said in the end."""
    return REJECTED if answer.accepted is False else answer.label
