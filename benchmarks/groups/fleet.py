"""Roll-outs over simulated devices: the real service, a real broker, sessions of their own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, func, select

from benchmarks.broker import Broker
from benchmarks.errors import RunFailedError
from benchmarks.evidence import Listener, evidence_at
from benchmarks.figures import Measured
from benchmarks.machine import ROOT
from benchmarks.setup import Setup
from edgeslm.contract.rollout import Plan
from edgeslm.core.rollout import DECIDED, ENDED, DeviceState, State, Target
from edgeslm.demo.processes import Child, free_port
from edgeslm.fleet.config import FleetConfig
from edgeslm.fleet.database import audit, rollouts
from edgeslm.fleet.database.engine import open_database, reading
from edgeslm.fleet.database.schema import devices
from edgeslm.fleet.models import Stated, add
from edgeslm.fleet.passphrases import Passphrases
from edgeslm.fleet.repository import Repository, init_repository
from edgeslm.fleet.service.shelf import RepositoryShelf
from edgeslm.fleet.service.starting import start

DEVICES: Final = 2000
QUICK_DEVICES: Final = 60
SCENARIOS: Final = ROOT / "benchmarks" / "scenarios"
_BAD: Final = ("bad-golden", "slow", "alarms")
_MODEL: Final = "press"
_RESTARTS: Final = 20
_RESTART_S: Final = 4.0  # from one to the next
_PASSPHRASE: Final = "of no fleet that exists"  # noqa: S105
_LIMIT_S: Final = 900.0
_LOOK_S: Final = 0.2
_WE: Final = audit.Actor("benchmarks", "cli")
_ACCOUNTED: Final = DECIDED | {
    DeviceState.RESTORED,
    DeviceState.WRITTEN_OFF,
    DeviceState.LEFT_OUT,
}


@dataclass(slots=True)
class Fleet:
    """A service with a fleet of simulated devices, all of them registered."""

    setup: Setup
    repository: Repository
    broker: Broker
    engine: Engine
    service: Child
    devices: int
    report: Path
    pss_mb: float = 0.0

    def begin(self, **wanted: Any) -> tuple[int, Plan, float]:
        """Start a roll-out as the command does; return it, and when that was asked for."""
        said = {"model": _MODEL, "version": 2, "waves": ["1%", "10%", "100%"], "soak_s": 2}
        plan = Plan.model_validate_json(json.dumps({**said, "deadline_s": 120, **wanted}))
        at = time.time()
        number = start(self.engine, RepositoryShelf(self.repository), plan, _WE, now=at)
        return number, plan, at

    def progress(self, number: int) -> rollouts.Stored:
        """Look at a roll-out, and at the service's memory."""
        self.weigh()
        with reading(self.engine) as conn:
            return rollouts.rollout(conn, number)

    def end(self, number: int) -> State:
        """Wait until a roll-out has ended; return how."""
        _wait(lambda: self.progress(number).progress.state in ENDED, "the roll-out does not end")
        return self.progress(number).progress.state

    def targets(self, number: int) -> list[Target]:
        with reading(self.engine) as conn:
            return rollouts.targets(conn, number)

    def weigh(self) -> None:
        """Note the service's memory."""
        if self.service.status is not None:
            msg = f"edgeslm fleet serve ended: {self.service.last_words()}"
            raise RunFailedError(msg)
        self.pss_mb = max(self.pss_mb, self.service.pss_mb() or 0.0)


