"""Signals that end the demo, and when they may."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Ctrl-C, TERM and HUP: an exception before the play, a flag in it, and no harm afterwards."""

    def __init__(self) -> None:
        self.asked = False
        self.raising = True
        self._before: list[object] = []

    def __enter__(self) -> Self:
        self._before = [signal.signal(s, self._handle) for s in _SIGNALS]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in zip(_SIGNALS, self._before, strict=True):
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() gave us

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        first, self.asked = not self.asked, True
        if first and self.raising:
            raise KeyboardInterrupt


@contextmanager
def deferred() -> Iterator[None]:
    """Signals that come within it are acted on after it, once what it starts is known.

    An exception that a signal raises while a process is being started leaves one that nobody ends.
    """
    came: list[int] = []
    before = [(s, signal.signal(s, lambda number, _: came.append(number))) for s in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    for late in came:
        signal.raise_signal(late)
