"""Bundles that figures are measured on: made by `edgeslm-export`, kept by what they are made of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks import cases
from benchmarks.contestants import TOPIC
from benchmarks.setup import Setup
from edgeslm.demo.bundles import Wanted, find, make
from edgeslm.runtime.profiles import detect_profile
from exporters.data import Row

BUDGET: Final = 0.01
_PLANT_LINES: Final = 2000
_QUICK_ROWS: Final = 2000
_MINUTES: Final = 6
_QUICK_MINUTES: Final = 1


def intent(setup: Setup, case: str) -> Path:
    """Return the bundle of an intent case, judged on its evaluation part."""
    train = train_rows(setup, case)
    return _have(setup, "intent", case, train, cases.rows(setup, case, "eval"))


def tuned(setup: Setup, case: str) -> Path:
    """Return the bundle of an intent case whose recipe was searched for.

    It sees no evaluation data: what it chooses by is held out of the training part.
    """
    minutes = _QUICK_MINUTES if setup.quick else _MINUTES
    options = ("--tune", "--minutes", str(minutes))
    return _have(setup, "intent", f"{case}-tuned", train_rows(setup, case), [], *options)


def train_rows(setup: Setup, case: str) -> list[Row]:
    """Return the training part of an intent case; of a rehearsal a share."""
    train = cases.rows(setup, case, "train")
    if setup.quick:  # by step, since the file is sorted by label
        return train[:: max(1, len(train) // _QUICK_ROWS)]
    return train


def anomaly(setup: Setup, name: str, train: list[Row], judged: list[Row]) -> Path:
    """Return an anomaly bundle fitted on all of `train`, at the alarm budget `BUDGET`."""
    return _have(setup, "anomaly", name, train, judged, "--alarm-budget", str(BUDGET))


def plant(setup: Setup) -> Path:
    """Return the anomaly bundle of the plant's traffic, fitted on its first 2,000 lines."""
    lines = [replace(r, source=TOPIC) for r in cases.rows(setup, "plant-traffic", "lines")]
    train, judged = lines[:_PLANT_LINES], lines[_PLANT_LINES : 2 * _PLANT_LINES]
    return _have(setup, "anomaly", "plant", train, judged)


def quality(bundle: Path) -> dict[str, Any]:
    """Return the `quality.json` that the exporter left beside `bundle`."""
    found: dict[str, Any] = json.loads((bundle.parent / "quality.json").read_bytes())
    return found


def _have(
    setup: Setup, task: str, name: str, train: list[Row], judged: list[Row], *options: str
) -> Path:
    setup.tell(f"exporting {name}")
    wanted = Wanted(task, name, cases.to_jsonl(train), options, evaluation=cases.to_jsonl(judged))
    profile = detect_profile()
    return find(wanted, setup.cache, profile) or make(wanted, setup.cache, profile, quiet=True)