def fleet(setup: Setup) -> dict[str, Measured]:
    """A roll-out in three waves, and one in a single wave; the service's memory in both."""
    with _running(setup, "good") as (running, stopped):
        number, _, _ = running.begin()
        state = running.end(number)
        first = Counter(target.state for target in running.targets(number))
        whole = {"version": 3, "waves": ["100%"], "canaries_per_type": 0, "soak_s": 0}
        second, _, asked_at = running.begin(**whole)
        running.end(second)
        seen = stopped()
    lost = running.devices - first[DeviceState.SUCCEEDED]
    if state is not State.COMPLETED:
        lost = running.devices
    doubled = 0
    known: list[float] = []
    for record in seen["devices"].values():
        installs = Counter(each["version"] for each in record["installs"])
        lost += installs[2] == 0
        doubled += sum(count - 1 for count in installs.values()) + record["doubled"]
        doubled += max(0, len(record["assignments"]) - 2)
        of_second = [a["at"] for a in record["assignments"] if a["models"][_MODEL] == 3]  # noqa: PLR2004
        known += of_second[:1] or [asked_at + _LIMIT_S]
    half = sorted(known)[len(known) // 2] - asked_at
    note = f"{running.devices:,} devices"
    bad = float(lost + doubled)
    knowing = max(known) - asked_at
    return {
        "fleet-lost": Measured(bad, 0, (bad, bad), note=note),
        "fleet-knowing": Measured(knowing, half, (half, knowing), note=note),
        "fleet-pss": Measured(running.pss_mb, 0, (running.pss_mb, running.pss_mb), note=note),
    }


def fleet_bad(setup: Setup) -> dict[str, Measured]:
    """A version that is bad in each of three ways: how many devices get it, and how long."""
    exposed: list[float] = []
    took: list[float] = []
    for how in _BAD:
        setup.tell(how)
        with _running(setup, how) as (running, stopped), Listener(running.broker.port) as listener:
            number, plan, _ = running.begin(soak_s=60)
            if running.end(number) is not State.ABORTED:
                msg = f"{how}: the roll-out was not stopped"
                raise RunFailedError(msg)
            targets = running.targets(number)
            decided_at = _decided_at(running, number)
            evidence = evidence_at(plan, targets, listener.heard)
            seen = stopped()
        if evidence is None:
            msg = f"{how}: it was stopped, and by the rules there was no cause"
            raise RunFailedError(msg)
        touched = [
            record
            for record in seen["devices"].values()
            if any(each["models"][_MODEL] == plan.version for each in record["assignments"])
        ]
        exposed.append(100 * len(touched) / running.devices)
        took.append(max(0.0, decided_at - evidence))
        setup.tell(f"{how}: {len(touched)} devices, {took[-1]:.1f} s")
    note = f"{running.devices:,} devices; golden, latency, alarms"
    shares = ", ".join(f"{seconds:.1f}" for seconds in took)
    return {
        "fleet-exposure": Measured(max(exposed), 0, (min(exposed), max(exposed)), note=note),
        "fleet-abort": Measured(max(took), 0, (min(took), max(took)), note=f"{note}: {shares} s"),
    }


def fleet_rough(setup: Setup) -> dict[str, Measured]:
    """Silent and flapping devices, and a broker that is restarted again and again."""
    restarts = 3 if setup.quick else _RESTARTS
    with _running(setup, "rough") as (running, stopped):
        number, _, _ = running.begin(deadline_s=90, limits={"failed": "10%", "silent": "60%"})
        for count in range(restarts):
            setup.tell(f"restart {count + 1} of {restarts}")
            time.sleep(_RESTART_S)
            running.broker.restart()
        state = running.end(number)
        targets = running.targets(number)
        seen = stopped()
    counted = Counter(target.state for target in targets)
    bad = float(running.devices - sum(counted[each] for each in _ACCOUNTED))
    bad += sum(record["doubled"] for record in seen["devices"].values())
    said = ", ".join(f"{count:,} {each.value}" for each, count in counted.most_common())
    note = f"{running.devices:,} devices, {restarts} restarts: {state.value}, {said}"
    return {"fleet-rough": Measured(bad, 0, (bad, bad), note=note)}


def _decided_at(running: Fleet, number: int) -> float:
    """Return when the service decided to stop a roll-out."""
    with reading(running.engine) as conn:
        log = [each for _, each in rollouts.log(conn, number)]
    return next(each.at for each in log if each.what.startswith(State.TAKING_BACK.value))


@contextmanager
def _running(setup: Setup, scenario: str) -> Iterator[tuple[Fleet, Callable[[], dict[str, Any]]]]:
    """Run service and devices until all have registered; the second ends the devices."""
    count = QUICK_DEVICES if setup.quick else DEVICES
    work = setup.work / scenario
    repository = _repository(work)
    common = ["--repository", str(repository.folder)]
    page = f"127.0.0.1:{free_port()}"
    with Broker(work / "broker") as broker:
        at = ["--broker", f"127.0.0.1:{broker.port}"]
        serve = ["serve", *common, *at, "--passphrase-file", str(work / "passphrase")]
        report = work / "report.json"
        play = ["simulate", *common, *at, "--devices", str(count), "--report", str(report)]
        play += ["--scenario", str(SCENARIOS / f"{scenario}.toml")]
        with (
            _child("fleet serve", [*serve, "--listen", page], work) as service,
            _child("fleet simulate", play, work) as player,
        ):
            engine = open_database(f"sqlite:///{repository.folder / 'fleet.db'}")
            running = Fleet(setup, repository, broker, engine, service, count, report)
            try:
                setup.tell(f"{scenario}: {count} devices register")
                _wait(lambda: _registered(running) == count, f"{scenario}: not all register")
                yield running, lambda: _ended(player, report)
            finally:
                engine.dispose()


@contextmanager
def _child(name: str, argv: Sequence[str], work: Path) -> Iterator[Child]:
    whole = [sys.executable, "-m", "edgeslm", "fleet", *argv]
    with Child(name, whole, log=work / f"{name.replace(' ', '-')}.log") as child:
        yield child


def _registered(running: Fleet) -> int:
    running.weigh()
    both = devices.c.state_at.is_not(None), devices.c.update_at.is_not(None)
    with reading(running.engine) as conn:
        found = conn.execute(select(func.count()).select_from(devices).where(*both)).scalar()
    return int(found or 0)


def _ended(player: Child, report: Path) -> dict[str, Any]:
    """End the devices; return what they saw."""
    os.kill(player.pid, signal.SIGTERM)
    _wait(lambda: player.status is not None, "the devices do not end", within_s=60.0)
    if not report.exists():
        msg = f"no report of the devices: {player.last_words()}"
        raise RunFailedError(msg)
    found: dict[str, Any] = json.loads(report.read_bytes())
    return found


def _repository(work: Path) -> Repository:
    """Make a repository with three versions of a model that nobody runs."""
    work.mkdir(parents=True)
    (work / "passphrase").write_text(_PASSPHRASE, "utf-8")
    repository = init_repository(work / "fleet", Passphrases(variable=_PASSPHRASE), FleetConfig())
    for version in (1, 2, 3):
        add(repository, [_bundle(work / f"bundle-{version}", version)], Stated())
    return repository


def _bundle(folder: Path, version: int) -> Path:
    """Write a bundle whose files are only bytes."""
    folder.mkdir()
    tolerance = {"score": 1e-4, "confidence": 1e-4, "verified": "measured"}
    files: dict[str, tuple[str, bytes, dict[str, Any]]] = {
        "model.onnx": ("graph", f"graph {version}".encode(), {"provider": "cpu"}),
        "tokenizer.json": ("tokenizer", b"{}", {}),
        "parameters.json": ("parameters", b"{}", {}),
        "golden.jsonl": ("golden", b"{}\n", {"tolerance": tolerance}),
    }
    artifacts = []
    for path, (role, data, more) in files.items():
        (folder / path).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        artifacts.append({"role": role, "path": path, "size": len(data), "sha256": digest, **more})
    manifest = {
        "schema_version": 1,
        "name": _MODEL,
        "version": version,
        "task": "anomaly",
        "profiles": ["generic-x86_64", "raspberry-pi-5"],
        "base_model": {"source": "none", "sha256": "0" * 64},
        "max_tokens": 16,
        "artifacts": artifacts,
        "exporter": "0",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return folder


def _wait(done: Callable[[], bool], what: str, *, within_s: float = _LIMIT_S) -> None:
    until = time.monotonic() + within_s
    while not done():
        if time.monotonic() > until:
            raise RunFailedError(what)
        time.sleep(_LOOK_S)
