"""A device as `edgeslm image` makes it, booted by a real systemd: it serves whatever happens."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks import container
from benchmarks.container import Container
from edgeslm.cli.main import main
from edgeslm.contract.identity import CURRENT, IDENTITY, Identity
from edgeslm.contract.topics import DEFAULT_ROOT, Topics
from edgeslm.fleet.config import FleetConfig
from edgeslm.fleet.director import Wish
from edgeslm.fleet.models import Stated, add
from edgeslm.fleet.passphrases import Passphrases
from edgeslm.fleet.repository import Repository, init_repository
from edgeslm.runtime.bundle import MANIFEST
from edgeslm.runtime.profiles import detect_profile
from tests.conftest import ROOT
from tests.fleet import kit

DEVICE: Final = "boot-1"
MODEL: Final = "plant"
UNITS: Final = ("edgeslm", "edgeslm-updater")
SETTINGS: Final = f"""\
device_id = "{DEVICE}"
profile = "/etc/edgeslm/quick.toml"
[uplink]
host = "127.0.0.1"
[models.{MODEL}]
[routes.log]
topic = "plant/log"
models = ["{MODEL}"]
[update]
user = "edgeslm-updater"
"""
WATCHDOG_S: Final = 30 + 10  # of the unit, and until what is frozen is killed
ANSWER_S: Final = 60
_BROKER: Final = ("-h", "127.0.0.1", "-q", "1", "-V", "5")
_EAR: Final = (*_BROKER, "-i", "ear", "-c", "-x", "3600",
               "-t", Topics(DEFAULT_ROOT, DEVICE).results(MODEL))  # fmt: skip
_NUMBER: Final = itertools.count()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(container.problem() is not None, reason=str(container.problem())),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where all of it lies; removed at the end, since roots are large."""
    made = tmp_path_factory.mktemp("boot")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def repository(folder: Path, anomaly_bundle: Path) -> Repository:
    """A fleet with versions 1 and 2 of the model."""
    words = Passphrases(variable="a passphrase of tests")
    made = init_repository(folder / "fleet", words, FleetConfig())
    for version in (1, 2):
        bundle = folder / f"v{version}"
        shutil.copytree(anomaly_bundle, bundle)
        said = json.loads((bundle / MANIFEST).read_bytes())
        (bundle / MANIFEST).write_text(json.dumps(said | {"version": version}))
        add(made, [bundle], Stated())
    return made


@pytest.fixture(scope="module")
def root(folder: Path, repository: Repository) -> Path:
    """A root file system with version 1, from one command."""
    made = container.installed(folder / "root", ROOT / ".cache")
    (folder / "agent.toml").write_text(SETTINGS)
    (folder / "root.json").write_bytes(repository.store.read("1.root.json"))
    shipped = (ROOT / "device-profiles" / f"{detect_profile().name}.toml").read_text()
    named = f'name = "{detect_profile().name}"'
    (folder / "quick.toml").write_text(
        shipped.replace(named, 'name = "quick"')
        + "[limits]\nmemory_mb = 900\ntasks = 200\ncpu_percent = 200\n[trial]\nduration_s = 0.0\n"
    )
    options = {"--profile": "quick.toml", "--config": "agent.toml", "--root-of-trust": "root.json",
               "--bundle": "v1"}  # fmt: skip
    words = [word for name, file in options.items() for word in (name, str(folder / file))]
    assert main(["image", str(made), *words]) == 0
    return made


@pytest.fixture(scope="module")
def device(folder: Path, root: Path) -> Iterator[Container]:
    with Container(root, folder / "device") as booted:
        listen(booted)
        yield booted


def listen(device: Container) -> None:
    """Have the broker keep results for us, whoever is connected."""
    device.run("mosquitto_sub", *_EAR, "-E")


def ask(device: Container, within_s: float = ANSWER_S) -> dict[str, Any]:
    """Publish a text that nobody has said yet, and return the answer to it."""
    text = f"filler {next(_NUMBER)} temperature 71.9 C"
    device.run("mosquitto_pub", *_BROKER, "-t", "plant/log", "-m", text)
    said = device.run("mosquitto_sub", *_EAR, "-C", "1", "-W", str(int(within_s)))
    answer: dict[str, Any] = json.loads(said)
    return answer


def shown(device: Container, unit: str, name: str) -> str:
    return device.run("systemctl", "show", "--value", f"--property={name}", unit).strip()


def wait(done: Callable[[], bool], what: str, within_s: float = 120.0) -> None:
    until = time.monotonic() + within_s
    while not done():
        if time.monotonic() > until:
            pytest.fail(f"not within {within_s} s: {what}")
        time.sleep(0.2)


def _is_active(device: Container, unit: str) -> bool:
    return shown(device, unit, "ActiveState") == "active"


def up(device: Container) -> None:
    """Wait until both units are ready."""
    for unit in UNITS:
        wait(partial(_is_active, device, unit), f"{unit} is ready")


def test_it_answers_from_the_first_boot_on_with_a_root_that_nobody_writes(
    device: Container,
) -> None:
    up(device)
    answer = ask(device)
    assert answer["model"]["version"] == 1
    assert "label" in answer
    assert "ro," in next(
        line for line in device.run("cat", "/proc/mounts").splitlines() if line.split()[1] == "/"
    )
    failed = device.run("systemctl", "--failed", "--plain", "--no-legend").split()
    assert not [word for word in failed if word.startswith("edgeslm")]


