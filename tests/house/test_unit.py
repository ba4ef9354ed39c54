"""The units in systemd/ say what systemd takes, and name what there is."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from edgeslm.adapters import unix_socket
from edgeslm.adapters.slot_store import FILE_MODE, FOLDER_MODE
from edgeslm.agent import agent
from edgeslm.cli.imaging.units import profile_drop_in
from edgeslm.cli.main import COMMANDS
from edgeslm.contract.identity import SOCKET, TUNNEL_PID
from edgeslm.contract.settings import AgentSettings, ProvisionSettings, UpdateSettings
from edgeslm.fleet.service import service
from edgeslm.provision.hardware import CONFIG
from edgeslm.runtime.profiles import load_profile, profile_names
from edgeslm.updater import control, mailbox

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "systemd" / "edgeslm.service"
UPDATER = ROOT / "systemd" / "edgeslm-updater.service"
FLEET = ROOT / "systemd" / "edgeslm-fleet.service"
PROVISION = ROOT / "systemd" / "edgeslm-provision.service"
TIMER = PROVISION.with_suffix(".timer")
STUNNEL = ROOT / "systemd" / "edgeslm-stunnel.service"
EXPOSURE_MAX = {
    AGENT: 15,
    UPDATER: 15,
    FLEET: 15,
    PROVISION: 15,
}  # tenths, as `systemd-analyze security` counts
ACCELERATED_MAX = 20  # with an accelerator's devices
ACCELERATORS = sorted((ROOT / "systemd" / "accelerators").glob("*.conf"))
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


@pytest.fixture(params=EXPOSURE_MAX, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    """Of each unit in turn."""
    path: Path = request.param
    return path


@pytest.fixture
def unit(path: Path) -> Mapping[str, list[str]]:
    return parse(path.read_text())


@pytest.fixture
def agent_unit() -> Mapping[str, list[str]]:
    return parse(AGENT.read_text())


@pytest.fixture
def fleet_unit() -> Mapping[str, list[str]]:
    return parse(FLEET.read_text())


@pytest.fixture
def updater_unit() -> Mapping[str, list[str]]:
    return parse(UPDATER.read_text())


@pytest.fixture
def provision_unit() -> Mapping[str, list[str]]:
    return parse(PROVISION.read_text())


def only(unit: Mapping[str, Sequence[str]], key: str) -> str:
    (value,) = unit[key]
    return value


def test_it_runs_a_command_there_is_with_options_it_has(unit: Mapping[str, list[str]]) -> None:
    exe, *words = shlex.split(only(unit, "ExecStart"))
    assert Path(exe).name == "edgeslm"
    at = next(at for at, word in enumerate(words) if word.startswith("-"))
    command, options = words[:at], words[at:]
    assert tuple(command) in COMMANDS
    helped = subprocess.run(
        [sys.executable, "-m", "edgeslm", *command, "--help"], capture_output=True, check=True
    )
    for option in (word for word in options if word.startswith("-")):
        assert option.encode() in helped.stdout


def test_its_folders_are_the_defaults_of_the_settings(
    agent_unit: Mapping[str, list[str]],
) -> None:
    defaults = {name: field.default for name, field in AgentSettings.model_fields.items()}
    assert Path("/var/lib", only(agent_unit, "StateDirectory")) == defaults["state_dir"]
    assert Path("/run", only(agent_unit, "RuntimeDirectory")) == defaults["runtime_dir"]
    assert only(agent_unit, "RuntimeDirectoryPreserve") == "yes", "the ring of ids outlives a crash"


def test_the_updaters_folder_is_its_default_and_the_agents_is_closed_to_it(
    agent_unit: Mapping[str, list[str]], updater_unit: Mapping[str, list[str]]
) -> None:
    folder = Path("/var/lib", only(updater_unit, "StateDirectory"))
    assert folder == UpdateSettings().dir
    agents = AgentSettings.model_fields["state_dir"].default
    assert only(updater_unit, "InaccessiblePaths") == f"-{agents}"
    assert not folder.is_relative_to(agents)
    # The agent reads slots, and the updater its socket, by the group that they share.
    assert only(updater_unit, "Group") == only(agent_unit, "Group")
    assert only(updater_unit, "User") != only(agent_unit, "User")
    assert int(only(updater_unit, "StateDirectoryMode"), 8) == FOLDER_MODE
    assert int(only(updater_unit, "UMask"), 8) & FILE_MODE == 0, "the group reads what it makes"
    assert int(only(agent_unit, "RuntimeDirectoryMode"), 8) & 0o070 == 0o050


def test_the_user_that_its_comments_make_is_the_one_it_runs_as(
    path: Path, unit: Mapping[str, list[str]]
) -> None:
    made = path.read_text().partition("useradd")[2].partition("\n#   sudo cp")[0]
    assert made.split()[-1] == only(unit, "User")
    assert f"--home-dir /var/lib/{only(unit, 'StateDirectory')} " in made
    assert f"systemd/{path.name} " in path.read_text()


def test_what_a_restart_does_not_mend_is_not_restarted(unit: Mapping[str, list[str]]) -> None:
    page = (ROOT / "docs" / "exit-codes.md").read_text()
    documented = set(re.findall(r"^\| (\d+) \|", page, re.MULTILINE))
    final = set(only(unit, "RestartPreventExitStatus").split())
    assert {"2", "64", "78"} <= final, "command line and settings"
    assert not {"70", "75"} & final, "what is away for now comes back, and a fault may pass"
    assert final <= documented


def test_it_is_given_the_time_it_takes_to_stop(agent_unit: Mapping[str, list[str]]) -> None:
    assert float(only(agent_unit, "TimeoutStopSec")) > agent.DRAIN_S + agent.LEAVE_S
    assert only(agent_unit, "Type") == "notify"


def test_the_updater_is_given_the_time_it_takes_to_stop(
    updater_unit: Mapping[str, list[str]],
) -> None:
    # For the agent to answer, then to leave door and broker. An agent that loads a model takes
    # longer: the updater is killed then, which it takes as it takes a power cut.
    longest_s = control.REPLY_S + 2 * unix_socket.FAREWELL_S + mailbox.CLOSE_S
    assert float(only(updater_unit, "TimeoutStopSec")) > longest_s
    assert only(updater_unit, "Type") == "notify"


def test_the_fleets_service_is_given_the_time_it_takes_to_stop(
    fleet_unit: Mapping[str, list[str]],
) -> None:
    assert float(only(fleet_unit, "TimeoutStopSec")) > service.STOP_S
    assert only(fleet_unit, "Type") == "notify"
    assert only(fleet_unit, "Restart") == "always"
    options = shlex.split(only(fleet_unit, "ExecStart"))
    repository = Path(options[options.index("--repository") + 1])
    assert repository.parent == Path("/var/lib", only(fleet_unit, "StateDirectory"))
    assert fleet_unit["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]


def test_agent_and_updater_start_after_provisioning_and_without_it(
    agent_unit: Mapping[str, list[str]],
    updater_unit: Mapping[str, list[str]],
    provision_unit: Mapping[str, list[str]],
) -> None:
    assert "Before" not in provision_unit, "where the network is dead, it takes its time"
    for unit in (agent_unit, updater_unit):
        # Enabled, each start of it starts them: one that ended over its settings, say.
        assert only(unit, "WantedBy").split() == ["multi-user.target", PROVISION.name]
        assert not {"Requires", "Requisite", "BindsTo", "PartOf"} & unit.keys()
        assert PROVISION.name not in " ".join(unit.get("Wants", []))
        assert "--wait" in only(unit, "ExecStart").split(), "no restart a second until it answers"


def test_provisioning_is_tried_again_and_asked_daily(
    provision_unit: Mapping[str, list[str]],
) -> None:
    assert only(provision_unit, "Type") == "oneshot"
    assert only(provision_unit, "Restart") == "on-failure"
    assert int(only(provision_unit, "RestartSec")) >= 30, "who is refused does not hammer"
    assert only(provision_unit, "StartLimitIntervalSec") == "0"
    assert "network-online.target" in only(provision_unit, "After").split()
    assert only(provision_unit, "Wants") == "network-online.target"
    timer = parse(TIMER.read_text())
    assert only(timer, "OnCalendar") == "daily"
    assert only(timer, "RandomizedDelaySec") == "6h"
    assert only(timer, "Persistent") == "yes"
    assert only(timer, "WantedBy") == "timers.target"


def test_who_may_read_the_key_is_the_group_of_agent_and_updater(
    agent_unit: Mapping[str, list[str]],
    updater_unit: Mapping[str, list[str]],
    provision_unit: Mapping[str, list[str]],
) -> None:
    units = (agent_unit, updater_unit, provision_unit)
    assert {only(unit, "Group") for unit in units} == {"edgeslm"}
    assert len({only(unit, "User") for unit in units}) == len(units)
    folder = Path("/var/lib", only(provision_unit, "StateDirectory"))
    assert folder == ProvisionSettings().dir
    assert int(only(provision_unit, "StateDirectoryMode"), 8) == FOLDER_MODE
    closed = set(only(provision_unit, "InaccessiblePaths").split())
    assert closed == {f"-/var/lib/{only(unit, 'StateDirectory')}" for unit in units[:2]}


def test_stunnel_is_told_of_a_new_key_and_is_not_stopped_by_a_socket_that_was_left(
    provision_unit: Mapping[str, list[str]],
) -> None:
    unit = parse(STUNNEL.read_text())
    folder = ProvisionSettings().dir
    assert only(unit, "ExecStart").split() == ["/usr/bin/stunnel", str(folder / CONFIG)]
    assert only(unit, "ConditionPathExists") == str(folder / CONFIG)
    removed = only(unit, "ExecStartPre").split()
    assert removed == ["/bin/rm", "-f", str(folder / SOCKET), str(folder / TUNNEL_PID)]
    assert only(provision_unit, "WorkingDirectory") == str(folder)
    assert only(provision_unit, "ExecStartPost").count(TUNNEL_PID) == 2
    for key in ("User", "Group", "InaccessiblePaths"):
        assert only(unit, key) == only(provision_unit, key)
    assert only(unit, "UMask") == "0007", "the group's members connect, and nobody else"
    assert only(unit, "ReadWritePaths") == str((folder / SOCKET).parent)
    assert only(unit, "After").split()[-1] == PROVISION.name
    assert set(only(unit, "Before").split()) == {AGENT.name, UPDATER.name}


def test_systemd_takes_stunnels_unit_and_the_timer(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    for file in (PROVISION, STUNNEL, TIMER):
        text = re.sub(
            r"^ExecStart=\S+", "ExecStart=/bin/true", file.read_text(), flags=re.MULTILINE
        )
        (tmp_path / file.name).write_text(text)
    argv = ["systemd-analyze", "verify", str(tmp_path / TIMER.name), str(tmp_path / STUNNEL.name)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert exposed(tmp_path / STUNNEL.name, EXPOSURE_MAX[PROVISION]) is None


def test_no_more_is_allowed_to_the_agent_than_to_lower_its_priority(
    agent_unit: Mapping[str, list[str]], updater_unit: Mapping[str, list[str]]
) -> None:
    *common, freed = agent_unit["SystemCallFilter"]
    assert (
        common == updater_unit["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    )
    assert freed == "setpriority"
    assert only(agent_unit, "CapabilityBoundingSet") == "", "so that nobody is raised by it"


def test_variables_it_sets_or_hints_at_are_ours_or_the_runtimes() -> None:
    names = re.findall(r"^#?Environment=([A-Z_]+)=", AGENT.read_text(), re.MULTILINE)
    tables = {field.upper() for field in AgentSettings.model_fields}
    assert "ORT_DISABLE_TELEMETRY" in names
    for name in set(names) - {"ORT_DISABLE_TELEMETRY"}:
        assert name.removeprefix("EDGESLM_").partition("__")[0] in tables


@pytest.fixture
def runnable(tmp_path: Path, path: Path) -> Path:
    """The unit with a program that is on this machine."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    text = path.read_text()
    exe = shlex.split(only(parse(text), "ExecStart"))[0]
    copy = tmp_path / path.name
    copy.write_text(text.replace(f"ExecStart={exe}", "ExecStart=/bin/true"))
    return copy


