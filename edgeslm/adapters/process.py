"""What processes have of the machine: cores and memory. /proc is Linux's alone."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import resource
from functools import cache
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")


def cores() -> int:
    """Return how many cores this process may use.

    Where the system does not say (macOS): how many there are.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    return os.cpu_count() or 1 if affinity is None else len(affinity(0))


def trim() -> None:
    """Give memory that loading left behind back to the system; call once everything is loaded.

    What is loaded stays, so the collector need not walk it again. Freed heap goes back, and so
    do the pages of libraries: much of their code ran for the last time. What is still needed comes
    back from the page cache, in milliseconds altogether. Costs about 20 ms.
    """
    gc.collect()
    gc.freeze()
    give_back()
    for start, end in clean_libraries(_smaps()):
        # Advice: where the system will not take it, nothing is lost.
        _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def give_back() -> None:
    """Give heap that was freed back to the system.

    glibc keeps what a burst of messages took, thread by thread: once it has freed a model's
    megabytes, it trims itself only beyond twice as much. Of a busy agent this takes 2 to 5 ms, in
    which threads that allocate may wait.
    """
    trim_heap = getattr(_libc(), "malloc_trim", None)
    if trim_heap is not None:  # glibc's alone
        trim_heap(0)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def clean_libraries(smaps: str) -> list[tuple[int, int]]:
    """Return the address ranges [start, end) of library pages that equal their file.

    Only shared libraries: they are never unmapped, so that the addresses still mean the same when
    they are used. Only what cannot be written and was not (relocated data was): else it would be
    lost.

    Args:
        smaps: the text of /proc/PID/smaps.
    """
    found = []
    span, candidate = (0, 0), False
    for line in smaps.splitlines():
        if not line[0].isupper():  # a mapping: "start-end perms offset device inode path"
            name, *rest = line.split(maxsplit=5)
            start, _, end = name.partition("-")
            span = (int(start, 16), int(end, 16))
            path = rest[4] if len(rest) > 4 else ""  # noqa: PLR2004
            candidate = "w" not in rest[0] and ".so" in path.rpartition("/")[2]
        elif candidate and line.startswith("Anonymous:") and line.split()[1] == "0":
            found.append(span)
    return found


def pss_mb(pid: int | str = "self") -> float | None:
    """Return the memory of a process, MB: its own, and its share of what it has in common.

    None where the system tells of no process.

    Raises:
        OSError: no such process, or not ours to look at.
    """
    if not (PROC / "self/smaps_rollup").exists():
        return None
    for line in (PROC / f"{pid}/smaps_rollup").read_text("ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0]) / 1024
    msg = "smaps_rollup without Pss"
    raise OSError(msg)


def rss_mb() -> float:
    """Return the resident memory of this process, MB; cheaper than `pss_mb`, and counts all."""
    try:
        pages = int(_own(PROC, "statm").read_text("ascii").split()[1])
    except OSError:  # there is no /proc
        import psutil  # noqa: PLC0415 -- Linux does without it, and without its memory

        return float(psutil.Process().memory_info().rss) / 2**20
    return pages * resource.getpagesize() / 2**20


def written_mb() -> float | None:
    """Return what this process wrote to storage, MiB; None where the system does not say."""
    try:
        fields = dict(line.split(": ") for line in _own(PROC, "io").read_text("ascii").splitlines())
        return int(fields["write_bytes"]) / 2**20
    except (OSError, ValueError, KeyError):  # no /proc, or a kernel that does not count
        return None


@cache
def _own(proc: Path, name: str) -> Path:
    """Return one of this process's files: made once, since a path's parts stay in a table."""
    return proc / "self" / name


def _smaps() -> str:
    try:
        return (PROC / "self/smaps").read_text("utf-8", "replace")
    except OSError:  # there is no /proc
        return ""
