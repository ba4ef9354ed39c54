"""One input session: results leave it in order of arrival, and so do acknowledgements.

However the workers finish. Without I/O and clock; `edgeslm.core.delivery` has what comes behind.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar


class Ticket:
    """One input, from arrival to acknowledgement; subclasses add what they carry."""

    __slots__ = ("answered", "settled")

    def __init__(self) -> None:
        self.answered = False  # its result, if it has one, is ready to leave
        self.settled = False  # its result is with the broker or on disk, or it has none


T = TypeVar("T", bound=Ticket)


class Lane(Generic[T]):
    """Inputs of one session, in order of arrival."""

    __slots__ = ("_left", "_open")

    def __init__(self) -> None:
        self._open: deque[T] = deque()
        self._left: deque[T] = deque()

    def arrive(self, ticket: T) -> None:
        """Take the next input."""
        self._open.append(ticket)

    def leave(self) -> list[T]:
        """Inputs whose results may leave now, in order; each is returned once."""
        out: list[T] = []
        waiting = self._open
        while waiting and waiting[0].answered:
            out.append(waiting.popleft())
        self._left.extend(out)
        return out

    def acknowledge(self) -> list[T]:
        """Inputs to acknowledge now, in order; each is returned once."""
        out: list[T] = []
        left = self._left
        while left and left[0].settled:
            out.append(left.popleft())
        return out

    @property
    def oldest(self) -> T | None:
        """The input that came first of those here; None where there is none."""
        first = self._left or self._open
        return first[0] if first else None

    def __len__(self) -> int:
        return len(self._open) + len(self._left)
