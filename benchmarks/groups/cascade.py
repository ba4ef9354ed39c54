"""A static model before a fine-tuned transformer, against the transformer alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import bundles, cases
from benchmarks.answering import answers
from benchmarks.broker import Broker
from benchmarks.figures import Measured
from benchmarks.groups.throughput import agent_rates, texts, write_load
from benchmarks.setup import Setup
from benchmarks.stats import above, once, paired
from edgeslm.ports import Answer
from exporters.data import OUT_OF_SCOPE, Row

_CASE = "clinc150"


def cascade(setup: Setup) -> dict[str, Measured]:
    """What is lost, who answers, and what the agent gains."""
    both, alone = bundles.cascade(setup, _CASE), bundles.trained(setup, _CASE)
    found: dict[str, Measured] = {}
    if setup.wanted - {"cascade-throughput"}:
        found |= _quality(setup, both, alone)
    if "cascade-throughput" in setup.wanted:
        found["cascade-throughput"] = _throughput(setup, both, alone)
    return found


def _quality(setup: Setup, both: Path, alone: Path) -> dict[str, Measured]:
    rows = cases.rows(setup, _CASE, "eval")
    ours, theirs = (answers(one, rows, tell=setup.tell) for one in (both, alone))
    handed = [
        answer.stage == "second"
        for row, answer in zip(rows, ours, strict=True)
        if row.label != OUT_OF_SCOPE
    ]
    return {
        "cascade-accuracy": above([_accuracy(rows, ours)], [_accuracy(rows, theirs)]),
        "cascade-oos-recall": once(_recall(rows, ours), _recall(rows, theirs)),
        "cascade-share": once(float(np.mean(handed)), 1.0),
    }


def _throughput(setup: Setup, both: Path, alone: Path) -> Measured:
    """Rounds in which each answers the same questions, no two of which are the same.

    The transformer alone runs before and after the cascade, and the mean counts.
    """
    load = write_load(setup, texts(setup, _CASE, "eval"))
    ours: list[float] = []
    theirs: list[float] = []
    with Broker(setup.work / "broker") as broker:

        def rate(bundle: Path) -> float:
            (found,) = agent_rates(broker, setup, bundle, load, passes=1)
            return found

        for number in range(setup.rounds):
            setup.tell(f"round {number + 1} of {setup.rounds}")
            before = rate(alone)
            ours.append(rate(both))
            theirs.append((before + rate(alone)) / 2)
    return paired(ours, theirs)


def _accuracy(rows: Sequence[Row], found: Sequence[Answer]) -> float:
    """In per cent of the rows that are in scope, whatever was rejected."""
    right = [
        answer.label == row.label
        for row, answer in zip(rows, found, strict=True)
        if row.label != OUT_OF_SCOPE
    ]
    return 100.0 * float(np.mean(right))


def _recall(rows: Sequence[Row], found: Sequence[Answer]) -> float:
    """In per cent of the rows that are out of scope, those that are rejected."""
    rejected = [
        not answer.accepted
        for row, answer in zip(rows, found, strict=True)
        if row.label == OUT_OF_SCOPE
    ]
    return 100.0 * float(np.mean(rejected))
