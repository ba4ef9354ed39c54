"""What lies where: units, users, scripts; nothing that an upgrade could overwrite."""

from __future__ import annotations

import gzip
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packages import contents
from packages.tools import ROOT

SCRIPTS = contents.device_package("amd64", "1").scripts
UNITS = [p for p in (ROOT / "systemd").glob("*.service") if p.stem != "edgeslm-fleet"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the package but its Python tree."""
    folder = tmp_path_factory.mktemp("root")
    contents.lay_files(folder)
    return folder


def test_every_unit_of_a_device_is_there_and_no_servers(root: Path) -> None:
    found = {path.name for path in (root / "usr/lib/systemd/system").glob("*.service")}
    assert found == {path.name for path in UNITS} >= {"edgeslm.service", "edgeslm-updater.service"}


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
                assert re.search(rf"rm -rf .*{parent}/{folder}( |$)", script, re.MULTILINE)
    users = re.findall(r"^u (\S+)", (ROOT / "systemd/sysusers.conf").read_text(), re.MULTILINE)
    assert users
    assert all(re.search(rf"for user in .*\b{user}\b", script) for user in users)


def test_dropins_of_accelerators_come_along(root: Path) -> None:
    there = {p.name for p in (root / "usr/share/edgeslm/accelerators").iterdir()}
    assert there == {p.name for p in (ROOT / "systemd/accelerators").glob("*.conf")}
    assert {provider.dropin for provider in contents.PROVIDERS.values()} <= there


def test_pages_are_compressed_without_a_time(root: Path) -> None:
    page = (root / "usr/share/man/man1/edgeslm.1.gz").read_bytes()
    assert page[4:8] == b"\0" * 4
    assert gzip.decompress(page).startswith(b".TH EDGESLM 1 ")
