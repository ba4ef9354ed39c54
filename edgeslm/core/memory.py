"""What a task knows beside its bundle: what operators confirmed, and what new sources have learnt.

Both begin empty, as with the golden file, `infer` and evaluation. An agent fills them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final, Generic, TypeVar

from edgeslm.core.calibration import NUMBER
from edgeslm.core.gathering import Gathering
from edgeslm.core.learning import SOURCES, Learnt, School
from edgeslm.core.overlay import WIDER, WORDS, Kind, Lesson, Overlay
from edgeslm.core.template import canonical

S = TypeVar("S")


class TextMemory:
    """Of a task that judges each text by itself: their order does not matter.

    Args:
        labels: that it may answer.
    """

    ordered: Final = False
    school: Final = None

    def __init__(self, labels: Collection[str] = ()) -> None:
        self.overlay = Overlay(by_template=False)
        self._labels = labels

    def refuses(self, kind: Kind, label: str) -> str | None:
        """Say why it has no use for such a lesson; None where it has."""
        if kind == "normal":
            return "this model knows intents: name the right one, or say that it is none of them"
        if kind == "intent" and label not in self._labels:
            return "this model has no such intent"
        return None

    @staticmethod
    def may_silence(kind: Kind) -> bool:
        """Whether such a lesson may end an alert: each changes the answer, and that may be one."""
        del kind
        return True

    @staticmethod
    def understood(lesson: Lesson) -> Lesson:
        """Return a lesson as it is to be kept."""
        return lesson

    def counts(self) -> dict[str, int]:
        """Return how much it holds."""
        return {"lessons": len(self.overlay)}


def _unknown(lesson: Lesson, speaker: object) -> None:
    """Know nothing of a line's numbers."""
    del lesson, speaker


class LineMemory(Generic[S]):
    """Of a task that judges lines by their sources, for one bundle; one thread's at a time.

    Lessons may come from another thread, see `Overlay`.

    Args:
        name: see there.
        odd: whether the numbers of a lesson's line are unusual, to what was made of its source;
            None: nothing is known of them.
    """

    ordered: Final = True

    def __init__(
        self,
        name: Callable[[str], str] = canonical,
        odd: Callable[[Lesson, S | None], bool | None] = _unknown,
    ) -> None:
        self._odd = odd
        self.overlay = Overlay(by_template=True, name=name)
        self.school = School()
        self.gathering = Gathering()
        self._speakers: dict[str, tuple[Learnt, S]] = {}

    @staticmethod
    def refuses(kind: Kind, label: str) -> str | None:
        """Say why it has no use for such a lesson; None where it has."""
        del label
        return "this model knows no intents: say normal, or anomaly" if kind == "intent" else None

    @staticmethod
    def may_silence(kind: Kind) -> bool:
        """Whether such a lesson may end an alarm."""
        return kind == "normal"

    def understood(self, lesson: Lesson) -> Lesson:
        """Return a lesson as it is to be kept: of an anomaly, with what it speaks of.

        That is its numbers, where these are unusual or made the alarm; else its words, unless a
        window or a session made the alarm. The bundle in force settles it, once: to the next one
        other numbers are usual.
        """
        settled = not lesson.is_of_numbers or lesson.channel in {NUMBER, *WIDER}
        if lesson.kind != "anomaly" or settled:
            return lesson
        found = self.speaker(lesson.source or "")
        odd = self._odd(lesson, None if found is None else found[1])
        if odd is None:
            odd = not self.overlay.is_of_words(lesson)
        return replace(lesson, channel=NUMBER if odd else WORDS)

    def counts(self) -> dict[str, int]:
        """Return how much it holds, and what was too much for it."""
        school = self.school
        return {
            "lessons": len(self.overlay),
            "sources_learning": len(school.learning),
            "sources_unlearnt": school.unlearnt,
            "sources_refused": school.refused,
            "sources_dropped": school.dropped,
            "sources_unkept": school.unkept,
            "numbers_refused": self.gathering.refused,
        }

    def speaker(self, source: str) -> tuple[Learnt, S | None] | None:
        """Return what a source has learnt, and what was made of it; None: it has not."""
        learnt = self.school.learnt(source)
        if learnt is None:
            return None
        held = self._speakers.get(source)
        return held if held is not None and held[0] is learnt else (learnt, None)

    def made(self, learnt: Learnt, speaker: S) -> S:
        """Keep what was made of what a source has learnt; return it."""
        if len(self._speakers) >= SOURCES:  # some of them have given way
            learnt_of = self.school.learnt
            self._speakers = {k: v for k, v in self._speakers.items() if learnt_of(k) is v[0]}
        self._speakers[learnt.source] = learnt, speaker
        return speaker
