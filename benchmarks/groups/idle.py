"""What a device that has nothing to do says in a day, what is said to it, and what it costs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import bundles
from benchmarks.broker import Broker
from benchmarks.contestants import listening
from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.groups.push import serving
from benchmarks.meter import Meter
from benchmarks.setup import Setup
from benchmarks.watch import Activity
from edgeslm.contract.brokers import Broker as BrokerSettings
from edgeslm.contract.settings import AgentSettings
from edgeslm.contract.topics import DEFAULT_ROOT, Topics
from edgeslm.demo.processes import Child
from edgeslm.fleet.config import FleetConfig
from edgeslm.fleet.models import Stated, add
from edgeslm.fleet.passphrases import Passphrases
from edgeslm.fleet.repository import Repository, init_repository
from edgeslm.runtime.bundle import MANIFEST
from edgeslm.runtime.profiles import detect_profile

_DAY_S: Final = 86_400.0
_FASTER: Final = 12  # as often: a keep-alive of 60 s is 5 s, and nobody may ask for less
_STATES: Final = 2  # in a window
_WINDOWS: Final = 2
_REFRESHES: Final = 2  # a day: `timestamp` lives for one, and is signed anew at half of it
_SETTLE_S: Final = 15.0
_WINDOW_S: Final = 180.0
_QUICK_WINDOW_S: Final = 15.0
_LIMIT_S: Final = 120.0
_DEVICE: Final = "press-hall-7"
_PASSPHRASE: Final = "of no fleet that exists"  # noqa: S105


def idle(setup: Setup) -> dict[str, Measured]:
    """Agent and updater of one model, without inputs: what they say, and what they cost.

    A day of the default intervals is what is counted of their traffic while they are a twelfth as
    long, in a twelfth of a day; what they cost is counted at the default intervals.
    """
    found: dict[str, Measured] = {}
    if "idle-traffic" in setup.wanted:
        found["idle-traffic"] = _traffic(setup)
    if setup.wanted & {"idle-cpu", "idle-wakeups"}:
        found |= _awake(setup)
    return {name: measured for name, measured in found.items() if name in setup.wanted}


@dataclass(frozen=True, slots=True)
class _Idle:
    """A device at work that has nothing to do."""

    repository: Repository
    meter: Meter
    states: list[float]
    agent: Child
    updater: Child


def _traffic(setup: Setup) -> Measured:
    """Each byte of their connections, both ways.

    Metadata are counted as they come, and added, and one start of both beside.
    """
    interval_s = AgentSettings.model_fields["state_interval_s"].default / _FASTER
    with _device(setup, "traffic", faster=_FASTER) as device:
        begun = device.meter.passed
        device.repository.refresh(force=True)
        time.sleep(_SETTLE_S)
        refreshed = device.meter.passed - begun
        days = []
        for number in range(1 if setup.quick else _WINDOWS):
            setup.tell(f"window {number + 1}: {_STATES * interval_s:.0f} s")
            rate = _rate(device.meter, device.states, interval_s)
            days.append((rate * _DAY_S / _FASTER + _REFRESHES * refreshed + begun) / 1e3)
    note = (
        f"of these {begun / 1e3:.1f} kB a start, {_REFRESHES} x {refreshed / 1e3:.1f} kB metadata"
    )
    return Measured(max(days), 0, (min(days), max(days)), note=note)


def _awake(setup: Setup) -> dict[str, Measured]:
    """How much processor time both take, and how often a thread of theirs is woken."""
    shares: list[float] = []
    rates: list[float] = []
    window_s = _QUICK_WINDOW_S if setup.quick else _WINDOW_S
    with _device(setup, "awake", faster=1) as device:
        both = (device.agent, device.updater)
        before = [Activity.of(each) for each in both]
        whole_at = begun = time.perf_counter()
        first = before
        for number in range(_WINDOWS):
            setup.tell(f"at rest, window {number + 1}: {window_s:.0f} s")
            time.sleep(window_s)
            after = [Activity.of(each) for each in both]
            took_s = time.perf_counter() - begun
            cpu_s = sum(b.cpu_s - a.cpu_s for a, b in zip(before, after, strict=True))
            waits = sum(sum(b.since(a)) for a, b in zip(before, after, strict=True))
            shares.append(100 * cpu_s / took_s)
            rates.append(waits / took_s)
            before, begun = after, time.perf_counter()
        whole_s = time.perf_counter() - whole_at
    parts = [
        f"{each.name}: " + " + ".join(f"{count / whole_s:.2f}" for count in b.since(a) if count)
        for each, a, b in zip(both, first, after, strict=True)
    ]
    return {
        "idle-cpu": Measured(max(shares), 0, (min(shares), max(shares)), note="of one core"),
        "idle-wakeups": Measured(
            max(rates), 0, (min(rates), max(rates)), note=f"by thread: {'; '.join(parts)}"
        ),
    }


@contextmanager
def _device(setup: Setup, name: str, *, faster: int) -> Iterator[_Idle]:
    """Run a fleet's server, a device, and a broker; intervals are a share of their defaults."""
    work = setup.work / name
    work.mkdir()
    here = replace(setup, work=work)
    profile = detect_profile().name
    bundle = bundles.small(setup, "snips", profile=profile)
    repository = _repository(here, bundle)
    with (
        Broker(work / "broker") as broker,
        Meter(broker.port) as meter,
        serving(here, repository, broker, work / "server.log"),
        listening(broker, Topics(DEFAULT_ROOT, _DEVICE).state) as (_, states),
    ):
        config = _configure(here, bundle, meter.port, profile, faster=faster)
        with _running(here, "run", config) as agent, _running(here, "updater", config) as updater:
            _wait(lambda: bool(states), "the agent says nothing")
            time.sleep(_SETTLE_S)
            yield _Idle(repository, meter, states, agent, updater)


