"""A stick taken, what failed forgotten, and what is said of it where no updater runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from edgeslm import logs
from edgeslm.adapters.slot_store import FileSlotStore, ReadOnlySlots
from edgeslm.contract.slots import Bad, ModelSlots, SlotTable
from edgeslm.runtime.slot import whole_slot
from tests.commands import here
from tests.runtime import tiny
from tests.updater.whole import MODEL, Fleet

BAD = Bad(hash="b" * 64, version=3, error={"code": "trial.slow", "message": "too slow"})


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    folder = tmp_path_factory.mktemp("fleet")
    made = Fleet(folder)
    for version in (1, 2):
        made.offer(version, tiny.write_bundle(folder / f"v{version}", name=MODEL, version=version))
    made.assign(2)
    made.stick("stick")
    return made


@pytest.fixture
def config(fleet: Fleet, tmp_path: Path) -> Path:
    written = fleet.configure(tmp_path / "device")
    written.write_text(written.read_text().replace("load_s = 10.0", "load_s = 1.0"))
    return written


@pytest.fixture(autouse=True)
def _no_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "configure", lambda **_: None)


def edgeslm(command: str, config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return here(command, "--config", str(config), *words)


def remember(config: Path) -> None:
    """Have a version and a configuration on the device that failed there."""
    table = SlotTable(models={MODEL: ModelSlots(bad=(BAD,))}, bad_config=(BAD,))
    (config.parent / "updater").mkdir()
    store = FileSlotStore(config.parent / "updater", whole_slot)
    store.write(table)
    store.close()


def test_what_passes_has_another_status_than_what_does_not(config: Path, fleet: Fleet) -> None:
    stick = str(fleet.folder / "stick")
    done = edgeslm("update", config, "--trust-clock", "--from", stick)
    assert (done.returncode, "[update.overdue]" in done.stderr) == (75, True), done.stderr
    assert "edgeslm run" in done.stderr
    done = edgeslm("update", config, "--trust-clock", "--from", f"{stick}-nowhere")
    assert (done.returncode, "[stick.missing]" in done.stderr) == (65, True), done.stderr
    # That an assignment was taken is known without an updater, and without another package.
    said = edgeslm("status", config)
    assert "assigned  1;" in said.stdout, said.stdout


def test_what_failed_here_may_be_forgotten(config: Path) -> None:
    remember(config)
    for words in (("--forget-bad", MODEL), ("--forget-bad-config",)):
        done = edgeslm("update", config, *words)
        assert done.returncode == 0, done.stderr
        done = edgeslm("update", config, *words)
        assert (done.returncode, "[update.nothing_bad]" in done.stderr) == (65, True)
    table = ReadOnlySlots(config.parent / "updater").read()
    assert not table.models[MODEL].bad
    assert not table.bad_config
    done = edgeslm("update", config, "--forget-bad", "No Name")
    assert (done.returncode, "not a name" in done.stderr) == (65, True)


@pytest.mark.parametrize("how", ["signed by one", "no metadata"])
@pytest.mark.parametrize("command", ["updater", "update"])
def test_a_root_that_nothing_can_be_trusted_by_ends_it(
    config: Path, fleet: Fleet, tmp_path: Path, how: str, command: str
) -> None:
    root = tmp_path / "root.json"
    said = json.loads(fleet.root.read_bytes())
    del said["signatures"][1:]
    root.write_text(json.dumps(said) if how == "signed by one" else "{}")
    config.write_text(config.read_text().replace(str(fleet.root), str(root)))
    words = ("--from", "/nowhere") if command == "update" else ()
    done = edgeslm(command, config, *words)
    assert done.returncode == 78, done.stderr
    assert "update.root" in done.stderr
    assert str(root) in done.stderr
    assert "keys export-root" in done.stderr
