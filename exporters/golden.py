"""Chooses the golden cases, and measures how far a device may be from them.

Besides, they hold what the user has labelled an anomaly, so that a device knows these faults.

A device differs from this machine in the order of float additions; dynamic int8 then rounds
some activations the other way. How far that moves an answer is measured here, on a twin of the
graph: the same weights, not fused, so that other kernels make every sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Final

from edgeslm.contract.golden import GoldenCase, GoldenExpectation, GoldenRequest
from edgeslm.contract.manifest import Tolerance
from edgeslm.core.template import canonical
from edgeslm.ports import Answer
from exporters.data import ANOMALY, MAX_TEXT, Row

POOL: Final = 160
"""Cases that the twin answers too, and of which the golden file takes the surest."""
CASES: Final = 48
"""In the golden file: a device replays them in about a tenth of a second."""
FAULTS: Final = 64
"""Known faults that it holds besides, at most."""
_FAULT_CHARS: Final = 1 << 17  # of their texts
UNIT: Final = Tolerance(score=1.0, confidence=1.0, verified="none")
_BORDERLINE: Final = 4  # kept although a device may judge them otherwise: their scores must hold
_FLOOR: Final = 1e-4  # float32 through six layers, without any int8 rounding
_SAFETY: Final = 2.0  # times the worst difference seen: a device's kernels are others again
_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class Judged:
    """A row and what the artifact says of it."""

    row: Row
    answer: Answer

    @property
    def flagged(self) -> bool:
        """Beyond the threshold: rejected, or an anomaly."""
        accepted = self.answer.accepted
        return self.answer.label == ANOMALY if accepted is None else not accepted


@dataclass(frozen=True, slots=True)
class Twin:
    """A candidate for the golden file, with what the twin says of it."""

    judged: Judged
    answer: Answer

    def agrees(self) -> bool:
        """Whether label and verdict are the same."""
        one, other = self.judged.answer, self.answer
        return (one.label, one.accepted) == (other.label, other.accepted)


@dataclass(frozen=True, slots=True)
class Case:
    """A case of the golden file.

    Args:
        judged: a row, and what is expected.
        near: a device may judge it otherwise.
        fault: the user has labelled it an anomaly.
    """

    judged: Judged
    near: bool
    fault: bool = False


Surety = Callable[[Answer, Tolerance], float]
"""`exporters.recipes.base.Recipe.surety` of one bundle."""


def strange_rows(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield texts made of the first `rows`: as they are, written backwards, and two in one.

    So few examples still give enough cases, and some beyond the threshold.
    """
    few = rows[:CASES]
    for row, other in zip(few, reversed(few), strict=True):
        for text in (row.text, row.text[::-1], f"{row.text} {other.text}"):
            yield Row(text[:MAX_TEXT], row.label, row.source, row.time, row.key)


def choose(judged: Sequence[Judged], surety: Surety, *, cases: int) -> list[Judged]:
    """Return up to `cases` of different texts: both sides of the threshold, then label by label.

    The order of preference is fixed, so the same answers give the same cases.
    """
    distinct = list({(j.row.text, j.row.source): j for j in reversed(judged)}.values())[::-1]
    by_surety = sorted(distinct, key=lambda j: surety(j.answer, UNIT))
    per_side = cases // 12
    passed = [j for j in by_surety if not j.flagged][:per_side]
    flagged = [j for j in by_surety if j.flagged]
    by_label: dict[tuple[bool, str], list[Judged]] = {}
    for j in distinct:
        by_label.setdefault((j.flagged, j.answer.label), []).append(j)
    rounds = zip_longest(*(by_label[key] for key in sorted(by_label)))
    dealt = (j for turn in rounds for j in turn if j is not None)
    chosen: dict[int, Judged] = {}
    for j in chain(passed, flagged[:per_side], flagged[::-1][:per_side], dealt):
        if len(chosen) == cases:
            break
        chosen.setdefault(id(j), j)
    return list(chosen.values())


