"""What every measurement is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Setup:
    """One run of one group of figures.

    Args:
        data: folder of the evaluation cases (docs/benchmarks.md).
        work: an empty folder of this group's own.
        cache: where exported bundles are kept.
        wanted: names of the figures asked for; rivals that none of them needs may stay away.
        quick: a rehearsal: fewer rounds, less data, no figure worth keeping.
        tell: called with what is going on, for people.
    """

    data: Path
    work: Path
    cache: Path
    wanted: frozenset[str]
    quick: bool
    tell: Callable[[str], None]

    @property
    def rounds(self) -> int:
        """How often a timing and its rival take turns."""
        return 2 if self.quick else 5
