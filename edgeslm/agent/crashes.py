"""What is left of an agent that ended badly: reports of code positions, never of texts.

A file in the runtime directory is there for as long as an agent runs. `faulthandler` writes into
it where native code faults or the watchdog aborts; where it is found by the next agent, the one
before did not come to its end, and a report is written into the state directory. So nothing is
written to flash by an agent that ends well. An exception that nobody caught is reported at once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, TextIO

from edgeslm import __version__
from edgeslm.adapters import stacks
from edgeslm.adapters.fs import write_durably
from edgeslm.contract.messages import CrashState
from edgeslm.logs import Log

log = Log(__name__)
RUNNING: Final = "running"  # in the runtime directory
NAME: Final = "crash-{at}.json"
UNTOLD: Final = "crash-{at}.untold.json"
KEPT: Final = 8  # reports; the oldest give way
OFTEN_S: Final = 3600.0  # as many within it: an agent that ends again and again writes no more
MAX_BYTES: Final = 32_768  # of one
_MAX_FAULT_BYTES: Final = 262_144  # of what `faulthandler` wrote

Kind = Literal["exception", "fault", "killed"]


@dataclass(frozen=True, slots=True)
class Crash:
    """One report.

    Args:
        name: of its file.
        time: when it happened, or, of one that was killed, when that was noticed; since 1970.
        kind: an exception that nobody caught; a fault of native code, or an abort; or it was
            killed without a word, as where memory runs out.
        reason: the exception's type, or what the system called it.
        place: innermost position in the guilty thread; empty where it is not known.
    """

    name: str
    time: float
    kind: Kind
    reason: str
    place: str


class Crashes:
    """Owned by the agent's main thread, but for the hooks, which run where an exception ends.

    The caller holds the runtime directory's lock.

    Args:
        state_dir: where reports are.
        runtime_dir: where the file is that says that an agent runs.

    Attributes:
        untold: reports that no agent has told of yet, oldest first.
    """

    def __init__(self, state_dir: Path, runtime_dir: Path) -> None:
        self._folder = state_dir
        self._running = runtime_dir / RUNNING
        self._file: TextIO | None = None
        self._written = 0
        self._writing = threading.Lock()
        self._find()
        self._kept = [c for p in self._reports() if (c := _read(p))]
        self.untold = [crash for crash in self._kept if ".untold" in crash.name]

    def state(self) -> CrashState | None:
        """Return the part of the `state` message; None where there is no report."""
        if not self._kept:
            return None
        last = self._kept[-1]
        return {
            "count": len(self._kept),
            "time": last.time,
            "kind": last.kind,
            "reason": last.reason,
        }

    def told(self) -> None:
        """All that was untold has been told."""
        for crash in self.untold:
            with contextlib.suppress(OSError):
                path = self._folder / crash.name
                path.rename(path.with_name(crash.name.replace(".untold", "")))
        self.untold = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Report what ends this process badly, from now on."""
        try:
            self._file = self._running.open("w", encoding="utf-8")
            head = {"began": time.time(), "agent_version": __version__}
            self._file.write(f"{json.dumps(head)}\n")
            self._file.flush()
            faulthandler.enable(self._file)
        except OSError as err:
            log.warning("crashes_not_watched", reason=err.strerror or str(err))
        sys.excepthook = _before(self._ended, sys.excepthook)
        of_threads = threading.excepthook
        threading.excepthook = lambda args: (
            self._thread_ended(args),  # type: ignore[func-returns-value] # in turn
            of_threads(args),
        )[1]
        try:
            yield
        finally:  # an error that comes by here is told by its hook, or by the command
            with contextlib.suppress(OSError):
                self._running.unlink(missing_ok=True)

    # What this agent ends by.

    def _ended(
        self, kind: type[BaseException], err: BaseException, trace: TracebackType | None
    ) -> None:
        if issubclass(kind, Exception):
            self._report_error(err, trace, threading.current_thread().name)

    def _thread_ended(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and issubclass(args.exc_type, Exception):
            name = "" if args.thread is None else args.thread.name
            self._report_error(args.exc_value, args.exc_traceback, name)

    def _report_error(self, err: BaseException, trace: TracebackType | None, thread: str) -> None:
        with self._writing:
            self._written += 1
            if self._written > KEPT:  # threads that end again and again must not wear the flash
                return
            about: dict[str, object] = {
                "time": time.time(),
                "agent_version": __version__,
                "kind": "exception",
                "reason": stacks.type_name(type(err)),
                "led_to_by": [stacks.type_name(type(e)) for e in stacks.chain(err)][1:8],
                "thread": thread[: stacks.MAX_PLACE],
                "stacks": [stacks.of_error(trace)],
            }
            self._write(about)

    # What the agent before this one ended by.

    def _find(self) -> None:
        """Report the end of the agent before this one, where it did not come to its end."""
        try:
            with self._running.open("rb") as file:
                text = file.read(_MAX_FAULT_BYTES).decode("utf-8", "replace")
            at = self._running.stat().st_mtime
            self._running.unlink()
        except FileNotFoundError:
            return
        except OSError as err:
            log.warning("crash_not_read", reason=err.strerror or str(err))
            return
        first, _, rest = text.partition("\n")
        try:
            head = json.loads(first)
            began, version = float(head["began"]), str(head["agent_version"])
        except (ValueError, TypeError, KeyError):
            began, version = at, ""
        reason, found = stacks.of_fault(rest)
        faulted = bool(reason or found)
        about: dict[str, object] = {
            "time": at if faulted else time.time(),
            "began": began,
            "agent_version": version,
            "kind": "fault" if faulted else "killed",
            "reason": reason if faulted else "killed, or out of memory",
            "stacks": found,
        }
        self._write(about)

    def _write(self, about: dict[str, Any]) -> None:
        while len(raw := json.dumps(about, indent=1).encode()) > MAX_BYTES and about["stacks"]:
            about["stacks"].pop()
        try:
            now, before = time.time_ns(), self._reports()
            found = [crash for path in before if (crash := _read(path)) is not None]
            lately = [crash for crash in found if 0 <= now / 1e9 - crash.time < OFTEN_S]
            if len(lately) >= KEPT:  # they must not wear the flash
                log.warning("crash_not_saved", reason=f"{KEPT} reports within {OFTEN_S:.0f} s")
                return
            at = max(
                [now, *(_at(path) + 1 for path in before)]
            )  # the newest, whatever the clock says
            path = self._folder / UNTOLD.format(at=at)
            write_durably(path, raw + b"\n", mode=0o640)
            for old in self._reports()[:-KEPT]:
                old.unlink(missing_ok=True)
        except OSError as err:
            log.warning("crash_not_saved", reason=err.strerror or str(err))

    def _reports(self) -> list[Path]:
        """Reports, oldest first."""
        return sorted(self._folder.glob("crash-*.json"), key=lambda path: path.name.split(".")[0])


def _at(report: Path) -> int:
    """The number in a report's name, about ns since 1970; 0 where it has none."""
    digits = report.name.split(".")[0].removeprefix("crash-")
    return int(digits) if digits.isdecimal() else 0


def _read(path: Path) -> Crash | None:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(2 * MAX_BYTES))
        stack = found["stacks"][0] if found["stacks"] else []
        place = str(stack[0]) if stack else ""
        kind, reason = found["kind"], str(found["reason"])
        if kind not in {"exception", "fault", "killed"}:
            return None
        return Crash(path.name, float(found["time"]), kind, reason, place)
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None


Hook = Callable[[type[BaseException], BaseException, TracebackType | None], Any]


def _before(first: Hook, then: Hook) -> Hook:
    def both(kind: type[BaseException], err: BaseException, trace: TracebackType | None) -> None:
        first(kind, err, trace)
        then(kind, err, trace)

    return both
