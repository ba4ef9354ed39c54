"""What lies where: units, users, scripts; nothing that an upgrade could overwrite."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packages import contents
from packages.tools import ROOT

SCRIPTS = contents.device_package("amd64", "1").scripts
UNITS = [
    path
    for kind in ("*.service", "*.timer")
    for path in (ROOT / "systemd").glob(kind)
    if path.stem != "edgeslm-fleet"
]
DEVICE = {"edgeslm.service", "edgeslm-updater.service", "edgeslm-provision.service",
          "edgeslm-provision.timer", "edgeslm-stunnel.service"}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the package but its Python tree."""
    folder = tmp_path_factory.mktemp("root")
    contents.lay_files(folder)
    return folder


def test_every_unit_of_a_device_is_there_and_no_servers(root: Path) -> None:
    found = {path.name for path in (root / "usr/lib/systemd/system").iterdir() if path.is_file()}
    assert found == {path.name for path in UNITS} == DEVICE


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_is_the_checkouts_without_how_to_install_it(root: Path, unit: Path) -> None:
    laid = (root / "usr/lib/systemd/system" / unit.name).read_text()
    assert laid.startswith("[Unit]\n")
    assert unit.read_text().endswith(laid)
    assert "sudo" not in laid


def test_settings_are_nobodys_but_the_owners(root: Path) -> None:
    """No file below /etc, so none that dpkg would ask about; the example is whole."""
    assert [path.name for path in (root / "etc").rglob("*")] == ["edgeslm"]
    example = tomllib.loads((root / "usr/share/edgeslm/agent.toml").read_text())
    assert "device_id" in example


def test_bundles_of_the_example_lie_where_no_unit_writes(root: Path) -> None:
    """So `edgeslm image` takes it, and what empties the state leaves them."""
    example = tomllib.loads((root / "usr/share/edgeslm/agent.toml").read_text())
    folders = [Path(model["bundle"]) for model in example["models"].values()]
    assert folders
    assert {folder.parent for folder in folders} == {Path("/usr/share/edgeslm/bundles")}


def test_an_agent_without_settings_is_not_started(root: Path) -> None:
    folder = root / "usr/lib/systemd/system/edgeslm.service.d"
    assert (
        "ConditionPathExists=/etc/edgeslm/agent.toml\n" in (folder / "configured.conf").read_text()
    )
    unit = (root / "usr/lib/systemd/system/edgeslm.service").read_text()
    assert "--config /etc/edgeslm/agent.toml" in unit


def test_the_command_sees_its_own_packages_alone(root: Path) -> None:
    first, *_ = (root / "usr/bin/edgeslm").read_text().splitlines()
    assert first == "#!/usr/lib/edgeslm/bin/python3 -I"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_one_and_stops_at_errors(name: str) -> None:
    text = SCRIPTS[name]
    assert text.startswith("#!/bin/sh\nset -e\n")
    assert "@" not in text
    done = subprocess.run(["sh", "-n"], input=text, text=True, check=False)
    assert done.returncode == 0


def test_purging_forgets_every_folder_of_the_units_and_every_user() -> None:
    script = SCRIPTS["postrm"]
    for unit in UNITS:
        text = unit.read_text()
        assert unit.name in script
        for key, parent in (("State", "/var/lib"), ("Runtime", "/run")):
            for folder in re.findall(rf"^{key}Directory=(.+)$", text, re.MULTILINE):
                assert re.search(rf"for folder in .*{parent}/{folder}( |;)", script)
        for target in re.findall(r"^WantedBy=(.+)$", text, re.MULTILINE):
            assert all(re.search(rf"for wanting in .*\b{w}\b", script) for w in target.split())
    users = re.findall(r"^u (\S+)", (ROOT / "systemd/sysusers.conf").read_text(), re.MULTILINE)
    assert users
    assert all(re.search(rf"for user in .*\b{user}\b", script) for user in users)


