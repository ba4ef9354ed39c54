"""The agent against a service that does the same in Node.js: messages a second, and CPU time."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from benchmarks import bundles
from benchmarks.broker import Broker
from benchmarks.contestants import NODE_SERVICE, Enter, agent, running, settled
from benchmarks.contestants import node as node_service
from benchmarks.errors import MissingToolError
from benchmarks.figures import Measured
from benchmarks.groups.throughput import Load, flow, texts, write_load
from benchmarks.machine import ROOT
from benchmarks.setup import Setup
from benchmarks.stats import paired

_SOURCE: Final = ROOT / "benchmarks" / "rivals" / "node"
_PINS: Final = ("package.json", "package-lock.json")
_INSTALL_S: Final = 600.0
_MS: Final = 1e3


def node(setup: Setup) -> dict[str, Measured]:
    """A plant's traffic, which repeats itself, and questions of people, no two the same.

    The agent's cache is cold at the start of each round. The service has none, as it is written
    by whoever writes one; it runs before and after the agent, and the mean of the two counts.
    """
    service = installed(setup)
    loads: dict[str, tuple[Callable[[], Path], str, str]] = {
        "node-plant": (lambda: bundles.plant(setup), "plant-traffic", "lines"),
        "node-unrepeated": (lambda: bundles.intent(setup, "clinc150"), "clinc150", "eval"),
    }
    found: dict[str, Measured] = {}
    for name, (bundle, case, part) in loads.items():
        if not setup.wanted & {name, f"{name}-cpu"}:
            continue
        load = write_load(setup, texts(setup, case, part))
        found |= _race(setup, name, service, bundle(), load)
    return {name: found[name] for name in setup.wanted}


def _race(setup: Setup, name: str, service: Path, bundle: Path, load: Load) -> dict[str, Measured]:
    """Return a load's rate and CPU time for each message, by name of the figure."""
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    rival = node_service(service, bundle)
    with Broker(setup.work / f"broker-{name}") as broker:
        for number in range(setup.rounds):
            setup.tell(f"round {number + 1} of {setup.rounds}: {name}")
            before = _pass(broker, setup, rival, load)
            ours.append(_pass(broker, setup, agent(bundle), load, counts=True))
            after = _pass(broker, setup, rival, load)
            theirs.append(((before[0] + after[0]) / 2, (before[1] + after[1]) / 2))
    return {
        name: paired([rate for rate, _ in ours], [rate for rate, _ in theirs]),
        f"{name}-cpu": paired([cpu for _, cpu in ours], [cpu for _, cpu in theirs]),
    }


def _pass(
    broker: Broker, setup: Setup, enter: Enter, load: Load, *, counts: bool = False
) -> tuple[float, float]:
    """Return the messages a second of a fresh contestant, and its CPU time for each, ms.

    Args:
        broker: where.
        setup: of the group.
        enter: who.
        load: what is sent.
        counts: it is the agent, whose count of answers must agree.
    """
    with running(enter, broker, setup.work, probe=load.texts[0]) as run:
        before = _cpu_s(run.child.pid)
        rate = flow(broker, run.out, load)
        spent = _cpu_s(run.child.pid) - before
        if counts:
            settled(broker, run.out, answered=1 + len(load.texts))
    return rate, _MS * spent / len(load.texts)


def _cpu_s(pid: int) -> float:
    """CPU time of a process and its threads so far, s."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def installed(setup: Setup) -> Path:
    """Return a folder with the service and its packages, as its lock file pins them.

    Raises:
        MissingToolError: Node.js or npm is not installed, or npm cannot fetch the packages.
    """
    if any(shutil.which(tool) is None for tool in ("node", "npm")):
        msg = "needs Node.js 20 or newer, and npm"
        raise MissingToolError(msg)
    pins = b"\0".join((_SOURCE / name).read_bytes() for name in _PINS)
    folder = setup.cache / "node" / hashlib.sha256(pins).hexdigest()[:20]
    if not folder.is_dir():
        setup.tell("installing the service in Node.js")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as name:
            fresh = Path(name) / "service"
            fresh.mkdir()
            _install(fresh)
            fresh.rename(folder)
    shutil.copyfile(_SOURCE / NODE_SERVICE, folder / NODE_SERVICE)
    return folder


def _install(folder: Path) -> None:
    for name in _PINS:
        shutil.copyfile(_SOURCE / name, folder / name)
    # Without scripts: onnxruntime-node's would fetch CUDA, which the CPU does not need.
    argv = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    try:
        done = subprocess.run(
            argv, cwd=folder, capture_output=True, text=True, check=False, timeout=_INSTALL_S
        )
    except subprocess.TimeoutExpired:
        msg = f"npm has not fetched the packages within {_INSTALL_S:.0f} s"
        raise MissingToolError(msg) from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        msg = f"npm cannot fetch the packages: {' | '.join(said[:2]) or done.returncode}"
        raise MissingToolError(msg)
