"""Batches of texts of equal length: nothing is padded that need not be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

SIZE: Final = 32
"""Texts of a whole batch."""
_MOST_TOKENS: Final = 4096  # of a batch: long texts come fewer at a time, or memory would end
Batch = NDArray[np.int64]
"""Numbers of texts."""


def most(length: int) -> int:
    """Return how many texts of this many tokens go together."""
    return max(1, min(SIZE, _MOST_TOKENS // length))


def deal(lengths: Sequence[int], random: np.random.Generator) -> list[Batch]:
    """Return one epoch's batches, in the order in which they are taken; each text is in one.

    Of each length as many whole batches as there are; what is left over goes together by length,
    so that few tokens are padded.

    Args:
        lengths: of each text, in tokens.
        random: of the order.
    """
    shuffled = random.permutation(len(lengths))
    ordered = shuffled[np.argsort(np.array(lengths)[shuffled], kind="stable")]
    batches: list[Batch] = []
    left: list[int] = []
    start = 0
    for i in range(1, len(ordered) + 1):
        length = lengths[ordered[start]]
        if i < len(ordered) and lengths[ordered[i]] == length:
            continue
        size = most(length)
        alike = ordered[start:i]
        whole = len(alike) // size * size
        batches += [alike[at : at + size] for at in range(0, whole, size)]
        left += alike[whole:].tolist()
        start = i
    batches += by_length(left, lengths)
    return [batches[i] for i in random.permutation(len(batches))]


def by_length(texts: Sequence[int], lengths: Sequence[int]) -> list[Batch]:
    """Return batches of neighbours by length, the shortest first."""
    batches: list[Batch] = []
    waiting: list[int] = []
    for text in sorted(texts, key=lambda i: (lengths[i], i)):
        if len(waiting) >= most(lengths[text]):
            batches.append(np.array(waiting))
            waiting = []
        waiting.append(text)
    return [*batches, np.array(waiting)] if waiting else batches


def pad(texts: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return token ids and mask, int64 [texts, longest]; no matter what stands where it is 0."""
    longest = max(map(len, texts))
    ids = np.zeros((len(texts), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask
