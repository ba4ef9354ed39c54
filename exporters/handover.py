"""From which confidence on the first stage of a cascade answers, for a stated loss of accuracy.

The loss is that of the answers that the first stage keeps: how often it is wrong there and the
second right, less how often it is the other way round. On some hundreds of texts that is a
difference of a few, so what is held against the bound is the loss seen and its standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import RejectedError
from edgeslm.ports import Answer
from edgeslm.runtime.cascade import is_sure

POINTS: Final = 100.0
_ERRORS: Final = 1.0  # standard errors that a loss must stay below the bound by


class FewTextsError(RejectedError):
    """The texts are too few to find a hand-over by."""

    code = "cascade.too_few"


@dataclass(frozen=True, slots=True)
class HandOver:
    """A threshold, and what it came to on the texts that it was found by.

    Args:
        confidence: the first stage answers where it has more.
        share: of the texts that the second answers, in [0, 1].
        lost: points of accuracy, against the second alone.
        error: standard error of that, in points.
        texts: how many.
    """

    confidence: float
    share: float
    lost: float
    error: float
    texts: int


def find(
    first: Sequence[Answer], second: Sequence[Answer], truth: Sequence[str], *, lose: float
) -> HandOver:
    """Return the lowest threshold down to which the loss stays within `lose` points.

    Args:
        first: answers of the first stage to texts in scope that neither stage was fitted on.
        second: those of the second stage.
        truth: the right labels.
        lose: points of accuracy that may be lost.

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
    changed = np.array([
        (other.label == right) - (one.label == right)
        for one, other, right in zip(first, second, truth, strict=True)
    ])  # fmt: skip
    # What it rejects is never kept.
    confidence = np.array([one.confidence if is_sure(one, 0.0) else -1.0 for one in first])
    order = np.argsort(-confidence, kind="stable")
    kept, changed = confidence[order], changed[order]
    lost, error = _loss(changed, texts)
    # Texts of one confidence go together; a threshold below all is none.
    last = np.append(kept[1:] < kept[:-1], True) & (kept >= 0)
    within = np.cumprod(lost + _ERRORS * error <= lose).astype(bool) & last
    if not within.any():
        return HandOver(1.0, 1.0, 0.0, 0.0, texts)
    at = int(np.flatnonzero(within)[-1])
    below = float(max(kept[at + 1], 0.0)) if at + 1 < texts else 0.0
    between = (float(kept[at]) + below) / 2  # since a device's kernels differ by a little
    return HandOver(
        between if between < kept[at] else below,
        1 - (at + 1) / texts,
        float(lost[at]),
        float(error[at]),
        texts,
    )


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
