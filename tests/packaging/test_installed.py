"""The real packages, installed: they build alike twice, serve, keep state, and leave nothing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from packages.contents import version
from packages.tools import ROOT, call

from benchmarks.arm import arm_machine
from benchmarks.errors import MissingToolError
from edgeslm.ports import Request
from edgeslm.runtime.model import load_model
from exporters.cache import kept, key_of
from tests.conftest import DATA, WEIGHTS, run_exporter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb"),
]

SUITE = "bookworm"
INCLUDE = "python3,systemd,libstdc++6"
QEMU = "qemu-aarch64-static"
TEXTS = 20
# What dpkg and whoever looked at a model as root leave; none of it is the package's.
OTHERS = ("/var/log/dpkg.log", "/root/.cache", "/var/lib/dpkg/", "/tmp/", "/run/systemd", "/called")  # noqa: S108
# Maintainer scripts talk to systemd by these: what they say is written down, and units are enabled.
STUBS = {
    "deb-systemd-invoke": 'echo "deb-systemd-invoke $*" >>/called\n',
    "systemctl": """\
echo "systemctl $*" >>/called
case "$*" in *daemon-reload*) exit 0 ;; esac
exec systemctl.real --root=/ "$@"
""",
}


def build(arch: str, out: Path, *options: str) -> Path:
    """Build a device's package as `make packages` does, but for the minute that xz takes."""
    argv = (sys.executable, "-m", "packages", "--only", "edgeslm", "--uncompressed", *options)
    paths = {"PYTHONPATH": str(ROOT / "packaging")}
    said = call([*argv, "--arch", arch, "--out", str(out)], env=paths)
    return Path(said.splitlines()[0])


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what is built for both architectures."""
    out = tmp_path_factory.mktemp("packages")
    for arch in ("amd64", "arm64"):
        build(arch, out)
    return out


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_what_is_built_again_is_the_same_bytes(arch: str, packages: Path, tmp_path: Path) -> None:
    build(arch, tmp_path)
    made = sorted(tmp_path.iterdir())
    assert len(made) == 3
    for path in made:
        assert path.read_bytes() == (packages / path.name).read_bytes(), path.name


class Installed:
    """A Debian root of this architecture that packages are installed in."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *argv: str, stdin: str = "") -> str:
        """Run a program in it, which must not fail; it sees a /proc of its own, and no network."""
        inside = ("unshare", "--mount", "--pid", "--net", "--fork", f"--root={self.root}")
        done = subprocess.run(
            (*inside, "--mount-proc", *argv),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
        )
        assert done.returncode == 0, f"{argv}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def dpkg(self, *argv: str) -> None:
        self.run("dpkg", *argv)

    def files(self) -> set[str]:
        """Return every path but those of others."""
        found = set()
        for folder, _, names in os.walk(self.root):
            for name in (".", *names):
                path = "/" + str((Path(folder) / name).relative_to(self.root))
                if not path.startswith((*OTHERS, "/proc", "/sys", "/dev")):
                    found.add(path)
        return found

    def called(self) -> list[str]:
        """Return what scripts have told systemd since the last call."""
        log = self.root / "called"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def debian(tmp_path: Path) -> Installed:
    """A Debian 12 that believes systemd runs, made once by mmdebstrap: half a minute, a network."""
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None or platform.machine() != "x86_64":
        pytest.skip("needs root, mmdebstrap and x86-64")
    key = key_of([SUITE.encode(), INCLUDE.encode()])

    def make(folder: Path) -> None:
        root = folder / "root"
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={INCLUDE}", SUITE, root],
            check=True,
        )

    root = tmp_path / "root"
    subprocess.run(["cp", "-a", kept("debian", key, make) / "root", root], check=True)
    (root / "run/systemd/system").mkdir(parents=True)
    for name, script in STUBS.items():
        stub = root / "usr/bin" / name
        stub.rename(stub.with_name(f"{name}.real"))
        stub.write_text(f"#!/bin/sh\n{script}")
        stub.chmod(0o755)
    return Installed(root)


