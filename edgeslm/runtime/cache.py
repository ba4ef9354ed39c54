"""A bounded cache of model outputs, shared by all callers of one model."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
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
                    keep = self._capacity > 0
                    if keep:
                        self._computing[key] = threading.Event()
                    break
            other.wait()
        if not keep:
            return compute(text)
        return self._compute(key, text, compute)

    def get_all(
        self, texts: Sequence[str], compute: Callable[[Sequence[str]], Sequence[V | Exception]]
    ) -> list[V | Exception]:
        """Return what `get` returns, or raises, for each; those that are new go into one `compute`.

        Args:
            texts: in any order, some maybe twice.
            compute: gives for each text its value, or the error that it alone has.

        Raises:
            Whatever `compute` raises; nothing is kept then.
        """
        if not self._capacity:
            with self._lock:
                self.misses += len(texts)
            return list(compute(texts))
        found: dict[str, V | Exception] = {}
        own: dict[str, str | bytes] = {}  # text -> key
        shared = 0
        done = threading.Event()
        with self._lock:
            for text in texts:
                key = text if len(text) <= _LONG else _digest(text)
                value = self._kept.get(key)
                if value is not None:
                    self._kept.move_to_end(key)
                    found[text] = value
                elif text not in own and key not in self._computing:
                    self._computing[key] = done
                    own[text] = key
                    continue
                shared += value is not None or text in own
            self.hits += shared
            self.misses += len(own)
        if own:
            found.update(zip(own, self._compute_all(own, compute, done), strict=True))
        # Nobody waits for this caller any more, so it may wait for others.
        return [found[t] if t in found else self._wait_for(t, compute) for t in texts]

    def resize(self, capacity: int) -> None:
        """Keep so many from now on."""
        with self._lock:
            self._capacity = capacity
            self._evict()

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
            self._keep(key, value)
            self._computing.pop(key).set()
        return value

    def _keep(self, key: str | bytes, value: V) -> None:
        self._kept[key] = value
        self._evict()

    def _evict(self) -> None:
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)

    def _compute_all(
        self,
        own: Mapping[str, str | bytes],
        compute: Callable[[Sequence[str]], Sequence[V | Exception]],
        done: threading.Event,
    ) -> Sequence[V | Exception]:
        values: Sequence[V | Exception] = ()
        try:
            values = compute(list(own))
        finally:
            with self._lock:
                for key, value in zip(own.values(), values, strict=False):
                    if not isinstance(value, Exception):
                        self._keep(key, value)
                for key in own.values():
                    self._computing.pop(key)
            done.set()
        return values

    def _wait_for(
        self, text: str, compute: Callable[[Sequence[str]], Sequence[V | Exception]]
    ) -> V | Exception:
        """Return what another caller is computing, or where that fails what `compute` gives."""

        def alone(text: str) -> V:
            (value,) = compute([text])
            if isinstance(value, Exception):
                raise value
            return value

        try:
            return self.get(text, alone)
        except Exception as err:  # noqa: BLE001 -- handed on, as the others' errors are
            return err


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