def _rate(meter: Meter, states: list[float], interval_s: float) -> float:
    """Return the bytes a second of a window that holds as many states as intervals."""
    seen = len(states)
    _wait(lambda: len(states) > seen, "no state came", within_s=2 * interval_s)
    time.sleep(interval_s / 2)
    passed, begun = meter.passed, time.perf_counter()
    time.sleep(_STATES * interval_s)
    return (meter.passed - passed) / (time.perf_counter() - begun)


def _repository(setup: Setup, bundle: Path) -> Repository:
    passphrases = Passphrases(variable=_PASSPHRASE)
    repository = init_repository(setup.work / "fleet", passphrases, FleetConfig())
    (setup.work / "passphrase").write_text(_PASSPHRASE, "utf-8")
    add(repository, [bundle], Stated())
    return repository


def _configure(setup: Setup, bundle: Path, port: int, profile: str, *, faster: int) -> Path:
    keepalive_s = BrokerSettings().keepalive_s // faster
    model = json.loads((bundle / MANIFEST).read_bytes())["name"]
    root = setup.work / "root.json"
    root.write_bytes((setup.work / "fleet" / "metadata" / "1.root.json").read_bytes())
    said: dict[str, Any] = {
        "device_id": _DEVICE,
        "profile": profile,
        "state_dir": setup.work / "state",
        "runtime_dir": setup.work / "runtime",
        "state_interval_s": AgentSettings.model_fields["state_interval_s"].default / faster,
    }
    lines = [f"{key} = {json.dumps(value, default=str)}" for key, value in said.items()]
    lines += [
        "[uplink]",
        f'host = "127.0.0.1"\nport = {port}\nkeepalive_s = {keepalive_s}',
        f"[models.{model}]\nbundle = {json.dumps(str(bundle))}",
        f'[routes.texts]\ntopic = "plant/orders"\nmodels = ["{model}"]',
        f"[update]\nroot = {json.dumps(str(root))}\ndir = {json.dumps(str(setup.work / 'slots'))}",
    ]
    config = setup.work / "edgeslm.toml"
    config.write_text("\n".join([*lines, ""]), "utf-8")
    return config


@contextmanager
def _running(setup: Setup, command: str, config: Path) -> Iterator[Child]:
    argv = [sys.executable, "-m", "edgeslm", command, "--config", str(config)]
    with Child(command, argv, log=setup.work / f"{command}.log") as child:
        yield child
        if child.status is not None:
            msg = f"edgeslm {command} ended: {child.last_words()}"
            raise RunFailedError(msg)


def _wait(done: Callable[[], bool], what: str, *, within_s: float = _LIMIT_S) -> None:
    until = time.monotonic() + within_s
    while not done():
        if time.monotonic() > until:
            raise RunFailedError(what)
        time.sleep(0.05)
