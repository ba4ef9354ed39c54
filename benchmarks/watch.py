"""What the kernel says of a running process: its time, its threads' waking, its descriptors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from benchmarks.errors import RunFailedError
from edgeslm.demo.processes import Child

_TICKS: Final = os.sysconf("SC_CLK_TCK")  # a second
_USER: Final = 11  # field of /proc/PID/stat behind the name, from 0; the next is the kernel's


@dataclass(frozen=True, slots=True)
class Activity:
    """What a process has done so far.

    Args:
        cpu_s: processor time of all its threads, those that ended included.
        waits: how often each thread has gone to sleep, and so was woken, by its id.
    """

    cpu_s: float
    waits: dict[int, int]

    @classmethod
    def of(cls, child: Child) -> Self:
        """Read it.

        Raises:
            RunFailedError: the process has ended.
        """
        _alive(child)
        folder = Path(f"/proc/{child.pid}")
        fields = (folder / "stat").read_text("ascii", "replace").rpartition(") ")[2].split()
        waits: dict[int, int] = {}
        for thread in (folder / "task").iterdir():
            try:
                lines = (thread / "status").read_text("utf-8", "replace").splitlines()
            except FileNotFoundError:  # it ended meanwhile
                continue
            [count] = [line for line in lines if line.startswith("voluntary_ctxt_switches:")]
            waits[int(thread.name)] = int(count.split()[1])
        return cls((int(fields[_USER]) + int(fields[_USER + 1])) / _TICKS, waits)

    def since(self, earlier: Activity) -> list[int]:
        """Return how often each thread went to sleep since then, the busiest first."""
        counts = (count - earlier.waits.get(thread, 0) for thread, count in self.waits.items())
        return sorted(counts, reverse=True)


def descriptors(child: Child) -> int:
    """Return how many files, sockets and pipes a process has open.

    Raises:
        RunFailedError: the process has ended.
    """
    _alive(child)
    return len(list(Path(f"/proc/{child.pid}/fd").iterdir()))


def memory_mb(child: Child) -> tuple[float, float]:
    """Return a process's memory, MB: all that is resident, and its share of that (PSS).

    The share moves with the neighbours that have the same pages; what is resident does not.

    Raises:
        RunFailedError: the process has ended.
    """
    _alive(child)
    lines = Path(f"/proc/{child.pid}/smaps_rollup").read_text("ascii").splitlines()[1:]
    kb = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    return kb["Rss"] / 1024, kb["Pss"] / 1024


def _alive(child: Child) -> None:
    if child.status is not None:
        msg = f"{child.name} ended: {child.last_words()}"
        raise RunFailedError(msg)