def test_each_runs_as_a_user_of_its_own_within_the_profiles_limits(device: Container) -> None:
    for unit in UNITS:
        pid = shown(device, unit, "MainPID")
        uid = device.run("stat", "-c", "%U:%G", f"/proc/{pid}").strip()
        assert uid == f"{unit}:edgeslm"
        status = device.run("cat", f"/proc/{pid}/status")
        assert "NoNewPrivs:\t1" in status
        assert "CapEff:\t0000000000000000" in status
        assert "Seccomp:\t2" in status
    assert shown(device, "edgeslm", "MemoryMax") == str(900 * 2**20)
    assert shown(device, "edgeslm", "TasksMax") == "200"
    assert shown(device, "edgeslm", "CPUQuotaPerSecUSec") == "2s"


def test_a_killed_agent_is_back_and_answers(device: Container) -> None:
    before = shown(device, "edgeslm", "MainPID")
    device.run("systemctl", "kill", "--signal=KILL", "edgeslm")
    assert ask(device)["model"]["version"] == 1
    assert shown(device, "edgeslm", "MainPID") != before


def test_a_frozen_agent_is_restarted_by_the_watchdog_and_answers(device: Container) -> None:
    up(device)
    before = int(shown(device, "edgeslm", "NRestarts"))
    device.run("systemctl", "kill", "--signal=STOP", "edgeslm")
    answer = ask(device, within_s=WATCHDOG_S + ANSWER_S)
    assert "label" in answer
    assert int(shown(device, "edgeslm", "NRestarts")) == before + 1
    assert shown(device, "edgeslm", "Result") == "success"
    said = device.run("journalctl", "--no-pager", "--unit=edgeslm")
    assert "Watchdog timeout" in said


def test_an_agent_without_a_certificate_waits_for_it_and_is_not_restarted(
    device: Container,
) -> None:
    up(device)
    folder = "/run/to-come"  # of what provisioning gets
    named = f'device_id = "{DEVICE}"\n'
    asks = f'[provision]\ndir = "{folder}"\ntoken_file = "/etc/edgeslm/token"\n'
    (device.stick / "unnamed.toml").write_text(SETTINGS.removeprefix(named) + asks)
    start = f"/usr/bin/edgeslm run --wait --config {container.STICK}/unnamed.toml"
    drop_in = "/run/systemd/system/edgeslm.service.d/unnamed.conf"
    script = f"mkdir -p {drop_in.rpartition('/')[0]} && printf '%b' \"$0\" > {drop_in}"
    device.run("sh", "-c", script, f"[Service]\\nExecStart=\\nExecStart={start}\\n")
    device.run("systemctl", "daemon-reload")
    device.run("systemctl", "restart", "edgeslm")
    pid = shown(device, "edgeslm", "MainPID")
    assert "no certificate yet" in shown(device, "edgeslm", "StatusText")
    time.sleep(WATCHDOG_S)
    identity = Identity(device=DEVICE, serial="1", not_before=0.0, not_after=2e9)
    script = (
        f'mkdir -p {folder}/1 && echo "$0" > {folder}/1/{IDENTITY} && ln -s 1 {folder}/{CURRENT}'
    )
    device.run("sh", "-c", script, identity.model_dump_json())
    assert ask(device)["model"]["version"] == 1
    assert shown(device, "edgeslm", "MainPID") == pid
    said = device.run("journalctl", "--no-pager", "--unit=edgeslm", "--output=cat")
    assert said.count('"certificate_awaited"') == 1
    device.run("rm", drop_in)
    device.run("systemctl", "daemon-reload")
    device.run("systemctl", "restart", "edgeslm")


def test_settings_are_read_again_on_reload(device: Container) -> None:
    up(device)
    before = shown(device, "edgeslm", "MainPID")
    device.run("systemctl", "reload", "edgeslm")
    assert ask(device)["model"]["version"] == 1
    assert shown(device, "edgeslm", "MainPID") == before


def test_the_first_push_is_an_update_like_any_other(
    device: Container, repository: Repository
) -> None:
    up(device)
    kit.assign(repository, DEVICE, Wish(models={MODEL: 2}))
    stick = device.stick / "one"
    kit.write_stick(repository, stick, [DEVICE])
    subprocess.run(["chmod", "-R", "a+rX", str(device.stick)], check=True)
    take = ("edgeslm", "update", "--config", "/etc/edgeslm/agent.toml", "--trust-clock")
    device.run(*take, "--from", f"{container.STICK}/one")
    wait(lambda: ask(device)["model"]["version"] == 2, "the new version answers")
    told = device.run("edgeslm", "status", "--config", "/etc/edgeslm/agent.toml")
    assert "version 2" in told
    assert "spare: version 1" in told


def test_what_it_has_become_outlives_a_power_cut_and_an_orderly_reboot(device: Container) -> None:
    for end in (device.cut, device.halt):
        end()
        device.boot()
        listen(device)
        up(device)  # before it there is no session that a text could wait in
        assert ask(device)["model"]["version"] == 2
