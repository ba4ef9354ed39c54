"""What is wrong around it: folders, disk, accelerator, certificates, clock, name of the host.

By the real commands. Where root would not be refused, as another user.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.agent.conftest import MakeAgent, brittle, make_agent, plant  # noqa: F401 -- fixtures
from tests.agent.kit import Plant, poll, toml
from tests.certificates import Authority
from tests.cli.conftest import ROOT
from tests.mosquitto import Mosquitto, free_port
from tests.runtime import tiny
from tests.updater.whole import MODEL, Fleet

NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
EDGESLM = (sys.executable, str(ROOT / "tests" / "agent" / "with_brittle.py"))
DAY = dt.timedelta(days=1)
Command = Callable[..., "subprocess.CompletedProcess[str]"]

as_somebody_else = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can be somebody else"
)
with_mounts = pytest.mark.skipif(
    os.geteuid() != 0
    or subprocess.run(["unshare", "-mu", "true"], capture_output=True, check=False).returncode > 0,
    reason="only root mounts, and some containers let nobody",
)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that other users can look into, unlike those that pytest makes."""
    folder = Path(tempfile.mkdtemp(prefix="edgeslm-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def settings(folder: Path, **more: Any) -> Path:
    whole = {
        "device_id": "dev1",
        "state_dir": folder / "state",
        "runtime_dir": folder / "run",
        "uplink": {"host": "127.0.0.1", "port": free_port()},
        **more,
    }
    path = folder / "agent.toml"
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in whole.items()))
    return path


