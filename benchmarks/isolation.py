"""A group of figures in a process of its own.

What one group imports (torch, scikit-learn, ONNX Runtime) would otherwise lie in the memory that
another group weighs, and warm what it times.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import signal
import tempfile
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import groups
from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from edgeslm.errors import EdgeSLMError

_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


class GroupFailedError(EdgeSLMError):
    """A group gave no figures; carries the code and the exit status of what happened there."""

    def __init__(self, message: str, code: str, exit_status: int) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # the other process's error, not one class
        self.exit_status = exit_status  # type: ignore[misc]


class _Failure(NamedTuple):
    """An error as it travels: exceptions of ours do not all pickle."""

    message: str
    code: str
    exit_status: int


def measure(group: str, setup: Setup, *, tell: Callable[[str], None]) -> dict[str, Measured]:
    """Return `groups.measure(group, setup)`, run in a new process.

    Args:
        group: key of `groups.MODULES`.
        setup: its `work` is where the group's folder is made; its `tell` is not used.
        tell: called here with what goes on there.

    Raises:
        GroupFailedError: it could not be measured.
        RunFailedError: the process was killed.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory(prefix=f"{group}-", dir=setup.work) as work:
        there = dataclasses.replace(setup, work=Path(work), tell=_mute)
        process = context.Process(target=_run, args=(theirs, group, there), daemon=False)
        resource_tracker.ensure_running()  # `start` would, and it unblocks signals
        # Who ends us waits until the other process is whole: half made, it ends with a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        process.start()
        theirs.close()
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
            outcome = _outcome(ours, tell)
        except BaseException:
            process.terminate()
            raise
        finally:
            process.join()
    match outcome:
        case _Failure():
            raise GroupFailedError(*outcome)
        case None:
            msg = f"{group}: its process ended with status {process.exitcode} and no figures"
            raise RunFailedError(msg)
        case _:
            return outcome


def _outcome(
    pipe: Connection, tell: Callable[[str], None]
) -> dict[str, Measured] | _Failure | None:
    """What the other process comes to, or None where it ends without a word; tells its news."""
    try:
        while True:
            news: str | _Failure | dict[str, Measured] = pipe.recv()
            if not isinstance(news, str):
                return news
            tell(news)
    except EOFError:
        return None


def _run(pipe: Connection, group: str, setup: Setup) -> None:
    """Measure, in the other process; errors made on purpose travel as text."""
    # Ctrl-C at a terminal reaches our parent too, who ends us in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What ends us ends brokers and contestants first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        pipe.send(groups.measure(group, dataclasses.replace(setup, tell=pipe.send)))
    except EdgeSLMError as err:
        pipe.send(_Failure(str(err), err.code, err.exit_status))
    except KeyboardInterrupt:
        return  # our parent ends us, and says why


def _mute(_: str) -> None:
    """Stand in for a callback that cannot cross to another process."""
