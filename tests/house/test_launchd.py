"""launchd's file and the units' drop-ins say what these take, and what the agent has."""

from __future__ import annotations

import plistlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgeslm.agent import agent
from edgeslm.cli.main import COMMANDS
from edgeslm.contract.settings import AgentSettings

ROOT = Path(__file__).parents[2]
PLIST = ROOT / "launchd" / "org.edgeslm.agent.plist"
UNIT = ROOT / "systemd" / "edgeslm.service"
DROP_INS = sorted((ROOT / "systemd" / "accelerators").glob("*.conf"))
# Those of launchd.plist(5) that are used.
KEYS = {
    "EnvironmentVariables", "ExitTimeOut", "KeepAlive", "Label", "ProcessType", "ProgramArguments",
    "RunAtLoad", "StandardErrorPath", "ThrottleInterval", "Umask", "UserName", "WorkingDirectory",
}  # fmt: skip


@pytest.fixture
def daemon() -> dict[str, Any]:
    found: dict[str, Any] = plistlib.loads(PLIST.read_bytes())
    return found


def test_the_daemon_runs_a_command_there_is(daemon: dict[str, Any]) -> None:
    exe, command, wait, option, config = daemon["ProgramArguments"]
    assert Path(exe).name == "edgeslm"
    assert (command,) in COMMANDS
    assert (wait, option, Path(config).name) == ("--wait", "--config", "agent.toml")
    assert f"{daemon['Label']}.plist" == PLIST.name
    assert set(daemon) == KEYS


def test_its_variables_are_ours_or_the_runtimes(daemon: dict[str, Any]) -> None:
    variables = daemon["EnvironmentVariables"]
    assert variables.pop("ORT_DISABLE_TELEMETRY") == "1"
    ours = {f"EDGESLM_{name.upper()}" for name in AgentSettings.model_fields}
    assert set(variables) <= ours


def test_it_has_the_time_it_takes_to_stop(daemon: dict[str, Any]) -> None:
    assert daemon["ExitTimeOut"] > agent.DRAIN_S + agent.LEAVE_S
    assert daemon["Umask"] == 0o077


@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.stem)
def test_systemd_takes_a_drop_in_without_a_remark(drop_in: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    unit = tmp_path / UNIT.name
    unit.write_text(text + drop_in.read_text())
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
