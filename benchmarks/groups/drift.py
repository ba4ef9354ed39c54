"""Drift: how soon a new regime is noticed, and whether a stationary plant is left in peace."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final

from benchmarks import bundles, cases
from benchmarks.answering import answers, request
from benchmarks.figures import Measured
from benchmarks.rivals import jumper
from benchmarks.setup import Setup
from benchmarks.stats import once
from edgeslm.agent.watch import sighting_of
from edgeslm.contract.routes import ModelSettings
from edgeslm.core import template
from edgeslm.core.drift import Drift
from edgeslm.demo.factory import Factory, play
from edgeslm.runtime.model import load_model
from exporters.data import Row

_SEEDS: Final = 5
_LINES: Final = 20_000
_QUICK_LINES: Final = 4000
_TRAINED: Final = 12_000
_JUDGED: Final = 2000
_SLOW: Final = 3  # one message of so many is of a slow sensor
_DAY: Final = 300  # readings of a daily cycle, about one in five minutes
_KEPT: Final = 0.98  # of a slow level, from a reading to the next
_FAULTS: Final = 0.04  # of the plant's messages, all the time
_LATER_S: Final = 1e6  # of factory time: what drifts has forgotten its training
_RATE: Final = float(ModelSettings().drift_false_rate)


def drift(setup: Setup) -> dict[str, Measured]:
    """`bgl-stream`, whose lines change; and the demo's plant, whose faults go on as they are."""
    train, unseen = (
        cases.rows(setup, "bgl-stream", "train"),
        cases.rows(setup, "bgl-stream", "eval"),
    )
    bundle = bundles.anomaly(setup, "bgl-stream", train, unseen)
    change = began(train, unseen)
    ours, rival = _reports(bundle, unseen, setup)
    peace, rival_peace = [], []
    for seed in range(2 if setup.quick else _SEEDS):
        trained = _QUICK_LINES if setup.quick else _TRAINED
        quiet = _plant(f"trained {seed}", trained, faults=0.0, start=0.0)
        lines = _QUICK_LINES if setup.quick else _LINES
        rows = _plant(f"heard {seed}", lines, faults=_FAULTS, start=_LATER_S)
        bundle = bundles.anomaly(setup, f"drift-{seed}", quiet, rows[:_JUDGED])
        one, other = _reports(bundle, rows, setup)
        peace.append(len(one))
        rival_peace.append(len(other))
    return {
        "drift-noticed": once(_after(change, ours), _after(change, rival)),
        "drift-false": Measured(max(peace), max(rival_peace), (min(peace), max(peace))),
        "drift-early": once(_before(change, ours), _before(change, rival)),
    }


def began(train: Sequence[Row], unseen: Sequence[Row]) -> int:
    """Return after how many lines a new regime begins, by the case alone.

    Where the likelihood of one change in the rate of templates that training lacks is greatest.
    """
    known = {template.split(row.text).template for row in train}
    new = [template.split(row.text).template not in known for row in unseen]
    before = [0, *itertools.accumulate(map(int, new))]
    total, lines = before[-1], len(new)

    def likelihood(at: int) -> float:
        return _bernoulli(before[at], at) + _bernoulli(total - before[at], lines - at)

    return max(range(lines + 1), key=likelihood)


def _bernoulli(hits: int, of: int) -> float:
    """Log-likelihood of so many hits at their own rate."""
    return sum(n * math.log(n / of) for n in (hits, of - hits) if n)


def _reports(bundle: Path, rows: Sequence[Row], setup: Setup) -> tuple[list[int], list[int]]:
    """Return after how many messages drift was suspected: by us, and by the rival."""
    trained = load_model(bundle).trained
    setup.tell(f"drift is not tested by {', '.join(trained.untested) or 'nothing'}")
    said = answers(bundle, rows, tell=setup.tell)
    test, found = Drift(_RATE, trained), []
    for number, (row, answer) in enumerate(zip(rows, said, strict=True), 1):
        sighting = sighting_of(request(row), answer, "none")
        if sighting is not None and test.take(sighting) and test.suspected:
            found.append(number)
    p_values = [1.0 if answer.p_value is None else answer.p_value for answer in said]
    return found, jumper.reports(p_values, limit=1 / _RATE)


def _after(change: int, reports: Sequence[int]) -> float:
    """Lines from the change to the first report; infinity: there was none."""
    return min((number - change for number in reports if number > change), default=math.inf)


def _before(change: int, reports: Sequence[int]) -> float:
    return sum(number <= change for number in reports)


def _plant(seed: str, lines: int, *, faults: float, start: float) -> list[Row]:
    """Return what the demo's machines say, and two slow sensors among them.

    One of these has a daily cycle, the other a level that wanders about; both are noisy.

    Args:
        seed: of everything random.
        lines: how many.
        faults: share of them that are faulty.
        start: factory time, seconds.
    """
    factory = Factory(seed, fault_share=faults, order_share=0.0)
    random = Random(seed)  # noqa: S311 -- a play, not a secret
    phase, level = random.uniform(0, math.tau), random.gauss(0, 1)
    rows = []
    for number, said in enumerate(itertools.islice(play(factory, start), lines)):
        text, source = said.text, said.source
        reading, slow = divmod(number, 2 * _SLOW)
        if slow == 0:
            swing = math.sin(math.tau * reading / _DAY + phase)
            text, source = f"hall at {21 + 3 * swing + random.gauss(0, 1.5):.2f} C", "climate-1"
        elif slow == _SLOW:
            level = _KEPT * level + math.sqrt(1 - _KEPT**2) * random.gauss(0, 1)
            text, source = f"tank at {300 + 8 * (level + random.gauss(0, 1)):.1f} l", "tank-1"
        rows.append(Row(text, None, source, said.time))
    return rows
