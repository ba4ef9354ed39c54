"""When the first stage of a cascade answers, for a stated loss of accuracy.

It keeps an answer that it is surer of than one threshold, and a rejection of what is further out of
scope than another. The loss is that of what it keeps: how often it is wrong there and the second
right, less how often it is the other way round. A text in scope that it rejects for good is lost
where the second knows better, and never won. On some hundreds of texts that is a difference of a
few, so what is held against the bound is the loss seen and its standard error.

Nor may the first take, of the texts out of scope that there are, more than `TAKEN` points that the
second would reject.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeslm.contract.manifest import Tolerance
from edgeslm.errors import RejectedError
from edgeslm.ports import Answer
from edgeslm.runtime.cascade import Bounds, is_sure, sureness
from edgeslm.tasks.intent import IntentParameters, p_value

POINTS: Final = 100.0
TAKEN: Final = 5.0
"""Points of the texts out of scope that the first may take though the second would not."""
_ERRORS: Final = 1.0  # standard errors that a loss must stay below the bound by
# Of p-values: confidence alone, and half of it where one text of 1,000 is so far out.
_EXPONENTS: Final = (None, 0.1)


class FewTextsError(RejectedError):
    """The texts are too few to find a hand-over by."""

    code = "cascade.too_few"


@dataclass(frozen=True, slots=True)
class HandOver:
    """Bounds, and what they came to on the texts that they were found by.

    Args:
        bounds: of the answers of the first stage that stand.
        share: of the texts in scope that the second answers, in [0, 1].
        rejected: of the texts in scope that the first rejects for good.
        lost: points of accuracy, against the second alone.
        error: standard error of that, in points.
        texts: how many, in scope.
        taken: points of the texts out of scope that the first takes and the second would reject;
            None: there were none.
    """

    bounds: Bounds
    share: float
    rejected: float
    lost: float
    error: float
    texts: int
    taken: float | None = None


def find(
    first: Sequence[Answer],
    second: Sequence[Answer],
    truth: Sequence[str],
    *,
    lose: float,
    outside: tuple[Sequence[Answer], Sequence[Answer]] = ((), ()),
) -> HandOver:
    """Return the bounds that hand over the fewest texts, for a loss within `lose` points.

    Of each threshold of scores, and each way to count confidence, that is the lowest threshold of
    confidence down to which the loss stays within, and no more than `TAKEN` is taken.

    Args:
        first: answers of the first stage to texts in scope that neither stage was fitted on.
        second: those of the second stage.
        truth: the right labels.
        lose: points of accuracy that may be lost.
        outside: answers of both stages to texts out of scope; without any the first rejects
            nothing for good. How far out it puts them may owe something to them, but no loss of
            accuracy is told by them.

    Raises:
        FewTextsError: a single text is more than `lose` points.
    """
    texts = len(truth)
    if texts * lose < POINTS:
        msg = (
            f"{texts} texts that neither stage was fitted on are too few to tell a loss of "
            f"{lose:g} points: at least {int(np.ceil(POINTS / lose))} are needed. Give more with "
            "--data, or allow more with --lose."
        )
        raise FewTextsError(msg)
    strange = [
        one
        for one, other in zip(*outside, strict=True)
        if one.accepted is not False and other.accepted is False
    ]
    at_most = int(TAKEN * len(outside[0]) / POINTS)
    best = HandOver(Bounds(1.0), 1.0, 0.0, 0.0, 0.0, texts, 0.0 if outside[0] else None)
    fewest = texts + len(outside[0])
    for exponent in _EXPONENTS:
        kept = _Kept(first, second, truth, lose=lose, p_exponent=exponent)
        surest = sorted((sureness(one, exponent) for one in strange), reverse=True)
        floor = surest[at_most] if len(surest) > at_most else -1.0
        for above in (None, *(kept.rejections() if outside[0] else ())):
            if (found := kept.least(above, floor)) is None:
                continue
            handed = round(found.share * texts)
            handed += sum(not is_sure(one, found.bounds) for one in outside[0])
            if handed < fewest:
                taken = sum(is_sure(one, found.bounds) for one in strange)
                points = POINTS * taken / len(outside[0]) if outside[0] else None
                best, fewest = replace(found, taken=points), handed
    return best


def settled(
    answer: Answer, bounds: Bounds, limits: Tolerance, parameters: IntentParameters
) -> bool:
    """Whether every device has the same stage answer: however far off its first one may be.

    Args:
        answer: of the first stage, here.
        bounds: of the hand-over.
        limits: how far a device's first stage may be off.
        parameters: of the first stage.
    """
    above = bounds.rejects_above
    if above is not None and abs(answer.score - above) <= limits.score:
        return False
    low, high = (
        sureness(
            answer._replace(
                confidence=min(1.0, max(0.0, answer.confidence + off * limits.confidence)),
                p_value=p_value(parameters.calibration, answer.score - off * limits.score),
            ),
            bounds.p_exponent,
        )
        for off in (-1, 1)
    )
    if low <= bounds.confidence <= high:
        return False
    is_kept = is_sure(answer._replace(accepted=None), bounds)
    return not is_kept or abs(answer.score - parameters.threshold) > limits.score


class _Kept:
    """What is lost by what the first stage keeps.

    Args:
        first: see `find`.
        second: see there.
        truth: see there.
        lose: see there.
        p_exponent: of `Bounds`.
    """

    def __init__(
        self,
        first: Sequence[Answer],
        second: Sequence[Answer],
        truth: Sequence[str],
        *,
        lose: float,
        p_exponent: float | None,
    ) -> None:
        both = list(zip(first, second, truth, strict=True))
        # What it rejects is kept by the score alone.
        nothing = Bounds(0.0, None, p_exponent)
        self._sureness = np.array([
            sureness(one, p_exponent) if is_sure(one, nothing) else -1.0 for one in first
        ])  # fmt: skip
        self._score = np.array([one.score if one.accepted is False else -np.inf for one in first])
        self._furthest = max(one.score for one in first)
        self._answered = np.array([
            (other.label == right) - (one.label == right) for one, other, right in both
        ])  # fmt: skip
        self._rejected = np.array([
            int(other.label == right and (other.accepted is not False or one.label != right))
            for one, other, right in both
        ])  # fmt: skip
        self._lose = lose
        self._p_exponent = p_exponent

    def rejections(self) -> Iterator[float]:
        """Yield thresholds of scores: above all texts in scope, and down to the last but one."""
        yield self._furthest
        scores = np.unique(self._score[np.isfinite(self._score)])[::-1]
        # Between two, since a device's kernels differ by a little.
        yield from ((scores[:-1] + scores[1:]) / 2).tolist()

    def least(self, above: float | None, floor: float) -> HandOver | None:
        """Return the lowest threshold beside one of scores; None: whichever loses too much.

        It is not below `floor`.
        """
        out = np.zeros(len(self._score), bool) if above is None else self._score > above
        key = np.where(out, np.inf, self._sureness)
        order = np.argsort(-key, kind="stable")
        kept = key[order]
        lost, error = _loss(np.where(out, self._rejected, self._answered)[order], len(kept))
        # Texts of one confidence go together; a threshold below all is none.
        last = np.append(kept[1:] < kept[:-1], True) & (kept >= 0) & (kept > floor)
        within = np.cumprod(lost + _ERRORS * error <= self._lose).astype(bool) & last
        if not within.any():
            return None
        at = int(np.flatnonzero(within)[-1])
        rejected = int(out.sum())
        return HandOver(
            Bounds(
                max(_between(kept, at), floor) if at >= rejected else 1.0, above, self._p_exponent
            ),
            1 - (at + 1) / len(kept),
            rejected / len(kept),
            float(lost[at]),
            float(error[at]),
            len(kept),
        )


def _between(kept: NDArray[np.float64], at: int) -> float:
    """Return what is below one confidence, and not below the next, which a little may change."""
    below = float(max(kept[at + 1], 0.0)) if at + 1 < len(kept) else 0.0
    between = (float(kept[at]) + below) / 2
    return between if between < kept[at] else below


def _loss(
    changed: NDArray[np.int64], texts: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points lost if the first n answers are kept, for each n, and their standard errors.

    Args:
        changed: of each answer, 1 where only the second stage is right, -1 where only the first.
        texts: all.

    Source:
        Variance of a difference of paired proportions: Agresti, Categorical Data Analysis, 3rd
        edition, section 11.1.
    """
    net, differ = np.cumsum(changed), np.cumsum(np.abs(changed))
    variance = np.maximum(differ - net**2 / texts, 0.0)
    return POINTS * net / texts, POINTS * np.sqrt(variance) / texts
