"""Metadata, envelopes and floors that were damaged: nothing is taken that was not signed."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgeslm.adapters.tuf import FLOORS, METADATA, Trust
from edgeslm.contract.fleet import DeviceConfig
from edgeslm.core.trust import FloorsDamagedError, decode_floors, encode_floors
from edgeslm.errors import EdgeSLMError
from edgeslm.fleet import director
from edgeslm.fleet.config import CONFIG, FleetConfig, load_config
from edgeslm.fleet.errors import FleetConfigError
from tests.adapters import hostile
from tests.fleet import kit
from tests.fuzz.harness import fuzz


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> hostile.Fleet:
    return hostile.make_fleet(tmp_path_factory.mktemp("fleet"))


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", hostile.MODEL])
def test_metadata(role: str, fleet: hostile.Fleet, tmp_path: Path, targets: int) -> None:
    trust, shelf = fleet.device(tmp_path / "d")
    held = tmp_path / "d" / METADATA
    names = [f for f in fleet.newest if f == f"{role}.json" or f.endswith(f".{role}.json")]
    name = max(names)
    signed = json.loads(fleet.newest[name])["signed"]
    trust.walk_roots()
    trust.refresh(fleet.clock())
    offers = trust.offers("press")
    floors = hostile.floors(tmp_path / "d")

    def parse(raw: bytes) -> None:
        # What it has cached it does not fetch.
        (held / f"{role}.json").unlink(missing_ok=True)
        shutil.rmtree(held / "root_history", ignore_errors=True)
        shelf.files[name] = raw
        trust.walk_roots()
        trust.refresh(fleet.clock())
        # The bytes around what is signed may differ; what was signed may not.
        assert trust.offers("press") == offers
        assert json.loads(raw)["signed"] == signed
        assert hostile.floors(tmp_path / "d") == floors

    fuzz(parse, [fleet.newest[name]], allowed=(EdgeSLMError,), targets=targets)
    assert hostile.floors(tmp_path / "d") == floors


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", hostile.MODEL])
def test_metadata_of_a_thief(role: str, fleet: hostile.Fleet, tmp_path: Path, targets: int) -> None:
    """Signed by the keys that should sign them, whatever they say: refused by name, or whole."""
    tries = itertools.count()

    def parse(raw: bytes) -> None:
        try:
            said = json.loads(raw)
        except (ValueError, RecursionError):
            return
        if not isinstance(said, dict):
            return

        def replaced(signed: dict[str, Any]) -> None:
            # Of another version than it is named with, all is refused before anything is read.
            version = {} if role == "timestamp" else {"version": signed["version"]}
            signed.clear()
            signed.update({**said, **version})

        folder = tmp_path / str(next(tries))
        trust, shelf = fleet.device(folder)
        shelf.files = fleet.forge(fleet.newest, {role: replaced})
        trust.walk_roots()
        trust.refresh(fleet.clock())
        for offer in trust.offers("press"):
            assert offer.bundle.model == "press"

    name = max(f for f in fleet.newest if f == f"{role}.json" or f.endswith(f".{role}.json"))
    signed = json.loads(fleet.newest[name])["signed"]
    seed = hostile.compact({**signed, "version": signed["version"] + 1})
    fuzz(parse, [seed], allowed=(EdgeSLMError,), targets=targets)


def test_assignments(fleet: hostile.Fleet, tmp_path: Path, targets: int) -> None:
    trust, _ = fleet.device(tmp_path / "d")
    trust.refresh(fleet.clock())
    envelope = kit.envelope(fleet.repository, hostile.DEVICE)
    assert envelope is not None
    expected = trust.assignment(envelope, device=hostile.DEVICE, now=fleet.clock())

    def parse(raw: bytes) -> None:
        assert trust.assignment(raw, device=hostile.DEVICE, now=fleet.clock()) == expected

    fuzz(parse, [envelope], allowed=(EdgeSLMError,), targets=targets)


def test_times(fleet: hostile.Fleet, tmp_path: Path, targets: int) -> None:
    trust, _ = fleet.device(tmp_path / "d")
    signers = director.time_signers(fleet.repository)
    said = {"device": hostile.DEVICE, "nonce": hostile.NONCE}
    reply = director.time_reply(signers, now=fleet.clock(), **said)

    def parse(raw: bytes) -> None:
        assert trust.time_of(raw, **said) == fleet.clock()

    fuzz(parse, [reply], allowed=(EdgeSLMError,), targets=targets)


def test_floors(fleet: hostile.Fleet, tmp_path: Path, targets: int) -> None:
    shutil.copytree(fleet.folder, tmp_path / "d")
    file = tmp_path / "d" / FLOORS
    whole = file.read_bytes()
    assert encode_floors(decode_floors(whole)) == whole

    def parse(raw: bytes) -> None:
        file.write_bytes(raw)
        Trust(tmp_path / "d", fleet.flashed, kit.Shelf(fleet.newest))
        assert raw == whole

    fuzz(parse, [whole], allowed=(FloorsDamagedError,), targets=targets)


def test_fleet_configurations(tmp_path: Path, targets: int) -> None:
    def parse(raw: bytes) -> None:
        (tmp_path / CONFIG).write_bytes(raw)
        assert isinstance(load_config(tmp_path), FleetConfig)

    seeds = [
        b"",
        b'topic_root = "a/b"\n[days]\nroot = 400\ntimestamp = 0.5\n[keys]\nroot-1 = "/x.pem"\n',
    ]
    fuzz(parse, seeds, allowed=(FleetConfigError,), targets=targets)


def test_device_configurations(tmp_path: Path, targets: int) -> None:
    file = tmp_path / "device.toml"

    def parse(raw: bytes) -> None:
        file.write_bytes(raw)
        assert isinstance(director.read_config(file), DeviceConfig)

    whole = (
        b"state_interval_s = 5\n[models.press]\nworkers = 2\n[outbox]\nmax_mb = 5\n"
        b'[routes.r]\ntopic = "a/#"\nmodels = ["press"]\n'
    )
    fuzz(parse, [b"", whole], allowed=(FleetConfigError,), targets=targets)
