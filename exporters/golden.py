"""Chooses the golden cases, and measures how far a device may be from them.

A device differs from this machine in the order of float additions; dynamic int8 then rounds
some activation the other way. How much that moves an answer is measured here, on a twin of the
graph: the same weights, not fused, so every sum is made by other kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Final

from edgeslm.contract.golden import GoldenCase, GoldenExpectation, GoldenRequest
from edgeslm.contract.manifest import Tolerance
from edgeslm.ports import Answer
from exporters.data import Row

CASES: Final = 48  # of the 32 to 64 that a device replays in about a tenth of a second
_PER_SIDE: Final = 4  # nearest to the threshold, from either side; and surest beyond it
_UNSURE: Final = 0.5  # confidence up to which another label may be as likely
_FLOOR: Final = 1e-4  # float32 through six layers, without any int8 rounding
_SAFETY: Final = 3.0  # times the worst difference seen: a device's kernels are others again
_DIGITS: Final = 6
_MAX_TEXT: Final = 65_536  # characters; see contract/golden.py


@dataclass(frozen=True, slots=True)
class Judged:
    """A row and what the artifact said of it."""

    row: Row
    answer: Answer

    @property
    def flagged(self) -> bool:
        """Beyond the threshold: rejected, or an anomaly."""
        said = self.answer.accepted
        return self.answer.label == "anomaly" if said is None else not said


def strange_rows(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield texts made of the first `rows`: as they are, written backwards, and two in one.

    So few examples still give enough cases, and some beyond the threshold.
    """
    few = rows[:CASES]
    for row, other in zip(few, reversed(few), strict=True):
        for text in (row.text, row.text[::-1], f"{row.text} {other.text}"):
            yield Row(text[:_MAX_TEXT], row.label, row.source, row.time, row.key)


def choose(judged: Sequence[Judged], *, threshold: float) -> list[Judged]:
    """Return up to `CASES` of different texts: both sides of the threshold, then label by label.

    The order of preference is fixed, so the same answers give the same cases.
    """
    distinct = list({(j.row.text, j.row.source): j for j in reversed(judged)}.values())[::-1]
    passed = [j for j in distinct if not j.flagged]
    flagged = [j for j in distinct if j.flagged]
    sides = [
        *sorted(passed, key=lambda j: abs(j.answer.score - threshold))[:_PER_SIDE],
        *sorted(flagged, key=lambda j: abs(j.answer.score - threshold))[:_PER_SIDE],
        *sorted(flagged, key=lambda j: -j.answer.confidence)[:_PER_SIDE],
    ]
    by_label: dict[tuple[bool, str], list[Judged]] = {}
    for j in distinct:
        by_label.setdefault((j.flagged, j.answer.label), []).append(j)
    rounds = zip_longest(*(by_label[key] for key in sorted(by_label)))
    dealt = (j for turn in rounds for j in turn if j is not None)
    chosen: dict[int, Judged] = {}
    for j in chain(sides, dealt):
        if len(chosen) == CASES:
            break
        chosen.setdefault(id(j), j)
    return list(chosen.values())


def tolerance(answers: Sequence[Answer], twins: Sequence[Answer]) -> Tolerance:
    """Return what a device may differ by, from what the twin differs by."""
    pairs = list(zip(answers, twins, strict=True))
    score = max(abs(a.score - b.score) for a, b in pairs)
    confidence = max(abs(a.confidence - b.confidence) for a, b in pairs)
    return Tolerance(
        score=_allowed(score), confidence=min(1.0, _allowed(confidence)), verified="measured"
    )


def _allowed(worst: float) -> float:
    return float(f"{max(_FLOOR, _SAFETY * worst):.2g}")


def render(
    chosen: Sequence[Judged], twins: Sequence[Answer], *, threshold: float, allowed: Tolerance
) -> bytes:
    """Return the golden file: one case per line."""
    lines = []
    for case, twin in zip(chosen, twins, strict=True):
        row, answer = case.row, case.answer
        # Within what may differ, the verdict or the best label may be another.
        unsure = answer.accepted is not None and answer.confidence <= _UNSURE + allowed.confidence
        near = (
            unsure
            or abs(answer.score - threshold) <= allowed.score
            or (answer.label, answer.accepted) != (twin.label, twin.accepted)
        )
        golden = GoldenCase(
            request=GoldenRequest(text=row.text, source=row.source, time=row.time, key=row.key),
            expect=GoldenExpectation(
                label=answer.label,
                accepted=answer.accepted,
                score=_rounded(answer.score),
                confidence=_rounded(answer.confidence),
                p_value=None if answer.p_value is None else _rounded(answer.p_value),
            ),
            near_threshold=near,
        )
        lines.append(golden.model_dump_json() + "\n")
    return "".join(lines).encode("utf-8")


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
