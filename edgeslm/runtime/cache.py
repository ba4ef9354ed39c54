"""A bounded cache of model outputs, shared by all callers of one model."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

V = TypeVar("V")
_LONG: Final = 512  # characters; longer keys are kept as their hash, so that entries stay small


class Cache(Generic[V]):
    """The `capacity` values asked for last, each computed once however many ask at the same time.

    Thread-safe; a computation runs outside the lock. With `capacity` 0 nothing is kept or shared.

    Attributes:
        hits: answers that needed no computation of the caller's own.
        misses: computations begun.
    """

    def __init__(self, capacity: int) -> None:
        self.hits = 0
        self.misses = 0
        self._capacity = capacity
        self._lock = threading.Lock()
        self._kept: OrderedDict[str | bytes, V] = OrderedDict()
        self._computing: dict[str | bytes, threading.Event] = {}

    def get(self, text: str, compute: Callable[[str], V]) -> V:
        """Return `compute(text)`, computed now or before.

        Raises:
            Whatever `compute` raises, to the caller that ran it; those who waited compute anew.
        """
        key = text if len(text) <= _LONG else _digest(text)
        while True:
            with self._lock:
                value = self._kept.get(key)
                if value is not None:
                    self._kept.move_to_end(key)
                    self.hits += 1
                    return value
                other = self._computing.get(key)
                if other is None:
                    self.misses += 1
                    if self._capacity:
                        self._computing[key] = threading.Event()
                    break
            other.wait()
        if not self._capacity:
            return compute(text)
        return self._compute(key, text, compute)

    def clear(self) -> None:
        """Forget every value and count."""
        with self._lock:
            self._kept.clear()
            self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    def _compute(self, key: str | bytes, text: str, compute: Callable[[str], V]) -> V:
        try:
            value = compute(text)
        except BaseException:
            with self._lock:
                self._computing.pop(key).set()
            raise
        with self._lock:
            self._kept[key] = value
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
            self._computing.pop(key).set()
        return value


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
