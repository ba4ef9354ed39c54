"""Stops a program at every system call by which it changes a disk, one run for each.

By strace, which can kill a process as it enters a call, or make the call fail. So what was done
before a point is done, and nothing of what comes after it. The points are counted in a run that is
left alone: a call and its number among those of its name in one thread, which is how strace counts
them. A program that does the same each time has the same points each time.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
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
    """A place in a program: its `number`th call of a name, from 1."""

    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.call} {self.number}"


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
    seen: Counter[tuple[str, str]] = Counter()
    found: dict[Point, None] = {}
    for line in lines:
        if (match := _LINE.match(line)) is None:  # the second half of a call that was interrupted
            continue
        thread, call, arguments = match.groups()
        seen[thread, call] += 1
        if str(under) in arguments:
            found[Point(call, seen[thread, call])] = None
    return list(found)


def kill(command: Sequence[str], at: Point, *, env: Mapping[str, str] | None = None) -> int:
    """Run a program until it is killed at a point; return its status: -9 if it got there."""
    return _run(_inject(at, "signal=SIGKILL", ""), command, env)


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
