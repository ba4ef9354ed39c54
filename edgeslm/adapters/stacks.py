"""Where code is: file, line and function of each frame, and nothing that a text could be in."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Final

MAX_FRAMES: Final = 24
MAX_THREADS: Final = 24
MAX_PLACE: Final = 120  # characters
_FRAME: Final = re.compile(r'^  File "([^"\n]*)", line (\d+) in (\S+)$')
_THREAD: Final = re.compile(r"^(Thread|Current thread) 0x[0-9a-f]+ .*\(most recent call first\):$")
_FATAL: Final = re.compile(r"^Fatal Python error: ([\w .:-]{1,60})")


def of_thread(ident: int) -> list[str]:
    """Return where a thread of this process is now, innermost first; nothing if it is gone."""
    frame = sys._current_frames().get(ident)  # noqa: SLF001 -- its one public name
    found: list[str] = []
    while frame is not None and len(found) < MAX_FRAMES:
        found.append(_of(frame, frame.f_lineno))
        frame = frame.f_back
    return found


def of_error(trace: TracebackType | None) -> list[str]:
    """Return where an exception came by, innermost first."""
    found = []
    while trace is not None:
        found.append(_of(trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return found[: -MAX_FRAMES - 1 : -1]


def of_fault(text: str) -> tuple[str, list[list[str]]]:
    """Return what `faulthandler` wrote: the reason, and each thread's stack, the guilty one first.

    Lines of any other form are left out, whoever wrote them.
    """
    reason, stacks = "", list[list[str]]()
    for line in text.splitlines():
        if (fatal := _FATAL.match(line)) and not reason:
            reason = fatal[1].strip()
        elif thread := _THREAD.match(line):
            stacks.insert(0 if thread[1] == "Current thread" else len(stacks), [])
            latest = stacks[0 if thread[1] == "Current thread" else -1]
        elif (frame := _FRAME.match(line)) and stacks and len(latest) < MAX_FRAMES:
            latest.append(_place(frame[1], int(frame[2]), frame[3]))
    return reason, [stack for stack in stacks if stack][:MAX_THREADS]


def chain(err: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that led to it."""
    seen: set[int] = set()
    at: BaseException | None = err
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__


def type_name(kind: type[BaseException]) -> str:
    """Return a type's name, with its module where it is not Python's own."""
    name = kind.__qualname__
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"


def _of(frame: FrameType, line: int) -> str:
    return _place(frame.f_code.co_filename, line, frame.f_code.co_qualname)


def _place(file: str, line: int, function: str) -> str:
    """Return one position; of a file, the part that is the same on each device."""
    for root in ("/site-packages/", "/dist-packages/"):
        file = file.rpartition(root)[2]
    parts = file.split("/")
    if "edgeslm" in parts:
        parts = parts[len(parts) - 1 - parts[::-1].index("edgeslm") :]
    return f"{'/'.join(parts[-4:])}:{line} {function}"[:MAX_PLACE]
