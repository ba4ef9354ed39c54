"""The memory of processes."""

from __future__ import annotations

import ctypes
import gc
import resource
from pathlib import Path


def trim() -> None:
    """Give memory that loading left behind back to the system; call once everything is loaded.

    What is loaded stays, so the collector need not walk it again. Costs a few milliseconds.
    """
    gc.collect()
    gc.freeze()
    trim_heap = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim_heap is not None:  # glibc's alone
        trim_heap(0)


def pss_mb(pid: int | str = "self") -> float:
    """Return the memory of a process, MB: its own, and its share of what it has in common.

    Raises:
        OSError: no such process, or not ours to look at.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0]) / 1024
    msg = "smaps_rollup without Pss"
    raise OSError(msg)


def rss_mb() -> float:
    """Return the resident memory of this process, MB; cheaper than `pss_mb`, and counts all.

    Raises:
        OSError: there is no /proc.
    """
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize() / 2**20