def purged(root: Path, *before: str) -> None:
    """Run the script that purges on what lies in a folder, and after what is said before it."""
    stubs = root / "stubs"
    stubs.mkdir()
    (stubs / "getent").write_text("#!/bin/sh\nexit 2\n")
    (stubs / "getent").chmod(0o755)
    script = re.sub(r'(?<=[ "])/(?=(etc|run|usr|var)/)', f"{root}/", SCRIPTS["postrm"])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", "\n".join((*before, f"set purge\n{script}"))],
        env={"PATH": f"{stubs}:/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def device(root: Path) -> Path:
    for file in ("etc/edgeslm/agent.toml", "etc/edgeslm/plant-ca.pem", "var/lib/edgeslm/a/b"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")


@needs_root
def test_purging_leaves_nothing(tmp_path: Path) -> None:
    purged(device(tmp_path))
    assert {p.name for p in (tmp_path / "etc").iterdir()} == set()
    assert {p.name for p in (tmp_path / "var/lib").iterdir()} == set()


@needs_root
@pytest.mark.parametrize("theirs", ["etc/edgeslm/fleet.env", "var/lib/edgeslm-fleet/fleet"])
def test_purging_leaves_a_fleets_server_what_is_its(tmp_path: Path, theirs: str) -> None:
    device(tmp_path)
    (tmp_path / theirs).parent.mkdir(exist_ok=True)
    (tmp_path / theirs).touch()
    purged(tmp_path)
    assert (tmp_path / theirs).exists()
    assert (tmp_path / "etc/edgeslm/plant-ca.pem").exists()
    assert not (tmp_path / "etc/edgeslm/agent.toml").exists()
    assert not (tmp_path / "var/lib/edgeslm").exists()


@needs_root
def test_purging_empties_a_state_partition(tmp_path: Path) -> None:
    (device(tmp_path) / "state").mkdir()
    state = tmp_path / "var/lib/edgeslm"
    purged(tmp_path, f"mount --bind {tmp_path}/state {state}", f"touch {state}/kept {state}/.more")
    assert not list((tmp_path / "state").iterdir())
    assert not (tmp_path / "etc/edgeslm").exists()


def test_a_container_is_made_of_the_package_of_this_checkout(tmp_path: Path) -> None:
    """By a builder that writes down what it is asked for, in a checkout with an old package."""
    shutil.copytree(ROOT / "packaging", tmp_path / "packaging")
    programs = {
        "builder": 'echo "$@"; ls dist/container',
        "dpkg": "echo amd64",
        ".venv/bin/python": 'mkdir -p "$8" && touch "$8/edgeslm_2_amd64.deb" && echo "$@" >&2',
    }
    for name, text in programs.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "dist/container").mkdir(parents=True)
    (tmp_path / "dist/container/edgeslm_1_amd64.deb").touch()
    done = subprocess.run(
        [tmp_path / "packaging/container.sh", "--pull"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "BUILDER": str(tmp_path / "builder")},
        capture_output=True,
        text=True,
        check=True,
    )
    asked, *packages = done.stdout.splitlines()
    assert asked.startswith("build --file packaging/Containerfile --build-arg TARGETARCH=amd64")
    assert asked.endswith("--pull .")
    assert packages == ["edgeslm_2_amd64.deb"]
    assert "-m packages --only edgeslm --arch amd64" in done.stderr
    taken = re.findall(r"source=(\S+?),", (ROOT / "packaging/Containerfile").read_text())
    assert taken == ["dist/container"]


def test_dropins_of_accelerators_come_along(root: Path) -> None:
    there = {p.name for p in (root / "usr/share/edgeslm/accelerators").iterdir()}
    assert there == {p.name for p in (ROOT / "systemd/accelerators").glob("*.conf")}
    assert {provider.dropin for provider in contents.PROVIDERS.values()} <= there


def test_pages_are_compressed_without_a_time(root: Path) -> None:
    page = (root / "usr/share/man/man1/edgeslm.1.gz").read_bytes()
    assert page[4:8] == b"\0" * 4
    assert gzip.decompress(page).startswith(b".TH EDGESLM 1 ")
