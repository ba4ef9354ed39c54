"""Devices out of the box, all at once: each makes a key and gets its certificate by one service."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from cryptography import x509

from benchmarks.broker import Broker
from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from edgeslm.adapters.clock import SystemClock
from edgeslm.contract.identity import CERT, CURRENT
from edgeslm.contract.settings import read_settings
from edgeslm.demo.processes import Child
from edgeslm.fleet import enrolment
from edgeslm.fleet.authority import Authority
from edgeslm.fleet.config import FleetConfig
from edgeslm.fleet.database import audit
from edgeslm.fleet.database.engine import open_database
from edgeslm.fleet.passphrases import Passphrases
from edgeslm.fleet.repository import Repository, init_repository
from edgeslm.fleet.shown import fingerprint_of
from edgeslm.provision.provision import Outcome, Provisioner

DEVICES: Final = 500
QUICK_DEVICES: Final = 40
_AT_ONCE: Final = 32  # that wait for an answer
_PASSPHRASE: Final = "of no fleet that exists"  # noqa: S105
_WE: Final = audit.Actor("benchmarks", "cli")


def provision(setup: Setup) -> dict[str, Measured]:
    """From the first request to the last certificate on disk, and how many have one identity."""
    count = QUICK_DEVICES if setup.quick else DEVICES
    work = setup.work / "provision"
    repository = _repository(work)
    tokens = _enrolled(repository, [f"device-{number:04}" for number in range(count)])
    with Broker(work / "broker") as broker:
        argv = [sys.executable, "-m", "edgeslm", "fleet", "serve", "--no-page"]
        argv += ["--repository", str(repository.folder), "--broker", f"127.0.0.1:{broker.port}"]
        argv += ["--passphrase-file", str(work / "passphrase")]
        with Child("fleet serve", argv, log=work / "serve.log") as service:
            makers = [
                _device(work / "devices" / device, token, broker.port)
                for device, token in tokens.items()
            ]
            makers[0].run()  # the service is there
            setup.tell(f"{count} devices ask")
            began = time.monotonic()
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                outcomes = list(pool.map(Provisioner.run, makers[1:]))
            took = time.monotonic() - began
            if service.status is not None:
                msg = f"edgeslm fleet serve ended: {service.last_words()}"
                raise RunFailedError(msg)
    shared = float(count - _distinct(work / "devices", outcomes) - 1)
    note = f"{count} devices, {_AT_ONCE} at once; they compute on the same machine"
    return {
        "provision-time": Measured(took, 0, (took, took), note=note),
        "provision-shared": Measured(shared, 0, (shared, shared), note=note),
    }


def _distinct(devices: Path, outcomes: Sequence[Outcome]) -> int:
    """Return how many have an id, a serial and a key that no other has."""
    serials = {each.identity.serial for each in outcomes}
    ids = {each.identity.device for each in outcomes}
    keys = set()
    for device in ids:
        pem = (devices / device / "state" / CURRENT / CERT).read_bytes()
        keys.add(fingerprint_of(x509.load_pem_x509_certificate(pem).public_key()))
    return min(len(serials), len(ids), len(keys))


def _device(folder: Path, token: str, port: int) -> Provisioner:
    folder.mkdir(parents=True)
    (folder / "token").write_text(token, "ascii")
    file = folder / "agent.toml"
    text = f'[uplink]\nhost = "127.0.0.1"\nport = {port}\n[provision]\n'
    text += f"dir = {json.dumps(str(folder / 'state'))}\n"
    text += f"token_file = {json.dumps(str(folder / 'token'))}\n"
    file.write_text(text, "utf-8")
    machine = (secrets.token_hex(32),)
    return Provisioner(read_settings(file), clock=SystemClock(), machine=machine)


def _repository(work: Path) -> Repository:
    work.mkdir(parents=True)
    (work / "passphrase").write_text(_PASSPHRASE, "utf-8")
    return init_repository(work / "fleet", Passphrases(variable=_PASSPHRASE), FleetConfig())


def _enrolled(repository: Repository, devices: Sequence[str]) -> dict[str, str]:
    Authority(repository).make()
    engine = open_database(f"sqlite:///{repository.folder / 'fleet.db'}")
    try:
        wanted = [enrolment.Wanted(device) for device in devices]
        now = time.time()
        return enrolment.enrol(engine, wanted, actor=_WE, now=now, days=1.0).tokens
    finally:
        engine.dispose()