def edgeslm(
    command: str, config: Path, *, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, which it must come to by itself."""
    argv = [*before, *EDGESLM, command, "--config", str(config)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=60, env=env, cwd="/"
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def with_mount(folder: Path, options: str, *then: str) -> tuple[str, ...]:
    """Words before a command that mount a file system of its own over `folder`."""
    script = f'mount -t tmpfs -o {options} tmpfs "{folder}" && {" && ".join([*then, "true"])}'
    return ("unshare", "-m", "sh", "-c", f'{script} && exec "$@"', "sh")


# Folders.


@as_somebody_else
@pytest.mark.parametrize(
    ("owned", "said"),
    [("state", "state: belongs to root, and nobody may not write it"), ("file", "outbox.sqlite: ")],
)
def test_a_wrong_owner_is_named(open_path: Path, owned: str, said: str) -> None:
    for name in ("state", "run"):
        (open_path / name).mkdir()
        shutil.chown(open_path / name, "nobody")
    if owned == "state":
        shutil.chown(open_path / "state", "root")
    else:  # an agent that was started by hand, once
        (open_path / "state" / "outbox.sqlite").touch(0o644)
    config = settings(open_path)
    done = edgeslm("run", config, before=NOBODY)
    assert (done.returncode, "[folder.unavailable]" in done.stderr) == (75, True), done.stderr
    assert said in done.stderr
    assert "change its owner" in done.stderr
    done = edgeslm("doctor", config, before=NOBODY)
    assert done.returncode == 75
    assert "as user nobody" in done.stdout


@with_mounts
@pytest.mark.parametrize("user", [(), NOBODY], ids=["root", "nobody"])
def test_a_read_only_state_directory_is_named(open_path: Path, user: Sequence[str]) -> None:
    for name in ("state", "run"):
        (open_path / name).mkdir()
        (open_path / name).chmod(0o777)
    config = settings(open_path)
    before = (*with_mount(open_path / "state", "ro,mode=777"), *user)
    done = edgeslm("run", config, before=before)
    assert (done.returncode, "[folder.unavailable]" in done.stderr) == (75, True), done.stderr
    assert "on a read-only file system" in done.stderr
    done = edgeslm("doctor", config, before=before)
    assert (done.returncode, "Read-only file system" in done.stdout) == (75, True), done.stdout


@with_mounts
def test_a_full_disk_at_the_start_is_told_and_what_can_go_on_does(
    make_agent: MakeAgent,  # noqa: F811 -- as above
    brittle: Path,  # noqa: F811
    plant: Plant,  # noqa: F811
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(state)], check=True)
    try:
        (state / "filler").write_bytes(bytes(60 * 1024))
        with pytest.raises(OSError, match="No space"):
            (state / "more").write_bytes(bytes(60 * 1024))
        agent = make_agent(
            state_dir=state,
            models={"m": {"bundle": brittle}},
            routes={"r": {"topic": "in/#", "models": ["m"]}},
        )
        agent.start()
        told = agent.wait_for("outbox_blocked")
        assert told["code"] == "outbox.unavailable"
        assert "free disk space" in told["message"]
        assert plant.ask("in/a", "hello")["label"] == "read"
        done = edgeslm("doctor", agent.config)
        assert (done.returncode, "No space left on device" in done.stdout) == (75, True), (
            done.stdout
        )
        assert agent.stop() < 5
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


@with_mounts
@pytest.mark.parametrize(
    ("options", "code"),
    [("size=16k", "trust.unavailable"), ("ro", "slots.unavailable")],
)
def test_an_updater_without_a_directory_to_work_in(
    tmp_path: Path, fleet: Fleet, options: str, code: str
) -> None:
    config = fleet.configure(tmp_path / "device")
    (tmp_path / "device" / "updater").mkdir(exist_ok=True)
    full = ("! head -c 1m /dev/zero >filler 2>/dev/null",) if options != "ro" else ()
    here = tmp_path / "device" / "updater"
    before = with_mount(here, options, f'cd "{here}"', *full)
    done = edgeslm("updater", config, before=before)
    assert (done.returncode, f"[{code}]" in done.stderr) == (75, True), done.stderr


@as_somebody_else
def test_an_updaters_directory_of_a_wrong_owner(open_path: Path, fleet: Fleet) -> None:
    config = fleet.configure(open_path / "device")
    (open_path / "device").chmod(0o755)
    config.chmod(0o644)
    (open_path / "device" / "updater").mkdir(mode=0o700, exist_ok=True)
    for flashed in (fleet.root, fleet.profile):
        copy = open_path / flashed.name
        shutil.copy(flashed, copy)
        copy.chmod(0o644)
        config.write_text(config.read_text().replace(str(flashed), str(copy)))
    done = edgeslm("updater", config, before=NOBODY)
    assert (done.returncode, "[slots.unavailable]" in done.stderr) == (75, True), done.stderr


@pytest.mark.parametrize("shared", ["state_dir", "runtime_dir"])
def test_the_second_agent_on_a_directory_says_who_holds_it(
    make_agent: MakeAgent,  # noqa: F811
    brittle: Path,  # noqa: F811
    tmp_path: Path,
    shared: str,
) -> None:
    first = make_agent(models={"m": {"bundle": brittle}})
    first.start()
    assert first.process is not None
    config = settings(tmp_path, **{shared: first.settings[shared]})
    done = edgeslm("run", config)
    assert (done.returncode, "[agent.running]" in done.stderr) == (75, True), done.stderr
    assert f"another agent, process {first.process.pid}, runs here" in done.stderr
    first.stop()
    first.start()


# Accelerator and its library.


@pytest.mark.parametrize(
    ("artifact", "said"),
    [
        ({"requires": {"runtime": "0.1"}}, "runtime 0.1"),
        ({"provider": "openvino", "requires": {"accelerator": "NPU"}}, "OpenVINO"),
        ({"provider": "coreml"}, "Core ML"),
    ],
)
def test_an_accelerator_that_is_not_here_or_of_another_version(
    make_agent: MakeAgent,  # noqa: F811
    tmp_path: Path,
    artifact: dict[str, Any],
    said: str,
) -> None:
    """The agent goes on with its other models; a command ends with a status."""
    bundle = tiny.write_bundle(tmp_path / "b", artifact=artifact)
    agent = make_agent(models={"m": {"bundle": bundle}})
    agent.start()
    told = agent.wait_for("model_failed")
    assert told["code"] == "bundle.no_artifact"
    assert said in told["message"]
    argv = [*EDGESLM, "infer", str(bundle)]
    done = subprocess.run(argv, input="x\n", capture_output=True, text=True, check=False)
    assert (done.returncode, "[bundle.no_artifact]" in done.stderr) == (65, True), done.stderr
    done = edgeslm("doctor", agent.config)
    assert (done.returncode, said in done.stdout) == (65, True), done.stdout


# Certificates.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    folder = tmp_path_factory.mktemp("fleet")
    made = Fleet(folder)
    made.offer(1, tiny.write_bundle(folder / "v1", name=MODEL, version=1))
    made.assign(1)
    return made


def issue(authority: Authority, folder: Path, *, days: tuple[int, int]) -> tuple[Path, Path]:
    """Return a broker's certificate and key, good from and until so many days from now."""
    now = dt.datetime.now(dt.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    above = serialization.load_pem_private_key(
        authority.cert.with_suffix(".key").read_bytes(), None
    )
    assert isinstance(above, ec.EllipticCurvePrivateKey)
    of = x509.load_pem_x509_certificate(authority.cert.read_bytes())
    names = [x509.DNSName("localhost")]
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")]))
        .issuer_name(of.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(above, hashes.SHA256())
    )
    folder.mkdir(exist_ok=True)
    cert_file, key_file = folder / "broker.pem", folder / "broker.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


@pytest.mark.broker
@pytest.mark.parametrize(
    ("days", "known", "said", "status"),
    [
        ((-9, -1), True, "certificate has expired", 75),
        ((1, 9), True, "certificate is not yet valid", 75),
        ((-1, 9), False, "unable to get local issuer certificate", 78),
    ],
    ids=["expired", "not yet valid", "unknown CA"],
)
def test_a_brokers_certificate_that_cannot_be_trusted(  # noqa: PLR0913, PLR0917 -- fixtures
    tmp_path: Path,
    authority: Authority,
    fleet: Fleet,
    make_agent: MakeAgent,  # noqa: F811
    brittle: Path,  # noqa: F811
    days: tuple[int, int],
    known: bool,  # noqa: FBT001 -- of a table
    said: str,
    status: int,
) -> None:
    """Agent and updater say so, and stay: it may be mended elsewhere. The doctor says by whom."""
    cert, key = issue(authority, tmp_path / "issued", days=days)
    for path in (cert, key):
        path.chmod(0o644)
    lines = (f"certfile {cert}", f"keyfile {key}")
    broker = Mosquitto(tmp_path / "tls", extra="\n".join(("allow_anonymous true", *lines)))
    broker.start()
    try:
        other = Authority(tmp_path / "other", name="other")
        trusted = (authority if known else other).cert
        uplink = {"host": "localhost", "port": broker.port, "tls": {"ca_file": trusted}}
        agent = make_agent(models={"m": {"bundle": brittle}}, uplink=uplink)
        agent.start(until="uplink_disconnected")
        assert said in agent.wait_for("uplink_disconnected")["reason"]
        assert agent.process is not None
        assert agent.process.poll() is None
        done = edgeslm("doctor", agent.config)
        assert said in done.stdout
        assert done.returncode == status
        assert agent.stop() < 5
        _updater_says(fleet, tmp_path / "device", uplink, said)
    finally:
        broker.kill()


def _updater_says(fleet: Fleet, folder: Path, uplink: dict[str, Any], said: str) -> None:
    config = fleet.configure(folder)
    kept = [line for line in config.read_text().splitlines() if not line.startswith("uplink")]
    config.write_text("\n".join((f"uplink = {toml(uplink)}", *kept)) + "\n")
    log = folder / "updater.log"
    with log.open("wb") as file:
        argv = [*EDGESLM, "updater", "--config", str(config)]
        process = subprocess.Popen(argv, stderr=file)
    try:
        poll(lambda: said in log.read_text(), f"{said!r} in the updater's log")
        assert process.poll() is None, log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0


# Clock and name.


def test_a_clock_at_1970_is_told(tmp_path: Path) -> None:
    """What the agent does then is in tests/agent/test_clock.py: it serves, and marks results."""
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "by_s").write_text(str(-55 * 365.25 * 86_400))
    script = ROOT / "tests" / "agent" / "with_played_clock.py"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PLAYED_CLOCK": str(tmp_path / "clock")}
    argv = [sys.executable, str(script), "doctor", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, env=env)
    assert done.returncode == 75, done.stderr
    (found,) = (f for f in json.loads(done.stdout)["findings"] if f["check"] == "clock")
    assert "before edgeslm" in found["found"]
    assert "NTP" in found["remedy"]


@with_mounts
def test_a_device_keeps_its_id_under_another_host_name(
    make_agent: MakeAgent,  # noqa: F811
    brittle: Path,  # noqa: F811
    plant: Plant,  # noqa: F811
    tmp_path: Path,
) -> None:
    agent = make_agent(
        models={"m": {"bundle": brittle}}, routes={"r": {"topic": "in/#", "models": ["m"]}}
    )
    agent.start()
    before = plant.ask("in/a", "one")
    agent.stop()
    renamed = tmp_path / "renamed.py"
    renamed.write_text(
        "import ctypes, runpy, socket\n"
        "assert ctypes.CDLL(None).unshare(0x04000000) == 0  # CLONE_NEWUTS\n"
        "socket.sethostname('elsewhere')\n"
        f"runpy.run_path({str(agent.script)!r}, run_name='__main__')\n"
    )
    agent.script = renamed
    agent.start()
    after = plant.ask("in/a", "two")
    assert after["device"] == before["device"] == "dev1"
    assert after["id"].rpartition(":")[0] == before["id"].rpartition(":")[0]