def known_faults(judged: Sequence[Judged]) -> list[Judged]:
    """Return lines that the user has labelled anomalies, up to `FAULTS`, one of each kind.

    A kind is a template where its words are new, else also a source, and the number or what else
    was odd: a lesson silences by these. Of each it is the one nearest to normal, which a lesson
    reaches first. Where there are too many, each template comes before a second kind of one, and
    what was found before what was missed. A line that was missed although its words are known is
    left out: no lesson changes what is said of it.

    The same answers give the same lines.
    """
    found = [
        j
        for j in judged
        if j.row.label == ANOMALY
        and j.answer.accepted is None  # of an intent the label means what its user likes
        and (j.flagged or j.answer.new)
    ]
    nearest: dict[tuple[object, ...], Judged] = {}
    for j in sorted(found, key=lambda j: (not j.flagged, j.answer.score)):
        nearest.setdefault(_kind(j), j)
    templates: set[object] = set()
    firsts: list[Judged] = []
    others: list[Judged] = []
    for (template, *_), j in nearest.items():
        (others if template in templates else firsts).append(j)
        templates.add(template)
    chosen: list[Judged] = []
    room = _FAULT_CHARS
    for j in [*firsts, *others]:
        if len(chosen) < FAULTS and len(j.row.text) <= room:
            chosen.append(j)
            room -= len(j.row.text)
    return chosen


def without(judged: Sequence[Judged], faults: Sequence[Judged]) -> list[Judged]:
    """Return what has no text and source of `faults`."""
    theirs = {(j.row.text, j.row.source) for j in faults}
    return [j for j in judged if (j.row.text, j.row.source) not in theirs]


def _kind(judged: Judged) -> tuple[object, ...]:
    """Return what faults that one lesson would silence have in common, its template first."""
    answer = judged.answer
    template = canonical(answer.template or "")
    if answer.new:
        return (template,)
    odd = [(cause["channel"], cause.get("slot")) for cause in answer.explanation[:1]]
    return template, judged.row.source, *odd


def tolerance(pool: Sequence[Twin]) -> Tolerance:
    """Return what a device may differ by, from what the twin differs by."""
    pairs = [(twin.judged.answer, twin.answer) for twin in pool]
    score = max(abs(a.score - b.score) for a, b in pairs)
    confidence = max(abs(a.confidence - b.confidence) for a, b in pairs)
    return Tolerance(
        score=_allowed(score), confidence=min(1.0, _allowed(confidence)), verified="measured"
    )


def pick(
    pool: Sequence[Twin], surety: Surety, *, allowed: Tolerance, faults: Sequence[Twin] = ()
) -> list[Case]:
    """Return the cases of the golden file: most of them sure, some at the threshold; all faults."""

    def is_sure(twin: Twin) -> bool:
        return twin.agrees() and surety(twin.judged.answer, allowed) > 1

    sure: list[Judged] = []
    borderline: list[Judged] = []
    for twin in pool:
        (sure if is_sure(twin) else borderline).append(twin.judged)
    chosen = choose(sure, surety, cases=CASES - min(_BORDERLINE, len(borderline)))
    near = choose(borderline, surety, cases=CASES - len(chosen))
    cases = [Case(j, near=False) for j in chosen] + [Case(j, near=True) for j in near]
    return cases + [Case(twin.judged, near=not is_sure(twin), fault=True) for twin in faults]


def in_sequence(
    cases: Sequence[Case], answers: Sequence[Answer], surety: Surety, *, allowed: Tolerance
) -> list[Case]:
    """Return the cases with what is said of them when they are asked in this order."""
    return [
        replace(
            case,
            judged=Judged(case.judged.row, answer),
            near=case.near or surety(answer, allowed) <= 1,
        )
        for case, answer in zip(cases, answers, strict=True)
    ]


def golden_file(cases: Sequence[Case]) -> bytes:
    """Return the golden file: a case a line."""
    return "".join(map(_line, cases)).encode("utf-8")


def _line(case: Case) -> str:
    row, answer = case.judged.row, case.judged.answer
    line = GoldenCase(
        request=GoldenRequest(text=row.text, source=row.source, time=row.time, key=row.key),
        expect=GoldenExpectation(
            label=answer.label,
            accepted=answer.accepted,
            score=_rounded(answer.score),
            confidence=_rounded(answer.confidence),
            p_value=None if answer.p_value is None else _rounded(answer.p_value),
            stage=answer.stage,
        ),
        near_threshold=case.near,
        fault=case.fault,
    )
    # Devices that do not know a field yet read bundles that do not need it.
    unsaid = None if case.fault else {"fault"}
    return line.model_dump_json(exclude_none=True, exclude=unsaid) + "\n"


def _allowed(worst: float) -> float:
    return float(f"{max(_FLOOR, _SAFETY * worst):.2g}")


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
