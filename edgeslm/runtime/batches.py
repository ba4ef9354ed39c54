"""Which texts go through a model together, where rows do not depend on their neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from edgeslm.ports import Tensor

MASK: Final = "attention_mask"
"""A graph that takes it may be fed padded rows."""
LARGEST: Final = 8
"""Texts of one inference. Measured on MiniLM, more bring nothing, and hold up the first."""
_PADDING: Final = 1.25  # longest over shortest of one inference: what is padded is computed too


def groups(lengths: Sequence[int], *, pad: bool) -> list[list[int]]:
    """Return which of these go together: indices, each in one group, alike in length.

    Args:
        lengths: in tokens.
        pad: rows may be padded to the longest; else all of a group are of one length.
    """
    ordered = sorted(range(len(lengths)), key=lengths.__getitem__)
    found: list[list[int]] = []
    for i in ordered:
        if found:
            shortest = lengths[found[-1][0]]
            fits = lengths[i] <= (shortest * _PADDING if pad else shortest)
            if fits and len(found[-1]) < LARGEST:
                found[-1].append(i)
                continue
        found.append([i])
    return found


def stack(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return [rows, longest] of each input from rows [1, sequence], padded with zeros."""
    longest = max(next(iter(row.values())).shape[1] for row in rows)
    return {
        name: np.concatenate(
            [np.pad(row[name], ((0, 0), (0, longest - row[name].shape[1]))) for row in rows]
        )
        for name in rows[0]
    }
