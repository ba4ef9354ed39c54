"""Messages a second over a real broker, each contestant in turn, round after round."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import bundles, cases
from benchmarks.broker import Broker
from benchmarks.contestants import TOPIC, Enter, agent, echo, running, script, settled
from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from benchmarks.stats import paired

_CACHE: Final = 4096
_QUICK_LINES: Final = 1500
_LIMIT_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: one text a line, in a file."""

    file: Path
    texts: Sequence[str]


def plant(setup: Setup) -> dict[str, Measured]:
    """A plant's traffic, which repeats itself."""
    bundle = bundles.plant(setup)
    rivals = {
        "throughput-cold": script(bundle),
        "throughput-cold-cached": script(bundle, cache=_CACHE),
        "throughput-warm": echo(),
    }
    load = write_load(setup, texts(setup, "plant-traffic", "lines"))
    ours: dict[str, list[float]] = {name: [] for name in rivals}
    theirs: dict[str, list[float]] = {name: [] for name in rivals}
    with Broker(setup.work / "broker") as broker:
        for number in range(setup.rounds):
            tell = f"round {number + 1} of {setup.rounds}"
            setup.tell(f"{tell}: the agent")
            cold, warm = agent_rates(broker, setup, bundle, load, passes=2)
            for name in sorted(setup.wanted):
                setup.tell(f"{tell}: {name}'s rival")
                ours[name].append(warm if name == "throughput-warm" else cold)
                theirs[name].append(_rate(broker, setup, rivals[name], load))
    return {name: paired(ours[name], theirs[name]) for name in setup.wanted}


def unrepeated(setup: Setup) -> dict[str, Measured]:
    """Questions of people, no two the same: every one costs an inference.

    The script and inference alone run before and after the agent, and their mean counts: a
    machine that grows slower in a round is no one's gain.
    """
    bundle = bundles.intent(setup, "clinc150")
    load = write_load(setup, texts(setup, "clinc150", "eval"))
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in setup.wanted}
    with Broker(setup.work / "broker") as broker:
        rivals: dict[str, Callable[[], float]] = {
            "throughput-unrepeated": lambda: _rate(broker, setup, script(bundle), load),
            "throughput-unrepeated-callers": lambda: _callers_rate(bundle, load),
        }
        for number in range(setup.rounds):
            for name, (ours, theirs) in sorted(found.items()):
                setup.tell(f"round {number + 1} of {setup.rounds}: {name}")
                before = rivals[name]()
                (rate,) = agent_rates(broker, setup, bundle, load, passes=1)
                after = rivals[name]()
                ours.append(rate)
                theirs.append((before + after) / 2)
    return {name: paired(*rates) for name, rates in found.items()}


def write_load(setup: Setup, texts: Sequence[str]) -> Load:
    """Write what mosquitto_pub reads, one message a line.

    Raises:
        RunFailedError: it could not send one of them.
    """
    if any(not text or "\n" in text for text in texts):
        msg = "mosquitto_pub cannot send a text that is empty or has a line break"
        raise RunFailedError(msg)
    file = setup.work / "load.txt"
    file.write_text("".join(text + "\n" for text in texts), "utf-8", newline="\n")
    return Load(file, texts)


def flow(broker: Broker, out: str, load: Load) -> float:
    """Send the load as fast as it goes; return the results a second that came on topic `out`.

    Raises:
        RunFailedError: they did not all come.
    """
    count = len(load.texts)
    return count / broker.flow(load.file, into=TOPIC, out=out, count=count, within_s=_LIMIT_S)


def texts(setup: Setup, case: str, part: str) -> list[str]:
    """Return the texts of one part of a case; of a rehearsal, some of them."""
    found = [row.text for row in cases.rows(setup, case, part)]
    return found[:: max(1, len(found) // _QUICK_LINES)] if setup.quick else found


def agent_rates(
    broker: Broker, setup: Setup, bundle: Path, load: Load, *, passes: int
) -> list[float]:
    """Rates of a fresh agent on the load, sent `passes` times; every answer is checked."""
    rates = []
    with running(agent(bundle), broker, setup.work, probe=load.texts[0]) as run:
        for number in range(passes):
            rates.append(flow(broker, run.out, load))
            settled(broker, run.out, answered=1 + (number + 1) * len(load.texts))
    return rates


def _rate(broker: Broker, setup: Setup, enter: Enter, load: Load) -> float:
    with running(enter, broker, setup.work, probe=load.texts[0]) as run:
        return flow(broker, run.out, load)


def _callers_rate(bundle: Path, load: Load) -> float:
    rival = (sys.executable, "-m", "benchmarks.rivals.callers")
    argv = (*rival, "--bundle", str(bundle), "--texts", str(load.file))
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    if done.returncode:
        msg = f"callers.py: {done.stderr.strip().splitlines()[-1:]}"
        raise RunFailedError(msg)
    return len(load.texts) / float(done.stdout)
