"""Signals are acted on at once, whatever the main thread is about to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgeslm.adapters.signals import acting_on

COUNT = 4000
LATE_S = 2.0
# Each signal comes while the main thread goes to wait: with a handler in that thread about one of
# 10,000 is seen only when the wait is over. Here it would wait for ever.
WAITER = """
import signal, sys
from queue import SimpleQueue
from edgeslm.adapters.signals import acting_on
wakes = SimpleQueue()
with acting_on({signal.SIGHUP: lambda: wakes.put(None)}):
    print("ready", flush=True)
    while True:
        wakes.get()
        print("woken", flush=True)
"""


def test_each_signal_wakes_a_main_thread_that_is_about_to_wait() -> None:
    process = subprocess.Popen([sys.executable, "-c", WAITER], stdout=subprocess.PIPE)
    timer = threading.Timer(120, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for n in range(COUNT):
            until = time.perf_counter() + (n % 60) * 1e-6
            while time.perf_counter() < until:
                pass
            process.send_signal(signal.SIGHUP)
            assert process.stdout.readline() == b"woken\n"
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


def test_each_has_its_function_and_what_was_before_comes_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    called: list[str] = []
    done = threading.Event()

    def second() -> None:
        called.append("second")
        done.set()

    calls = {signal.SIGUSR1: lambda: called.append("first"), signal.SIGUSR2: second}
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with acting_on(calls):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert done.wait(LATE_S)
    assert called == ["first", "second"]
    assert signal.getsignal(signal.SIGUSR1) == before
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> object:
    yield
    assert not [t for t in threading.enumerate() if t.name == "signals"]
