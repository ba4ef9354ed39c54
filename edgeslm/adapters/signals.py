"""Signals, acted on at once.

Python runs a signal's handler in the main thread, between two of its steps: one that comes just
as that thread begins to wait is not seen before the wait is over (of 40,000 signals to a loop that
waits for five seconds, four). So the handlers here do nothing, and a thread of their own, which is
told of signals by the system itself (`signal.set_wakeup_fd`), does what is to be done.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType


@contextmanager
def acting_on(calls: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Within it each of these signals has its function called, by another thread, in order.

    To be entered by the main thread.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    told_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = [(number, signal.signal(number, _nothing)) for number in calls]
    thread = threading.Thread(target=_act, args=(reader, calls), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        signal.set_wakeup_fd(told_before)
        os.close(writer)  # the thread reads its end
        thread.join()


def _nothing(_signal: int, _frame: FrameType | None) -> None:
    """Be a handler: without one the system would act, or nobody be told."""


def _act(reader: int, calls: Mapping[signal.Signals, Callable[[], None]]) -> None:
    with open(reader, "rb", buffering=0) as numbers:
        while number := numbers.read(1):
            if (call := calls.get(signal.Signals(number[0]))) is not None:
                call()
