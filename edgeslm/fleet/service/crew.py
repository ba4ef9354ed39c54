"""Threads that belong together: where one fails, all end, and whoever started the process knows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from edgeslm.logs import Log

log = Log(__name__)
_LEAST_S: Final = 0.05


class Crew:
    """Starts threads and waits for them. One thread's, but for `failed`.

    Args:
        abandon: called, on its thread, when one of them fails.

    Attributes:
        failed: one has.
    """

    def __init__(self, abandon: Callable[[], None]) -> None:
        self.failed = False
        self._abandon = abandon
        self._threads: list[threading.Thread] = []

    def start(self, name: str, work: Callable[[], object]) -> None:
        """Run `work` on a thread of this name."""

        def run() -> None:
            try:
                work()
            except Exception as err:  # noqa: BLE001 -- a fault of ours: another process is begun
                self.failed = True
                log.fault("thread_failed", err, thread=name)
                self._abandon()

        self._threads = [each for each in self._threads if each.is_alive()]
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self, until: float) -> None:
        """Wait for all of them, at most until then, by `time.monotonic`."""
        for thread in self._threads:
            thread.join(max(_LEAST_S, until - time.monotonic()))
            if thread.is_alive():
                log.warning("thread_left", thread=thread.name)
