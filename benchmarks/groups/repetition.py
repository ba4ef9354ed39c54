"""What a plant's traffic repeats, and what it costs to see that."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from benchmarks import bundles, cases
from benchmarks.answering import request
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from benchmarks.stats import once, repeated
from edgeslm.core.template import split
from edgeslm.runtime.model import load_model

_ENTRIES: Final = 4096
_QUICK_LINES: Final = 3000
_DIGITS: Final = re.compile(r"[0-9]+")


def repetition(setup: Setup) -> dict[str, Measured]:
    """The cache from a cold start, in the traffic's order; the split of each line."""
    lines = cases.rows(setup, "plant-traffic", "lines")
    if setup.quick:
        lines = lines[:: len(lines) // _QUICK_LINES]
    found = {}
    if "split-cost" in setup.wanted:
        found["split-cost"] = _split_cost(setup, [row.text for row in lines])
    if "cache-hit-rate" in setup.wanted:
        model = load_model(bundles.plant(setup), cache_entries=_ENTRIES)
        remembered = lru_cache(_ENTRIES)(len)
        setup.tell("answering the traffic")
        for row in lines:
            model.answer(request(row))
            remembered(row.text)
        # A line that needs no model at all is no miss: what counts is inferences saved.
        ours = 1.0 - model.cache_misses / len(lines)
        found["cache-hit-rate"] = once(ours, remembered.cache_info().hits / len(lines))
    return found


def _split_cost(setup: Setup, texts: Sequence[str]) -> Measured:
    ours, rivals = [], []
    for number in range(setup.rounds):
        setup.tell(f"splitting, round {number + 1} of {setup.rounds}")
        ours.append(_us_a_line(split, texts))
        rivals.append(_us_a_line(lambda text: _DIGITS.sub("#", text), texts))
    return repeated(ours, rivals)


def _us_a_line(function: Callable[[str], object], texts: Sequence[str]) -> float:
    begun = time.thread_time()  # what it costs, not what else the machine does meanwhile
    for text in texts:
        function(text)
    return (time.thread_time() - begun) / len(texts) * 1e6
