"""systemd/edgeslm.service says what systemd takes, and names what there is."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from edgeslm.agent import agent
from edgeslm.cli.main import COMMANDS
from edgeslm.contract.settings import AgentSettings

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "edgeslm.service"
EXPOSURE_MAX = 20  # tenths, as `systemd-analyze security` counts
# prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN): what MemoryDenyWriteExecute= asks for.
NO_WRITABLE_CODE = """\
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0): sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""


def parse(text: str) -> Mapping[str, list[str]]:
    """Return every value of each key; keys are unique across the sections of our unit."""
    found = defaultdict(list)
    for line in text.splitlines():
        if re.match(r"[A-Za-z]+=", line):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


@pytest.fixture
def unit() -> Mapping[str, list[str]]:
    return parse(UNIT.read_text())


def only(unit: Mapping[str, Sequence[str]], key: str) -> str:
    (value,) = unit[key]
    return value


def test_it_runs_a_command_there_is_with_options_it_has(unit: Mapping[str, list[str]]) -> None:
    exe, command, *options = shlex.split(only(unit, "ExecStart"))
    assert Path(exe).name == "edgeslm"
    assert (command,) in COMMANDS
    helped = subprocess.run(
        [sys.executable, "-m", "edgeslm", command, "--help"], capture_output=True, check=True
    )
    for option in options[::2]:
        assert option.encode() in helped.stdout


def test_its_folders_are_the_defaults_of_the_settings(unit: Mapping[str, list[str]]) -> None:
    defaults = {name: field.default for name, field in AgentSettings.model_fields.items()}
    assert Path("/var/lib", only(unit, "StateDirectory")) == defaults["state_dir"]
    assert Path("/run", only(unit, "RuntimeDirectory")) == defaults["runtime_dir"]
    assert only(unit, "RuntimeDirectoryPreserve") == "yes", "the ring of ids outlives a crash"


def test_what_a_restart_does_not_mend_is_not_restarted(unit: Mapping[str, list[str]]) -> None:
    page = (ROOT / "docs" / "exit-codes.md").read_text()
    documented = set(re.findall(r"^\| (\d+) \|", page, re.MULTILINE))
    final = set(only(unit, "RestartPreventExitStatus").split())
    assert {"2", "64", "78"} <= final, "command line and settings"
    assert "75" not in final, "what is away for now comes back"
    assert final <= documented


def test_it_is_given_the_time_it_takes_to_stop(unit: Mapping[str, list[str]]) -> None:
    assert float(only(unit, "TimeoutStopSec")) > agent.DRAIN_S + agent.LEAVE_S
    assert only(unit, "Type") == "notify"


def test_variables_it_sets_or_hints_at_are_ours_or_the_runtimes() -> None:
    names = re.findall(r"^#?Environment=([A-Z_]+)=", UNIT.read_text(), re.MULTILINE)
    tables = {field.upper() for field in AgentSettings.model_fields}
    assert "ORT_DISABLE_TELEMETRY" in names
    for name in set(names) - {"ORT_DISABLE_TELEMETRY"}:
        assert name.removeprefix("EDGESLM_").partition("__")[0] in tables


@pytest.fixture
def runnable(tmp_path: Path) -> Path:
    """The unit with a program that is on this machine."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    exe = shlex.split(only(parse(UNIT.read_text()), "ExecStart"))[0]
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace(f"ExecStart={exe}", "ExecStart=/bin/true"))
    return path


def test_systemd_takes_it_without_a_remark(runnable: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", str(runnable)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_is_open_to_little(runnable: Path) -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    done = subprocess.run(
        [*argv, f"--threshold={EXPOSURE_MAX}", str(runnable)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_runtime_needs_no_memory_that_it_can_write_and_execute(anomaly_bundle: Path) -> None:
    verify = [sys.executable, "-m", "edgeslm", "bundle", "verify", str(anomaly_bundle)]
    done = subprocess.run(
        [sys.executable, "-c", NO_WRITABLE_CODE, *verify],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("this kernel cannot deny it to a process")
    assert done.returncode == 0, done.stderr
