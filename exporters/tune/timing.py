"""Times on a machine that others use too: always in turns with a reference, always medians."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Final

from edgeslm.adapters.process import cores
from edgeslm.runtime.batches import PADDING, groups, stack
from exporters.targets.base import Feeds

Run = Callable[[Feeds], object]
_TURN: Final = 8  # texts before the other's turn: enough that its weights leave the caches
_WAITING: Final = 32  # texts that a worker finds waiting, and takes together


@dataclass(frozen=True, slots=True)
class Runner:
    """Something that answers.

    Args:
        run: answers one text; may be called from several threads.
        callers: how many at once, where messages a second are counted.
        pads: rows of a batch do not depend on each other, so that texts that wait go together as
            the agent puts them, padded or not; None: each alone.
    """

    run: Run
    callers: int
    pads: bool | None = None

    def parts(self, texts: Sequence[Feeds]) -> list[list[Feeds]]:
        """Return what goes through the graph together."""
        if self.pads is None:
            return [[text] for text in texts]
        found: list[list[Feeds]] = []
        for start in range(0, len(texts), _WAITING):
            taken = texts[start : start + _WAITING]
            lengths = [next(iter(text.values())).shape[1] for text in taken]
            padding = PADDING if self.pads else 1.0
            found += [[taken[i] for i in group] for group in groups(lengths, padding=padding)]
        return found


@dataclass(frozen=True, slots=True)
class Times:
    """What was measured of one runner.

    Args:
        latency_ms: of one text, alone.
        messages_per_s: with all its callers.
        latency_ratio: to the reference: median over the pairs of the same text and round.
        throughput_ratio: to the reference: median over the pairs of the same turn.
    """

    latency_ms: float
    messages_per_s: float
    latency_ratio: float = 1.0
    throughput_ratio: float = 1.0


def callers(threads: int) -> int:
    """Return how many callers keep this machine busy where an inference takes `threads`."""
    return max(1, cores() // threads)


def compare(
    runners: Sequence[Runner], feeds: Sequence[Feeds], *, rounds: int, done: Callable[[], None]
) -> list[Times]:
    """Time `runners` in turns; the first is the reference of the others.

    Args:
        runners: at least one.
        feeds: texts, all given to each.
        rounds: how often.
        done: called after each round.
    """
    for runner in runners:
        for feed in feeds[:_TURN]:
            runner.run(feed)
    alone: list[list[float]] = [[] for _ in runners]
    together: list[list[float]] = [[] for _ in runners]
    for _ in range(rounds):
        for start in range(0, len(feeds), _TURN):
            for runner, seconds in zip(runners, alone, strict=True):
                seconds += [_seconds(runner.run, feed) for feed in feeds[start : start + _TURN]]
        # All texts at once: with few parts for several callers, the last part would count for more.
        for runner, rates in zip(runners, together, strict=True):
            rates.append(_rate(runner, feeds))
        done()
    # Of each the quotient to the reference, times the reference: what slowed one turn down slowed
    # its neighbour down too, and goes with the quotient.
    least, most = median(alone[0]), median(together[0])
    found = []
    for seconds, rates in zip(alone, together, strict=True):
        slower = median(a / b for a, b in zip(seconds, alone[0], strict=True))
        more = median(a / b for a, b in zip(rates, together[0], strict=True))
        found.append(Times(1e3 * least * slower, most * more, slower, more))
    return found


def _seconds(run: Run, feed: Feeds) -> float:
    begun = time.perf_counter()
    run(feed)
    return time.perf_counter() - begun


def _rate(runner: Runner, feeds: Sequence[Feeds]) -> float:
    """Messages a second, all callers at work."""
    parts = runner.parts(feeds)

    def answer(rows: Sequence[Feeds]) -> object:
        return runner.run(rows[0] if len(rows) == 1 else stack(rows))

    with ThreadPoolExecutor(runner.callers) as pool:
        list(pool.map(answer, parts[: runner.callers]))  # so that its threads are there
        begun = time.perf_counter()
        list(pool.map(answer, parts))
        return len(feeds) / (time.perf_counter() - begun)
