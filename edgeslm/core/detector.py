"""The two scores of a line, text and number, from what training lines and their sources said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from edgeslm.core.novelty import Vocabulary
from edgeslm.core.numbers import History, Line
from edgeslm.core.template import Split, number

DISTANCE: Final = 0.25
"""Weight in the text score of the embedding's cosine distance to the nearest known template."""
SOURCE: Final = 0.1
"""Weight per nat of surprise that this source says something new."""


@dataclass(frozen=True, slots=True)
class Repertoire:
    """What one source said in training, or all of them together.

    Args:
        lines: how many lines, >= 1.
        once: how many templates it used only once.
        templates: indices of the templates it used.
        histories: by template, one history per slot, for templates that it used often.
    """

    lines: int
    once: int
    templates: frozenset[int]
    histories: Mapping[int, Sequence[History]]

    @property
    def surprise(self) -> float:
        """How surprising it is that this source says something new, nats, >= 0.

        By Good and Turing's estimate of the chance: the share of lines whose template came once.
        A valve that said one thing a thousand times surprises more than an operator's log.
        """
        return math.log((self.lines + 1) / (min(self.once, self.lines) + 1))


class Scores(NamedTuple):
    """Both scores of a line, and what they are of."""

    text: float
    """0 where this source is known to use the template; else 0 < text < 4."""
    number: float
    """Surprise of the numbers, nats, 0 <= number <= `numbers.LIMIT`; 0 for a new template."""
    line: Line | None
    """The histories that the numbers were held against, if there are any."""
    unseen: str
    """What is new: a word, a pair of words, or a template that its source never used."""
    template: int | None
    """Index of the known template that it is; None if it is new."""
    values: Sequence[float] = ()
    """The numbers in its slots, NaN where there is none; empty for a new template."""


class _Source:
    """A repertoire, ready to be asked."""

    __slots__ = ("lines", "novelty", "templates")

    def __init__(self, repertoire: Repertoire) -> None:
        self.templates = repertoire.templates
        self.novelty = SOURCE * repertoire.surprise
        self.lines = {i: Line(h) for i, h in repertoire.histories.items() if h}


class Detector:
    """Scores lines; immutable, so any thread may use it.

    Args:
        templates: distinct canonical forms, in the order of their indices.
        everyone: all sources together; it has histories for every template with slots, and
            answers for sources that are unknown and templates that are new to their source.
        sources: each source's own repertoire.
    """

    def __init__(
        self, templates: Sequence[str], everyone: Repertoire, sources: Mapping[str, Repertoire]
    ) -> None:
        self._vocabulary = Vocabulary(templates)
        self._everyone = _Source(everyone)
        self._sources = {name: _Source(repertoire) for name, repertoire in sources.items()}

    def knows(self, source: str) -> bool:
        """Whether `source` was in the training lines."""
        return source in self._sources

    def known(self, template: str) -> int | None:
        """Return the index of the known template that this is; None if it is new."""
        return self._vocabulary.look(template).place

    def near(self, template: str) -> list[str]:
        """Return the known templates that share most words with a new one, the nearest first."""
        return self._vocabulary.near(template)

    def scores(self, parts: Split, source: str, distance: float) -> Scores:
        """Return the scores of a line.

        Args:
            parts: the line, split.
            source: who said it.
            distance: cosine distance of the template's embedding to the nearest known one, in
                [0, 2]; it counts only where the template is new.
        """
        template, slots = parts
        speaker = self._sources.get(source, self._everyone)
        index, words, unseen = self._vocabulary.look(template)
        if index is None:
            return Scores(words + DISTANCE * distance + speaker.novelty, 0.0, None, unseen, None)
        text = 0.0 if index in speaker.templates else speaker.novelty
        if not slots:
            return Scores(text, 0.0, None, unseen, index)
        line = speaker.lines.get(index) or self._everyone.lines[index]
        values = [number(slot) for slot in slots]
        return Scores(text, line.score(values), line, unseen, index, values)