def test_systemd_takes_it_without_a_remark(runnable: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", str(runnable)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def exposed(unit: Path, most: int) -> str | None:
    """What systemd finds where a unit is open to more than `most` tenths; None: it is not."""
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={most}"]
    done = subprocess.run([*argv, str(unit)], capture_output=True, text=True, check=False)
    return done.stdout[-3000:] if done.returncode else None


def test_it_is_open_to_little(runnable: Path, path: Path) -> None:
    assert exposed(runnable, EXPOSURE_MAX[path]) is None


@pytest.fixture
def accelerated(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a unit of the agent's with a drop-in of this text."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")

    def make(text: str) -> Path:
        unit = tmp_path / AGENT.name
        command = "ExecStart=/usr/bin/edgeslm"
        unit.write_text(AGENT.read_text().replace(command, "ExecStart=/bin/true"))
        (tmp_path / f"{AGENT.name}.d").mkdir()
        (tmp_path / f"{AGENT.name}.d" / "one.conf").write_text(text)
        return unit

    return make


@pytest.mark.parametrize("drop_in", ACCELERATORS, ids=lambda path: path.stem)
def test_with_an_accelerator_it_is_open_to_little_more(
    accelerated: Callable[[str], Path], drop_in: Path
) -> None:
    unit = accelerated(drop_in.read_text())
    assert exposed(unit, ACCELERATED_MAX) is None
    assert exposed(unit, EXPOSURE_MAX[AGENT] - 5), "nothing is measured here"
    assert f"systemd/accelerators/{drop_in.name} " in drop_in.read_text()


@pytest.mark.parametrize("name", profile_names())
def test_what_a_profile_adds_is_taken_without_a_remark(
    accelerated: Callable[[str], Path], name: str
) -> None:
    profile = load_profile(name)
    unit = accelerated(profile_drop_in(profile))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    most = EXPOSURE_MAX[AGENT] if profile.providers == ("cpu",) else ACCELERATED_MAX
    assert exposed(unit, most) is None


def test_users_and_folders_are_those_of_the_units(
    agent_unit: Mapping[str, list[str]],
    updater_unit: Mapping[str, list[str]],
    provision_unit: Mapping[str, list[str]],
) -> None:
    users = (ROOT / "systemd" / "sysusers.conf").read_text()
    folders = (ROOT / "systemd" / "tmpfiles.conf").read_text()
    for unit in (agent_unit, updater_unit, provision_unit):
        user, group = only(unit, "User"), unit["Group"][0]
        folder = f"/var/lib/{only(unit, 'StateDirectory')}"
        assert re.search(rf'^u {user} -:{group} ".*" {folder}$', users, re.MULTILINE)
        made = f"d {folder} {only(unit, 'StateDirectoryMode')} {user} {group} -"
        assert made in folders.splitlines()


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="no systemd-sysusers")
def test_systemd_makes_the_users(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    given = ["systemd-sysusers", f"--root={tmp_path}", str(ROOT / "systemd" / "sysusers.conf")]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    if "Permission denied" in done.stderr or "not permitted" in done.stderr:
        pytest.skip("only root makes users")
    assert done.returncode == 0, done.stderr
    passwd = (tmp_path / "etc" / "passwd").read_text()
    users = re.findall(r"^(\S+?):", passwd, re.MULTILINE)
    assert sorted(users) == ["edgeslm", "edgeslm-provision", "edgeslm-updater"]


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
