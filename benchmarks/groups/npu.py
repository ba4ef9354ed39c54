"""Qualcomm's NPU, emulated: what it takes of a bundle, and what the answers lose."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks import bundles, cases
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from benchmarks.stats import above
from edgeslm.demo.bundles import Wanted, find, make
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.coverage import share
from edgeslm.runtime.profiles import load_profile
from exporters.data import Row
from exporters.targets.qnn import QDQ

PROFILE: Final = "rb3-gen2"
_METRICS: Final = {"intent": "accuracy", "anomaly": "auroc"}  # in points


def npu_intent(setup: Setup) -> dict[str, Measured]:
    """BANKING77, 77 intents: the exporter's own gate, on its stratified sample of 200."""
    train, unseen = (cases.rows(setup, "banking77", part) for part in ("train", "eval"))
    if setup.quick:
        train, unseen = train[::10], unseen[::60]
    bundle = _have(setup, "intent", "npu-banking77", train, unseen)
    return _measured(bundle, "intent")


def npu_anomaly(setup: Setup) -> dict[str, Measured]:
    """Log lines of a supercomputer, the same way."""
    train, unseen = (cases.rows(setup, "bgl-random-seed0", part) for part in ("train", "eval"))
    if setup.quick:
        unseen = unseen[::15]
    bundle = _have(setup, "anomaly", "npu-bgl", train, unseen)
    return _measured(bundle, "anomaly")


def _have(setup: Setup, task: str, name: str, train: list[Row], judged: list[Row]) -> Path:
    setup.tell(f"exporting {name} for {PROFILE}, whose emulator takes a second for a text")
    wanted = Wanted(task, name, cases.to_jsonl(train), evaluation=cases.to_jsonl(judged))
    profile = load_profile(PROFILE)
    return find(wanted, setup.cache, profile) or make(wanted, setup.cache, profile, quiet=True)


def _measured(bundle: Path, task: str) -> dict[str, Measured]:
    """Return the share of nodes on the NPU, of its least bucket, and the points lost.

    Loading fails where a node is left to the CPU, so a bundle that was exported is whole there.
    Accuracy is that of the worse variant: the graphs that a device compiles, and the contexts.
    """
    variants: dict[str, dict[str, Any]] = bundles.quality(bundle)["variants"]
    graphs = open_bundle(bundle).of(QDQ).artifacts("graph")
    shares = [100 * share(graph.coverage) for graph in graphs if graph.coverage is not None]
    metric = _METRICS[task]
    worst = min(variants.values(), key=lambda v: v["artifact"][metric] - v["fp32"][metric])
    return {
        f"npu-{task}-nodes": Measured(min(shares), 100.0, (min(shares), max(shares))),
        f"npu-{task}": above([worst["artifact"][metric]], [worst["fp32"][metric]]),
    }
