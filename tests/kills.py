"""Stops a program at every system call by which it changes a disk, one run for each.

By strace, which can kill a process as it enters a call, or make the call fail. So what was done
before a point is done, and nothing of what comes after it. The points are counted in a run that is
left alone: a call and its number among those of its name in one thread, which is how strace counts
them. A program that does the same each time has the same points each time. So has each thread of a
daemon, counted from the moment that strace is attached to it.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import pytest

CALLS: Final = (
    *("write", "writev", "pwrite64", "pwritev", "ftruncate", "fallocate"),
    *("copy_file_range", "sendfile", "fsync", "fdatasync", "msync", "sync_file_range"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "chmod", "fchmod", "fchmodat"),
)
TIMEOUT_S: Final = 60.0
_ROOT: Final = Path(__file__).parent.parent
_LINE: Final = re.compile(r"(\d+) +(\w+)\((.*)")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a program: its `number`th call of a name, from 1; of a daemon, in a thread."""

    call: str
    number: int
    thread: str = ""

    def __str__(self) -> str:
        return f"{self.thread} {self.call} {self.number}".lstrip()


def need_strace() -> None:
    """Skip the test where programs cannot be traced."""
    if why := _why_not():
        pytest.skip(why)


@functools.cache
def _why_not() -> str | None:
    if shutil.which("strace") is None:
        return "no strace"
    command = ["strace", "-f", "-e", "inject=write:error=ENOSPC", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    if done.returncode:
        return f"strace is not permitted: {done.stderr.strip()[:200]}"
    return None


def points(
    command: Sequence[str], under: Path, *, env: Mapping[str, str] | None = None
) -> list[Point]:
    """Run a program to its end; return where it changed what is under a folder, in order.

    Args:
        command: the program, which must succeed.
        under: changes elsewhere are none: what it prints, above all.
        env: its environment; None: ours.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as log:
        # -y names the files behind descriptors; strings are long enough for paths.
        options = ["-y", "-s", "4096", "-o", log.name, "-e", f"trace={','.join(CALLS)}"]
        code = _run(options, command, env)
        assert code == 0, f"status {code} when left alone"
        lines = log.read().splitlines()
    return list(dict.fromkeys(point for _, point, said in _counted(lines) if str(under) in said))


def kill(command: Sequence[str], at: Point, *, env: Mapping[str, str] | None = None) -> int:
    """Run a program until it is killed at a point; return its status: -9 if it got there."""
    return _run(_inject(at, "signal=SIGKILL", ""), command, env)


@contextlib.contextmanager
def observed(
    process: int, calls: Sequence[str], counts: Callable[[Point, str], bool]
) -> Iterator[list[Point]]:
    """Have what a running process does in this block; in the list when the block is over.

    Args:
        process: its id. Each of its threads that counts has a name of its own.
        calls: names of them.
        counts: whether a call is a point, by what strace says of its arguments.
    """
    names = {str(tid): name for name, tid in threads(process).items()}
    found: list[Point] = []
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as log:
        options = ["-f", "-yy", "-s", "64", "-o", log.name, "-e", f"trace={','.join(calls)}"]
        with _attached(process, options, _tids(process)):
            yield found
        for tid, point, said in _counted(log.read().splitlines()):
            made = Point(point.call, point.number, names.get(tid, ""))
            if counts(made, said):
                assert made.thread, f"by a thread without a name: {made}: {said}"
                found.append(made)


@contextlib.contextmanager
def ambushed(process: int, at: Point) -> Iterator[None]:
    """Have a running process killed in this block, as it gets to a point."""
    tid = threads(process)[at.thread]
    with _attached(tid, [*_inject(at, "signal=SIGKILL", ""), "-o", "/dev/null"], [tid]):
        yield


def threads(process: int) -> dict[str, int]:
    """Return the threads of a process by the names that it gave them; the oldest of each name."""
    task = Path(f"/proc/{process}/task")
    return {(task / f"{t}/comm").read_text().strip(): t for t in reversed(_tids(process))}


def _tids(process: int) -> list[int]:
    return sorted(int(path.name) for path in Path(f"/proc/{process}/task").iterdir())


@contextlib.contextmanager
def _attached(tid: int, options: Sequence[str], to: Sequence[int]) -> Iterator[None]:
    argv = ["strace", "-qq", *options, "-p", str(tid)]
    strace = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + TIMEOUT_S
        while not all(_traced(each) for each in to):
            assert strace.poll() is None, "strace has ended"
            assert time.monotonic() < until, "strace is not there"
            time.sleep(0.01)
        yield
    finally:
        strace.terminate()
        strace.wait(TIMEOUT_S)


def _traced(tid: int) -> bool:
    try:
        status = Path(f"/proc/{tid}/status").read_text()
    except FileNotFoundError:  # it has ended meanwhile
        return True
    return "TracerPid:\t0\n" not in status


def refuse(
    command: Sequence[str],
    at: Point,
    *,
    error: str = "ENOSPC",
    for_good: bool = False,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run a program in which a call fails; return its status.

    Args:
        command: the program.
        at: the call.
        error: by its name in errno.h.
        for_good: all later ones of that name fail too, those that print included.
        env: its environment; None: ours.
    """
    return _run(_inject(at, f"error={error}", "+" if for_good else ""), command, env)


def some(every: Sequence[T], count: int) -> list[T]:
    """Return so many of them, evenly spread, the first and the last among them."""
    last = len(every) - 1
    return [every[i] for i in sorted({round(n * last / max(1, count - 1)) for n in range(count)})]


def _counted(lines: Sequence[str]) -> Iterator[tuple[str, Point, str]]:
    """Yield each call that strace wrote down: its thread, itself, and its arguments."""
    seen: Counter[tuple[str, str]] = Counter()
    for line in lines:
        if (match := _LINE.match(line)) is None:  # the second half of a call that was interrupted
            continue
        thread, call, arguments = match.groups()
        seen[thread, call] += 1
        yield thread, Point(call, seen[thread, call]), arguments


def _inject(at: Point, what: str, more: str) -> list[str]:
    return ["-e", f"trace={at.call}", "-e", f"inject={at.call}:{what}:when={at.number}{more}"]


def _run(options: Sequence[str], command: Sequence[str], env: Mapping[str, str] | None) -> int:
    # Not with --seccomp-bpf, which is quicker and kills nobody (strace 6.1).
    argv = ["strace", "-f", "-qq", *options]
    if "-o" not in options:
        argv += ["-o", "/dev/null"]
    done = subprocess.run(
        [*argv, *command],
        cwd=_ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=TIMEOUT_S,
    )
    return done.returncode


def python(*args: str) -> list[str]:
    """Return the command of a Python program of ours, which writes no byte code beside it."""
    return [sys.executable, "-B", *args]
