"""The set-up says what it does, does what it is told, and leaves the machine as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUARD = "policy-rc.d"
# An interpreter that writes down what pip is asked for, and installs a torch of that build.
PYTHON = """\
#!/bin/bash
case "$*" in
  *"-m venv"*)
    mkdir -p .venv/bin .venv/lib/python3/site-packages/torch
    cp "$0" .venv/bin/python ;;
  *"-m pip"*)
    echo "$*" >>pip.log
    echo "cuda: Optional[str] = {cuda}" >.venv/lib/python3/site-packages/torch/version.py ;;
  *base_prefix*) echo "(3, 11) {base}" ;;
esac
"""
# An apt-get that asks, as maintainer scripts do, whether services may start.
APT = """\
#!/bin/bash
echo "$*" >>{folder}/apt.log
case "$*" in *install*)
  for service in mosquitto mosquitto.service cron postgresql postgresql.service; do
    {policy} "$service" start
    echo "$service $?" >>{folder}/asked.log
  done
  exit {status}
esac
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def call(folder: Path, *argv: str, env: Mapping[str, str] | None = None) -> str:
    """What a command says, run in `folder` without the settings of an outer make or pip."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "PIP_")) and name not in {"PYTHON", "TORCH_INDEX"}
    }
    done = subprocess.run(
        argv,
        cwd=folder,
        env={**inherited, "EDGESLM_CACHE": f"{folder}/.cache", **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return f"{done.stdout}\nstatus {done.returncode}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the set-up consists of."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "packaging", folder / "packaging")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def cpu(tmp_path: Path) -> Path:
    return script(tmp_path / "cpu" / "python", PYTHON.format(cuda="None", base="/one"))


@pytest.fixture
def cuda(tmp_path: Path) -> Path:
    return script(tmp_path / "cuda" / "python", PYTHON.format(cuda="'13.0'", base="/other"))


class TestEnvironment:
    def test_it_is_announced_before_pip_starts(self, checkout: Path, cpu: Path) -> None:
        (checkout / "packaging" / "constraints.txt").write_text("a==1\nb==2\n")  # no torch: it ends
        said = call(checkout, "make", "venv", f"PYTHON={cpu}")
        assert "installing 2 packages into .venv" in said
        assert "GB" in said
        assert "make venv TORCH_INDEX=" in said
        assert not (checkout / "pip.log").exists()

    def test_a_torch_index_serves_torch_alone(self, checkout: Path, cpu: Path) -> None:
        said = call(checkout, "make", "venv", f"PYTHON={cpu}", "TORCH_INDEX=file:///wheels")
        torch, *others = (checkout / "pip.log").read_text().splitlines()
        assert "status 0" in said
        assert "--no-deps --index-url file:///wheels torch==" in torch
        assert len(others) == 2
        assert not [line for line in others if "index" in line]

    def test_a_cuda_build_is_noticed(self, checkout: Path, cpu: Path, cuda: Path) -> None:
        assert "is a CUDA build" not in call(checkout, "make", "venv", f"PYTHON={cpu}")
        said = call(checkout, "make", "venv", f"PYTHON={cuda}")
        assert "is a CUDA build" in said
        assert "rm -r .venv && make venv TORCH_INDEX=" in said

    def test_another_interpreter_makes_it_anew_and_the_same_does_not(
        self, checkout: Path, cpu: Path, cuda: Path
    ) -> None:
        call(checkout, "make", "venv", f"PYTHON={cpu}")
        (checkout / "pip.log").unlink()
        for again in ([], [f"PYTHON={cpu}"]):
            assert "installing" not in call(checkout, "make", "venv", *again)
        assert not (checkout / "pip.log").exists()

        assert "status 0" in call(checkout, "make", "venv", f"PYTHON={cuda}")
        assert (checkout / ".venv" / "bin" / "python").read_text() == cuda.read_text()
        assert "installing" not in call(checkout, "make", "venv")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The programs of a machine where we are root, and apt-get works."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "cat", "chmod", "dirname", "find", "mkdir", "mktemp", "rm", "sh",
                 "touch", "env"):  # fmt: skip
        (programs / name).symlink_to(str(shutil.which(name)))
    script(programs / "id", "#!/bin/bash\necho 0\n")
    return programs


def install(checkout: Path, machine: Path, program: str, *, status: int = 0) -> str:
    """What a script of packaging/ says that wants packages; apt-get ends with `status`."""
    policy = checkout / GUARD
    script(machine / "apt-get", APT.format(folder=checkout, policy=policy, status=status))
    env = {"PATH": str(machine), "EDGESLM_POLICY": str(policy)}
    env["EDGESLM_POSTGRESQL"] = str(machine / "postgresql")
    env["EDGESLM_ENGINES"] = str(machine)
    return call(checkout, *f"packaging/{program}".split(), env=env)


class TestMosquitto:
    def install(self, checkout: Path, machine: Path, *, status: int = 0) -> str:
        return install(checkout, machine, "mosquitto.sh", status=status)

    @pytest.mark.parametrize("status", [0, 100])
    def test_its_service_may_not_start_and_others_may(
        self, checkout: Path, machine: Path, status: int
    ) -> None:
        said = self.install(checkout, machine, status=status)
        asked = (checkout / "asked.log").read_text().split("\n")
        assert asked[:3] == ["mosquitto 101", "mosquitto.service 101", "cron 0"]
        assert not (checkout / GUARD).exists()
        assert ("its service not started" in said) == (status == 0)
        assert "status 0" in said

    def test_the_systems_own_policy_counts_and_stays(self, checkout: Path, machine: Path) -> None:
        own = script(checkout / GUARD, "#!/bin/sh\nexit 104\n")
        self.install(checkout, machine)
        assert "mosquitto 104" in (checkout / "asked.log").read_text()
        assert own.read_text() == "#!/bin/sh\nexit 104\n"

    @pytest.mark.parametrize(
        ("there", "wanted"),
        [
            (("mosquitto",), "mosquitto-clients"),
            (("mosquitto", "mosquitto_sub"), "mosquitto-clients"),
            (("mosquitto_pub", "mosquitto_sub"), "mosquitto"),
            ((), "mosquitto mosquitto-clients"),
        ],
    )
    def test_only_what_is_missing_is_installed(
        self, checkout: Path, machine: Path, there: tuple[str, ...], wanted: str
    ) -> None:
        for name in there:
            script(machine / name, "#!/bin/sh\n")
        self.install(checkout, machine)
        line = (checkout / "apt.log").read_text().splitlines()[-1]
        assert line.partition("recommends ")[2] == wanted

    def test_nothing_is_done_where_all_is_there(self, checkout: Path, machine: Path) -> None:
        for name in ("mosquitto", "mosquitto_pub", "mosquitto_sub"):
            script(machine / name, "#!/bin/sh\n")
        assert self.install(checkout, machine) == "\nstatus 0"
        assert not (checkout / "apt.log").exists()

    def test_a_failure_is_not_repeated_by_every_make(self, checkout: Path, machine: Path) -> None:
        self.install(checkout, machine, status=100)
        once = (checkout / "apt.log").read_text()
        said = self.install(checkout, machine, status=100)
        assert (checkout / "apt.log").read_text() == once
        assert f"to try again: rm {checkout}/.cache/no-mosquitto" in said
        (checkout / ".cache" / "no-mosquitto").unlink()
        self.install(checkout, machine)
        assert (checkout / "apt.log").read_text() != once


class TestProofs:
    def test_what_is_missing_is_installed(self, checkout: Path, machine: Path) -> None:
        script(machine / "strace", "#!/bin/sh\n")
        said = install(checkout, machine, "proofs.sh")
        line = (checkout / "apt.log").read_text().splitlines()[-1]
        expected = (
            "qemu-system-common fuse3 nftables softhsm2 stunnel4 libengine-pkcs11-openssl "
            "postgresql"
        )
        assert line.endswith(f" {expected}")
        assert "status 0" in said

    def test_nothing_is_done_where_all_is_there(self, checkout: Path, machine: Path) -> None:
        for name in ("strace", "qemu-storage-daemon", "fusermount3", "nft", "softhsm2-util",
                     "stunnel4", "x86_64-linux-gnu/engines-3/pkcs11.so",
                     "postgresql/15/bin/initdb"):  # fmt: skip
            script(machine / name, "#!/bin/sh\n")
        assert install(checkout, machine, "proofs.sh") == "\nstatus 0"
        assert not (checkout / "apt.log").exists()

    def test_what_slow_tests_want_comes_only_where_it_is_asked_for(
        self, checkout: Path, machine: Path
    ) -> None:
        said = install(checkout, machine, "proofs.sh slow")
        line = (checkout / "apt.log").read_text().splitlines()[-1]
        assert line.endswith(" postgresql systemd-container mmdebstrap chromium fonts-dejavu-core")
        assert "status 0" in said

    def test_no_database_server_is_started(self, checkout: Path, machine: Path) -> None:
        install(checkout, machine, "proofs.sh")
        asked = (checkout / "asked.log").read_text().split("\n")
        assert asked[3:5] == ["postgresql 101", "postgresql.service 101"]

    def test_a_failure_is_no_fault_and_not_repeated(self, checkout: Path, machine: Path) -> None:
        assert "status 0" in install(checkout, machine, "proofs.sh", status=100)
        once = (checkout / "apt.log").read_text()
        said = install(checkout, machine, "proofs.sh", status=100)
        assert (checkout / "apt.log").read_text() == once
        assert f"to try again: rm {checkout}/.cache/no-proofs" in said
        assert "tests that need them skip" in said


AUDIT = """\
#!/bin/bash
while [ "$1" != --output ]; do shift; done
printf '{report}' >"$2"
echo '{said}'
exit {status}
"""


class TestAudit:
    @pytest.mark.parametrize(
        ("report", "said", "ends", "status"),
        [
            ("", "No known vulnerabilities found", 0, 0),
            ("tuf 7.0.0 PYSEC-1", "Found 1 known vulnerability", 1, 1),
            ("", "ConnectionError: no route", 1, 0),
        ],
        ids=["none", "one", "unreachable"],
    )
    def test_only_what_was_found_stops_it(
        self, checkout: Path, report: str, said: str, ends: int, status: int
    ) -> None:
        fake = AUDIT.format(report=report, said=said, status=ends)
        script(checkout / ".venv" / "bin" / "pip-audit", fake)
        told = call(checkout, "packaging/audit.sh")
        assert told.endswith(f"status {status}")
        assert (report or {0: "no known", 1: "not looked for: ConnectionError"}[ends]) in told


def test_a_python_that_is_too_old_is_refused(checkout: Path, tmp_path: Path) -> None:
    old = f'#!/bin/bash\ncase "$*" in *exit*) exit 1;; *) exec {sys.executable} "$@";; esac\n'
    said = call(checkout, "make", "venv", f"PYTHON={script(tmp_path / 'old' / 'python', old)}")
    assert "3.11 or later is needed" in said
    assert "status 2" in said
