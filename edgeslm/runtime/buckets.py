"""Graphs of fixed length behind one session: each text runs on the shortest that holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from edgeslm.ports import Piece, Session, Tensor

LENGTH_FROM: Final = "input_ids"


class Buckets:
    """Implements `edgeslm.ports.Session` over one session for each sequence length.

    Padding is masked, so a text's answer depends on its length alone, never on its neighbours.

    Args:
        sessions: by sequence length, in tokens; all of the same inputs and outputs.
    """

    def __init__(self, sessions: Mapping[int, Session]) -> None:
        self._sessions = dict(sorted(sessions.items()))
        first = next(iter(self._sessions.values()))
        self.inputs = first.inputs
        self.provider = first.provider

    @property
    def longest(self) -> int:
        """Tokens that the largest takes."""
        return max(self._sessions)

    @property
    def pieces(self) -> Sequence[Piece]:
        """Of all sessions together."""
        return [piece for session in self._sessions.values() for piece in session.pieces]

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the shortest graph that takes these; the caller cuts at `longest`."""
        length = feeds[LENGTH_FROM].shape[1]
        bucket = next(size for size in self._sessions if size >= length)
        padded = {
            name: np.pad(value, ((0, 0), (0, bucket - length))) for name, value in feeds.items()
        }
        return self._sessions[bucket].run(padded)
