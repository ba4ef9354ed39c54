"""What is read on several threads at once, and judged in the order in which it came.

Nobody waits: a thread leaves here what it has read, and goes on. Whoever brings what is next in
turn judges it, and all that is ready behind it, while the others read.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Sequencer(Generic[T]):
    """Gives out turns, and hands on in their order what is brought for them in any.

    Each turn must be brought or skipped once: those behind one that is not wait for good.
    """

    def __init__(self) -> None:
        self.turn: Callable[[], int] = itertools.count().__next__
        """Return the next turn; any thread may ask."""
        self._next = 0
        self._ready: dict[int, T | None] = {}
        self._judging = threading.Lock()

    def bring(self, turn: int, item: T, judge: Callable[[T], None]) -> None:
        """Leave `item` for its turn; any thread may. Judge what is next, if nobody does already.

        Args:
            turn: of this item.
            item: what was read.
            judge: takes an item; one at a time, in order, this one or others. What it raises is
                raised: its item is lost, and those behind are left for who comes next.
        """
        self._ready[turn] = item
        self._advance(judge)

    def skip(self, turn: int, judge: Callable[[T], None]) -> None:
        """Let those behind not wait for this turn; as `bring`."""
        self._ready[turn] = None
        self._advance(judge)

    @property
    def waiting(self) -> int:
        """How many wait for one before them."""
        return len(self._ready)

    def _advance(self, judge: Callable[[T], None]) -> None:
        # Looked at again after each release: who came meanwhile has found the lock taken, and left.
        while self._next in self._ready and self._judging.acquire(blocking=False):
            try:
                while self._next in self._ready:
                    item = self._ready.pop(self._next)
                    self._next += 1
                    if item is not None:
                        judge(item)
            finally:
                self._judging.release()
