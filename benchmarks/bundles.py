"""Bundles that figures are measured on: made by `edgeslm-export`, kept by what they are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks import cases
from benchmarks.contestants import TOPIC
from benchmarks.setup import Setup
from edgeslm.demo.bundles import WEIGHTS_PACKAGE, Wanted, find, make
from edgeslm.runtime.profiles import detect_profile, load_profile
from exporters.data import Row, sample

BUDGET: Final = 0.01
MODEL: Final = f"package:{WEIGHTS_PACKAGE}"
LOSS: Final = 0.2
"""Points of accuracy that a hand-over may cost. It is told on texts by which it was chosen when to
end training, too: they flatter both stages, and what is lost elsewhere is more."""
_QUICK_LOSS: Final = 2.0  # few texts tell no smaller one
_PLANT_LINES: Final = 2000
_QUICK_ROWS: Final = 2000
_FEW_ROWS: Final = 300
_MINUTES: Final = 6
_QUICK_MINUTES: Final = 1


def intent(setup: Setup, case: str, *options: str, profile: str | None = None) -> Path:
    """Return the bundle of an intent case, judged on its evaluation part.

    Args:
        setup: of the run.
        case: name of the case.
        options: further arguments of `edgeslm-export`.
        profile: of the device; None: this machine's.
    """
    train = train_rows(setup, case)
    judged = cases.rows(setup, case, "eval")
    return _have(setup, "intent", case, train, judged, *options, profile=profile)


def trained(setup: Setup, case: str, *options: str) -> Path:
    """Return the bundle of an intent case whose encoder was fine-tuned.

    Args:
        setup: of the run.
        case: name of the case.
        options: further arguments of `edgeslm-export`.
    """
    options = ("--train", "full", *options)
    if setup.quick:
        options += ("--minutes", str(_QUICK_MINUTES))
    rows = train_rows(setup, case), cases.rows(setup, case, "eval")
    return _have(setup, "intent", f"{case}-full", *rows, *options)


def static(setup: Setup, case: str) -> Path:
    """Return the bundle of an intent case whose model has no layers."""
    rows = train_rows(setup, case), cases.rows(setup, case, "eval")
    return _have(setup, "intent", f"{case}-static", *rows, "--train", "static")


def cascade(setup: Setup, case: str) -> Path:
    """Return the bundle of `taught` before `trained`; its hand-over sees no evaluation data."""
    # What weighs processes must not load what they are weighed for.
    from exporters.cascade import Order  # noqa: PLC0415
    from exporters.cascade import make as make_cascade  # noqa: PLC0415
    from exporters.export import BUNDLE  # noqa: PLC0415

    first, second = taught(setup, case), trained(setup, case)
    data = setup.work / f"{case}.jsonl"
    data.write_bytes(cases.to_jsonl(train_rows(setup, case)))
    setup.tell(f"putting {case} together")
    order = Order(
        first=first,
        second=second,
        data=data,
        lose=_QUICK_LOSS if setup.quick else LOSS,
        profile=detect_profile().name,
        name=f"{case}-cascade",
        version=1,
        out=setup.work / f"{case}-cascade",
        allow_drop=True,  # it is measured here
    )
    make_cascade(order, _silent)
    return order.out / BUNDLE


@contextmanager
def _silent(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Implements `exporters.workbench.Stage` for nobody."""
    del name, total
    yield lambda _: None


def few(setup: Setup, name: str, train: list[Row], judged: list[Row], *options: str) -> Path:
    """Return the bundle of a few examples, judged on all of `judged`; whatever it loses counts."""
    return _have(setup, "intent", name, train, judged, "--allow-drop", *options)


def sampled(setup: Setup, case: str, *, texts: int, profile: str) -> Path:
    """Return the bundle of an intent case, judged on a sample: for devices that take their time.

    The sample is `exporters.data.sample` of the evaluation part.
    """
    judged = sample(cases.rows(setup, case, "eval"), texts)
    return _have(setup, "intent", case, train_rows(setup, case), judged, profile=profile)


