"""Two that are timed in turns: what disturbs one disturbs the other, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.setup import Setup
from exporters.targets.base import Feeds

# Texts before the other's turn: few, that what disturbs disturbs both; enough, that the other's
# weights leave the processor's cache.
_TURN: Final = 20

Run = Callable[[Feeds], object]
Contestant = tuple[Run, Sequence[Feeds]]
"""What runs, and what it is fed: as many feeds as the other has."""


def in_turns(setup: Setup, ours: Contestant, rival: Contestant) -> tuple[list[float], list[float]]:
    """Return how long each took for all of its feeds, in seconds, round by round."""
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(setup.rounds):
        setup.tell(f"round {number + 1} of {setup.rounds}")
        spent = [0.0, 0.0]
        for start in range(0, len(ours[1]), _TURN):
            for who, (run, feeds) in enumerate((ours, rival)):
                spent[who] += _seconds(run, feeds[start : start + _TURN])
        for seconds, all_of_them in zip(spent, took, strict=True):
            all_of_them.append(seconds)
    return took


def _seconds(run: Run, feeds: Sequence[Feeds]) -> float:
    begun = time.perf_counter()
    for feed in feeds:
        run(feed)
    return time.perf_counter() - begun
