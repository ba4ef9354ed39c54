"""Memory of a serving agent, and the time from its start to its first result."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import psutil

from benchmarks import bundles, cases
from benchmarks.broker import Broker
from benchmarks.contestants import agent, running, settled
from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.groups.throughput import Load, flow, write_load
from benchmarks.machine import ROOT
from benchmarks.setup import Setup
from benchmarks.stats import paired

_BARE: Final = ROOT / "benchmarks" / "rivals" / "bare.py"
_LINES: Final = 2000
_QUICK_LINES: Final = 200


def footprint(setup: Setup) -> dict[str, Measured]:
    """Both after the same lines; a start finds files in the page cache and the golden verdict."""
    bundle = bundles.plant(setup)
    lines = cases.rows(setup, "plant-traffic", "lines")
    step = len(lines) // (_QUICK_LINES if setup.quick else _LINES)
    load = write_load(setup, [row.text for row in lines[::step]])
    starts, weights, bare_starts, bare_weights = [], [], [], []
    state = setup.work / "state"
    state.mkdir()
    with Broker(setup.work / "broker") as broker:
        enter = agent(bundle, verdicts=state)
        with running(enter, broker, setup.work, probe=load.texts[0]):
            pass  # the golden file is replayed at the first start of a bundle, not at every one
        for number in range(setup.rounds):
            setup.tell(f"round {number + 1} of {setup.rounds}")
            with running(enter, broker, setup.work, probe=load.texts[0]) as run:
                flow(broker, run.out, load)
                settled(broker, run.out, answered=1 + len(load.texts))
                starts.append(1e3 * run.first_s)
                weights.append(_pss_mb(run.child.pid))
            start_s, weight = _bare(bundle, load)
            bare_starts.append(1e3 * start_s)
            bare_weights.append(weight)
    return {
        "steady-pss": paired(weights, bare_weights),
        "cold-start": paired(starts, bare_starts),
    }


def _bare(bundle: Path, load: Load) -> tuple[float, float]:
    """Seconds to the bare process's first answer, and its PSS after the last, MB."""
    argv = (sys.executable, str(_BARE), "--bundle", str(bundle))
    begun = time.perf_counter()
    with subprocess.Popen(
        (*argv, "--texts", str(load.file)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 -- it is a pipe
        try:
            answer = process.stdout.readline()
            first_s = time.perf_counter() - begun
            if not answer or process.stdout.readline() != "done\n":
                msg = "bare.py ended early"
                raise RunFailedError(msg)
            return first_s, _pss_mb(process.pid)
        finally:
            process.kill()


def _pss_mb(pid: int) -> float:
    """Share of memory of a process and its children, MB (2^20 bytes)."""
    root = psutil.Process(pid)
    whole = (root, *root.children(recursive=True))
    return float(sum(process.memory_full_info().pss for process in whole)) / 2**20
