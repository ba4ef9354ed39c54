"""The two scores of a line, text and number, from what training lines and their sources said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import or_
from typing import Final, NamedTuple

from edgeslm.core.learning import Learnt
from edgeslm.core.memory import LineMemory
from edgeslm.core.novelty import Vocabulary
from edgeslm.core.numbers import History, Line
from edgeslm.core.overlay import Covered, Lesson
from edgeslm.core.template import Split, canonical, number

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
    """Surprise of the numbers, nats, 0 <= number <= `numbers.LIMIT`; 0 for a new template that no
    lesson covers."""
    line: Line | None
    """The histories that the numbers were held against, if there are any; of a new template those
    that were gathered since an operator called it normal."""
    unseen: tuple[str, ...]
    """What is new: words, pairs of words, or a template that its source never used."""
    template: int | None
    """Index of the known template that it is; None if it is new."""
    values: Sequence[float] = ()
    """The numbers in its slots, NaN where there is none; empty for a new template that no lesson
    covers."""
    covered: Covered | None = None
    """What lessons say of it; None: nothing."""
    lesson: Lesson | None = None
    """The one that counted: without it words or numbers would be judged otherwise."""


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
        self._templates = templates
        self._vocabulary = Vocabulary(templates)
        self._everyone = _Source(everyone)
        self._sources = {name: _Source(repertoire) for name, repertoire in sources.items()}

    def knows(self, source: str) -> bool:
        """Whether `source` was in the training lines."""
        return source in self._sources

    def known(self, template: str) -> int | None:
        """Return the index of the known template that this is; None if it is new."""
        return self._vocabulary.look(template).place

    def near(self, template: str) -> tuple[str, ...]:
        """Return the known templates that share most words with a new one, the nearest first."""
        return self._vocabulary.near(template)

    def template_of(self, template: str, memory: LineMemory[_Source]) -> str | None:
        """Return what a source learns of a template; None: it is not known to be normal."""
        if self._vocabulary.look(template).place is None and memory.overlay.at(template) is None:
            return None
        return self.name(template)

    def name(self, template: str) -> str:
        """Return what a template is called: where several were merged, they share it."""
        place = self._vocabulary.look(template).place
        return canonical(template) if place is None else self._templates[place]

    def line(self, parts: Split, source: str, speaker: _Source | None) -> Line | None:
        """Return what a line's numbers are held against; None: it has none, or its template is new.

        Args:
            parts: the line, split.
            source: who said it.
            speaker: what was made of a source that was not in training; None: nothing was yet.
        """
        index = self._vocabulary.look(parts.template).place
        if index is None or not parts.slots:
            return None
        known = self._sources.get(source) or speaker or self._everyone
        return known.lines.get(index) or self._everyone.lines[index]

    def scores(
        self,
        parts: Split,
        source: str,
        distance: float,
        *,
        memory: LineMemory[_Source] | None = None,
        budget: float = 0.0,
    ) -> Scores:
        """Return the scores of a line.

        Args:
            parts: the line, split.
            source: who said it.
            distance: cosine distance of the template's embedding to the nearest known one, in
                [0, 2]; it counts only where the template is new.
            memory: lessons, and what new sources have learnt.
            budget: share of normal lines that may be alarms.
        """
        template, slots = parts
        speaker = self._sources.get(source)
        if speaker is None:
            speaker = self._everyone if memory is None else self._newcomer(source, memory, budget)
        index, words, unseen = self._vocabulary.look(template)
        line: Line | None = None
        values: list[float] = []
        if index is None:
            if memory is not None and (familiar := memory.overlay.familiar):
                _, words, unseen = self._vocabulary.look_beside(template, familiar)
            text = words + DISTANCE * distance + speaker.novelty
        else:
            text = 0.0 if index in speaker.templates else speaker.novelty
            if slots:
                line = speaker.lines.get(index) or self._everyone.lines[index]
                values = [number(slot) for slot in slots]
        if memory is not None and (entry := memory.overlay.at(template)) is not None:
            gathered = None
            if index is None:
                values = [number(slot) for slot in slots]
                gathered = memory.gathering.at(source, self.name(template), len(values))
                line = None if gathered is None else gathered.line
            seen = () if line is None else line.seen
            covered = entry.covers(slots, source, known=index is not None, seen=seen)
            if gathered is not None:
                near = gathered.near(values, covered.confirmed)
                covered = covered._replace(quiet=tuple(map(or_, covered.quiet, near)))
            normal = covered.words is not None and covered.words.kind == "normal"
            surprise = 0.0 if line is None else line.score_without(values, covered.quiet)
            lesson = covered.fault
            if lesson is None and normal and (text or covered.overrules):
                lesson = covered.words
            elif (
                lesson is None
                and covered.numbers is not None
                and (covered.outdoes or (line is not None and line.score(values) > surprise))
            ):
                lesson = covered.numbers
            text = 0.0 if normal else text
            return Scores(text, surprise, line, unseen, index, values, covered, lesson)
        surprise = 0.0 if line is None else line.score(values)
        return Scores(text, surprise, line, unseen, index, values)

    def _newcomer(self, source: str, memory: LineMemory[_Source], budget: float) -> _Source:
        """Return what a source has learnt, as what it is judged by; else everyone."""
        found = memory.speaker(source)
        if found is None:
            return self._everyone
        learnt, speaker = found
        return speaker or memory.made(learnt, self._speaker(learnt, budget))

    def _speaker(self, learnt: Learnt, budget: float) -> _Source:
        look = self._vocabulary.look
        places = {template: look(template).place for template in learnt.templates}
        used = frozenset(place for place in places.values() if place is not None)
        histories = {
            place: histories
            for template, histories in learnt.histories.items()
            if (place := places.get(template)) is not None
            and len(histories) == len(self._everyone.lines[place].seen)
        }
        made = _Source(Repertoire(learnt.lines, learnt.once, used, histories))
        if not learnt.settled(budget):
            made.templates, made.novelty = self._everyone.templates, self._everyone.novelty
        return made