def test_it_installs_serves_keeps_state_and_leaves_nothing(
    debian: Installed, packages: Path, anomaly_bundle: Path
) -> None:
    before = debian.files()
    first = packages / f"edgeslm_{version('1')}_amd64.deb"
    shutil.copy(first, debian.root / "tmp/first.deb")
    debian.dpkg("--install", "/tmp/first.deb")  # noqa: S108 -- in its own root
    called = debian.called()
    assert "deb-systemd-invoke start edgeslm.service" in called
    assert (debian.root / "etc/systemd/system/multi-user.target.wants/edgeslm.service").is_symlink()

    shutil.copytree(anomaly_bundle, debian.root / "srv/bundle")
    doctor = json.loads(debian.run("edgeslm", "doctor", "--json"))
    assert doctor["counts"]["error"] == 0
    answer = json.loads(debian.run("edgeslm", "infer", "/srv/bundle", stdin="filler jammed\n"))
    assert answer["task"] == "anomaly"
    assert "cases, answered as expected" in debian.run(
        "edgeslm", "bundle", "verify", "/srv/bundle"
    )  # by the runtime without what was pruned
    assert "edgeslm" in debian.run("/usr/lib/edgeslm/bin/python3", "-m", "edgeslm", "--version")
    everything = (
        "import tuf.ngclient, bsdiff4, zstandard, cryptography.x509, edgeslm.updater.updater"
    )
    debian.run("/usr/lib/edgeslm/bin/python3", "-c", everything)
    shutil.rmtree(debian.root / "srv/bundle")

    state = debian.root / "var/lib/edgeslm/outbox.sqlite"
    state.write_text("not sent yet")
    settings = debian.root / "etc/edgeslm/agent.toml"
    settings.write_text("device_id = 'press-7'\n")
    owner = state.parent.stat()
    assert owner.st_uid != 0
    assert owner.st_mode & 0o777 == 0o700
    second = _revised(first, debian.root / "tmp")
    debian.dpkg("--install", f"/tmp/{second.name}")  # noqa: S108
    called = debian.called()
    assert not any(" stop " in line or " start " in line for line in called)
    assert sum(" try-restart " in line for line in called) == 1
    assert (state.read_text(), settings.read_text()[:9]) == ("not sent yet", "device_id")
    assert state.parent.stat().st_uid == owner.st_uid

    debian.dpkg("--remove", "edgeslm")
    assert any("deb-systemd-invoke stop" in line for line in debian.called())
    assert state.exists()
    assert settings.exists()
    debian.dpkg("--purge", "edgeslm")
    assert debian.files() == before
    assert "edgeslm" not in (debian.root / "etc/passwd").read_text()
    assert "edgeslm" not in (debian.root / "etc/group").read_text()


def _revised(deb: Path, folder: Path) -> Path:
    """Return the same package with the next revision, in `folder`."""
    with_control = folder / "revised"
    call(["dpkg-deb", "-R", str(deb), str(with_control)])
    control = with_control / "DEBIAN/control"
    control.write_text(control.read_text().replace(f" {version('1')}\n", f" {version('2')}\n"))
    second = folder / "second.deb"
    call(["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(with_control), str(second)])
    shutil.rmtree(with_control)
    return second


def test_the_wheelhouse_installs_without_a_network(packages: Path, tmp_path: Path) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("needs x86-64")
    (house,) = packages.glob("*-wheelhouse-amd64.tar")
    with tarfile.open(house) as tar:
        tar.extractall(tmp_path, filter="data")
    call([sys.executable, "-m", "venv", str(tmp_path / "venv")])
    pip = [str(tmp_path / "venv/bin/pip"), "install", "--quiet", "--no-index"]
    call([*pip, "--find-links", str(tmp_path / house.stem), "edgeslm[update]"])
    call([str(tmp_path / "venv/bin/pip"), "check"])
    command = str(tmp_path / "venv/bin/edgeslm")
    assert json.loads(call([command, "doctor", "--json"]))["counts"]["error"] == 0


@pytest.fixture
def arm(packages: Path, tmp_path: Path) -> Path:
    """An arm64 root with the package in it, unpacked by dpkg."""
    try:
        machine = arm_machine(Path(os.environ["EDGESLM_CACHE"]) / "benchmarks")
    except MissingToolError as err:
        pytest.skip(str(err))
    root = tmp_path / "root"
    call(["cp", "-a", str(machine.root), str(root)])
    (deb,) = packages.glob("edgeslm_*_arm64.deb")
    forced = ("--force-architecture", "--force-depends", "--force-script-chrootless")
    call(["dpkg", f"--root={root}", *forced, "--unpack", str(deb)])
    return root


def on_arm(root: Path, argv: Sequence[str], stdin: str = "") -> str:
    python = root / "usr/lib/edgeslm/bin/python3"
    done = subprocess.run(
        (QEMU, "-L", root, python, "-I", root / "usr/bin/edgeslm", *argv),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        # Of its int8 kernels `max` gives wrong sums; without a home no verdict is kept.
        env={
            "PATH": os.environ["PATH"],
            "QEMU_CPU": "cortex-a72",
            "HOME": "",
            "XDG_CACHE_HOME": "",
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_an_arm_device_answers_what_was_answered_here(arm: Path, tmp_path: Path) -> None:
    """Exported here for a Raspberry Pi 4: its golden file within tolerances, the same labels."""
    run_exporter(
        *("intent", "--data", str(DATA / "orders-train.jsonl")),
        *("--eval", str(DATA / "orders-eval.jsonl"), "--profile", "raspberry-pi-4"),
        *("--model", f"package:{WEIGHTS}", "--name", "orders", "--version", "1"),
        *("--out", str(tmp_path / "export")),
    )
    bundle = tmp_path / "export" / "bundle"
    assert "cases, answered as expected" in on_arm(arm, ["bundle", "verify", str(bundle)])
    lines = (DATA / "orders-eval.jsonl").read_text().splitlines()[:TEXTS]
    texts = [json.loads(line)["text"] for line in lines]
    asked = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    said = on_arm(arm, ["infer", str(bundle)], asked).splitlines()
    model = load_model(bundle, stand_in="cpu")
    here = [model.answer(Request(text)).label for text in texts]
    assert [json.loads(line)["label"] for line in said] == here