def small(setup: Setup, case: str, *, profile: str) -> Path:
    """Return a bundle of a few texts of an intent case: for what does not depend on them."""
    parts = [cases.rows(setup, case, part) for part in ("train", "eval")]
    train, judged = (rows[:: max(1, len(rows) // _FEW_ROWS)] for rows in parts)
    name = f"{case}-{profile}"
    return _have(setup, "intent", name, train, judged, "--allow-drop", profile=profile)


def revised(setup: Setup, case: str) -> Path:
    """Return the bundle that `intent` would, of a training part that lacks a tenth of its rows."""
    train = [row for number, row in enumerate(train_rows(setup, case)) if number % 10]
    return _have(setup, "intent", case, train, cases.rows(setup, case, "eval"))


def tuned(setup: Setup, case: str) -> Path:
    """Return the bundle of an intent case whose recipe was searched for.

    It sees no evaluation data: what it chooses by is held out of the training part.
    """
    minutes = _QUICK_MINUTES if setup.quick else _MINUTES
    options = ("--tune", "--minutes", str(minutes))
    return _have(setup, "intent", f"{case}-tuned", train_rows(setup, case), [], *options)


def student(setup: Setup, case: str, *options: str) -> Path:
    """Return the bundle of a student of `trained`, judged on the same."""
    teacher = trained(setup, case).parent
    judged = cases.rows(setup, case, "eval")
    more = ("--teacher", str(teacher), *options)
    name = f"{case}-student"
    return _have(setup, "distil", name, train_rows(setup, case), judged, *more, model=None)


def taught(setup: Setup, case: str) -> Path:
    """Return the bundle of a student of `trained` that has no layers."""
    return student(setup, case, "--student", "static")


def train_rows(setup: Setup, case: str) -> list[Row]:
    """Return the training part of an intent case; of a rehearsal a share."""
    train = cases.rows(setup, case, "train")
    if setup.quick:  # by step, since the file is sorted by label
        return train[:: max(1, len(train) // _QUICK_ROWS)]
    return train


def anomaly(
    setup: Setup, name: str, train: list[Row], judged: list[Row], *, budget: float = BUDGET
) -> Path:
    """Return an anomaly bundle fitted on all of `train`, at an alarm budget."""
    return _have(setup, "anomaly", name, train, judged, "--alarm-budget", str(budget))


def plant(setup: Setup) -> Path:
    """Return the anomaly bundle of the plant's traffic, fitted on its first 2,000 lines."""
    lines = [replace(r, source=TOPIC) for r in cases.rows(setup, "plant-traffic", "lines")]
    train, judged = lines[:_PLANT_LINES], lines[_PLANT_LINES : 2 * _PLANT_LINES]
    return _have(setup, "anomaly", "plant", train, judged)


def quality(bundle: Path) -> dict[str, Any]:
    """Return the `quality.json` that the exporter left beside `bundle`."""
    found: dict[str, Any] = json.loads((bundle.parent / "quality.json").read_bytes())
    return found


def measurements(bundle: Path) -> dict[str, Any]:
    """Return the `measurements.json` that the exporter left beside `bundle`."""
    found: dict[str, Any] = json.loads((bundle.parent / "measurements.json").read_bytes())
    return found


def _have(  # noqa: PLR0913 -- in the order of `Wanted`
    setup: Setup,
    task: str,
    name: str,
    train: list[Row],
    judged: list[Row],
    *options: str,
    profile: str | None = None,
    model: str | None = MODEL,
) -> Path:
    setup.tell(f"exporting {name}")
    parts = cases.to_jsonl(train), cases.to_jsonl(judged)
    wanted = Wanted(task, name, parts[0], options, evaluation=parts[1], model=model)
    device = detect_profile() if profile is None else load_profile(profile)
    return find(wanted, setup.cache, device) or make(wanted, setup.cache, device, quiet=True)
