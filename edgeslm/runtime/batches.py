"""Which texts go through a model together, where rows do not depend on their neighbours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from edgeslm.ports import Tensor

MASK: Final = "attention_mask"
"""A graph that takes it may be fed padded rows."""
TOGETHER: Final = 32
"""Most texts to ask a model at once: the first of them waits for the last."""
LARGEST: Final = 8
"""Texts of one inference. Measured on MiniLM, more bring nothing, and hold up the first."""
PADDING: Final = 1.25
"""Longest over shortest of one inference: what is padded is computed, too."""
CHEAP: Final = 1_000_000
"""Multiply-adds of a graph below which a run costs more than what is padded: one without layers has
a tenth of them, MiniLM three hundred times as many."""


def groups(lengths: Sequence[int], *, padding: float) -> list[list[int]]:
    """Return which of these go together: indices, each in one group, alike in length.

    Args:
        lengths: in tokens.
        padding: longest over shortest of a group, at most; 1: rows cannot be padded.
    """
    ordered = sorted(range(len(lengths)), key=lengths.__getitem__)
    found: list[list[int]] = []
    for i in ordered:
        if found:
            shortest = lengths[found[-1][0]]
            if lengths[i] <= shortest * padding and len(found[-1]) < LARGEST:
                found[-1].append(i)
                continue
        found.append([i])
    return found


def most_padding(inputs: Sequence[str], operations: int) -> float:
    """Return what `groups` may pad for a graph.

    Args:
        inputs: of the graph.
        operations: multiply-adds of one inference; 0: not known.
    """
    if MASK not in inputs:
        return 1.0
    return math.inf if 0 < operations < CHEAP else PADDING


def stack(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return [rows, longest] of each input from rows [1, sequence], padded with zeros."""
    longest = max(next(iter(row.values())).shape[1] for row in rows)
    stacked: dict[str, Tensor] = {}
    for name, first in rows[0].items():
        # Not np.pad, which takes longer than a small graph that is fed by it.
        stacked[name] = np.zeros((len(rows), longest), dtype=first.dtype)
        for at, row in enumerate(rows):
            value = row[name]
            stacked[name][at, : value.shape[1]] = value[0]
    return stacked
