"""`edgeslm doctor`: each thing that can be wrong is named, with its remedy and a status."""

from __future__ import annotations

import contextlib
import getpass
import json
import shutil
import socket
import subprocess
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

import edgeslm
from edgeslm import providers, tasks
from edgeslm.adapters.mqtt import MqttLink
from edgeslm.adapters.mqtt_open import LinkConfig
from edgeslm.adapters.ort import hardware_problem
from edgeslm.adapters.slot_store import FileSlotStore
from edgeslm.adapters.tuf import Trust
from edgeslm.agent.intake import BUSY, encode
from edgeslm.cli import doctor
from edgeslm.cli.checks import Finding, brokers, device, files, guarded, updates
from edgeslm.cli.checks import providers as checked
from edgeslm.cli.checks.models import untimed
from edgeslm.cli.updates import UpdateExtraError
from edgeslm.contract.brokers import Broker
from edgeslm.contract.control import Report as AgentReport
from edgeslm.contract.control import ServingModel
from edgeslm.contract.fleet import BLOCK_BYTES
from edgeslm.contract.manifest import Artifact
from edgeslm.contract.settings import AgentSettings, load_settings
from edgeslm.contract.slots import ModelSlots, Slot, SlotTable
from edgeslm.contract.topics import FleetTopics
from edgeslm.core.block import HEAD_BYTES
from edgeslm.core.series import Series
from edgeslm.ports import NotThereError, Report, Up
from edgeslm.providers import coreml, cuda, openvino, qnn
from edgeslm.runtime.device import Device
from edgeslm.runtime.profiles import detect_profile
from edgeslm.runtime.slot import whole_slot
from edgeslm.tasks.anomaly import Past
from edgeslm.updater.control import SOCKET
from tests.agent.kit import poll, toml
from tests.certificates import Authority
from tests.cli.conftest import Run
from tests.mosquitto import Mosquitto, free_port
from tests.runtime import tiny
from tests.updater.whole import Fleet

PASSWORD = "correct horse"  # noqa: S105 -- of a broker on loopback
Write = Callable[..., Path]
Found = dict[str, Finding]


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles of these tests have a task of the tests."""
    folder = str(Path(__file__).parents[1] / "runtime" / "tasks")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, folder])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes settings that are right but for what is given."""

    def write_settings(**settings: Any) -> Path:
        whole = {
            "device_id": "dev1",
            "state_dir": tmp_path / "state",
            "runtime_dir": tmp_path / "run",
            **settings,
        }
        path = tmp_path / "agent.toml"
        path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in whole.items()))
        path.chmod(0o640)
        return path

    return write_settings


def examine(config: Path | None) -> Found:
    """What was found, by check; an error comes before what else a check says."""
    ranks = {"ok": 0, "warning": 1, "error": 2}
    found = sorted(doctor.examine(config), key=lambda f: ranks[f.level])
    for finding in found:
        assert (finding.level == "ok") == (not finding.remedy)
        assert (finding.level == "error") == (finding.status > 0)
        assert finding.code != "internal", finding
    return {finding.check: finding for finding in found}


PROVIDERS = [f"provider.{name}" for name in providers.names()]
IDLE = {"provider.openvino", "provider.qnn"}  # may be installed where their hardware is not


def at(port: int, **fields: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": port, **fields}


def broken(found: Found) -> set[str]:
    return {check for check, finding in found.items() if finding.level == "error"}


# The whole.


def test_a_device_that_is_well(run: Run, write: Write, mosquitto: Mosquitto, bundle: Path) -> None:
    config = write(
        uplink=at(mosquitto.port),
        models={"m": {"bundle": bundle}},
        routes={"r": {"topic": "plant/#", "models": ["m"]}},
    )
    done = run("doctor", "--config", config, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["exit_status"]) == (0, 0), report
    levels = {f["check"]: f["level"] for f in report["findings"]}
    idle = {check for check in IDLE if levels.pop(check) == "warning"}  # by the tests' machine
    assert levels == dict.fromkeys(
        (
            *("config", "clock", "cpu", *(p for p in PROVIDERS if p not in IDLE), "telemetry"),
            *("state_dir", "runtime_dir", "model.m", "broker.uplink"),
        ),
        "ok",
    )
    rest = len(report["findings"]) - len(idle)
    assert report["counts"] == {"error": 0, "warning": len(idle), "ok": rest}
    said = {f["check"]: f["found"] for f in report["findings"]}
    assert f"(verified: {detect_profile().verified})" in said["cpu"]
    assert "verified: none (never run on such a device, nor on its emulator)" in said["model.m"]
    for folder in ("state", "run"):
        assert not (config.parent / folder).exists(), "it changes nothing"


@pytest.mark.parametrize(("until", "level"), [("2020-12-31", "warning"), ("2999-12-31", "ok")])
def test_a_model_that_nobody_answers_for_any_more(
    write: Write, tmp_path: Path, until: str, level: str
) -> None:
    old = tiny.write_bundle(tmp_path / "old", supported_until=until)
    config = write(models={"m": {"bundle": old}})
    told = [f for f in doctor.examine(config) if f.check == "model.m"]
    assert told[0].level == "ok"
    assert any(f"supported until {until}, and no longer" in f.found for f in told) == (
        level == "warning"
    )


def test_a_model_with_windows_is_to_hear_times(tmp_path: Path) -> None:
    routes = {
        "log": {"topic": "a", "models": ["m"]},
        "timed": {"topic": "b", "models": ["m"], "text": "/text", "time": "/time"},
        "other": {"topic": "c", "models": ["n"]},
    }
    settings = AgentSettings.model_validate({
        "device_id": "d", "state_dir": str(tmp_path), "routes": routes,
        "models": {name: {"bundle": str(tmp_path)} for name in "mn"},
    })  # fmt: skip
    remembers = Past(Series({}, []), None, str, lambda *_: None)
    assert list(untimed("m", remembers, settings)) == ["routes.log"]
    assert not list(untimed("m", Past(None, None, str, lambda *_: None), settings))
    assert not list(untimed("m", None, settings))


def test_without_settings_the_device_alone(run: Run) -> None:
    done = run("doctor")
    assert done.returncode == 0
    lines = [line for line in done.stdout.decode().splitlines() if not line.startswith(" ")]
    assert [line.split()[1] for line in lines[:-1]] == ["clock", "cpu", *PROVIDERS, "telemetry"]
    assert lines[-1].startswith("0 errors, ")


def test_the_worst_error_gives_the_status(run: Run, write: Write, tmp_path: Path) -> None:
    away: dict[str, Any] = {"uplink": at(free_port())}
    assert run("doctor", "--config", write(**away)).returncode == 75
    away["models"] = {"m": {"bundle": tmp_path / "none"}}
    assert run("doctor", "--config", write(**away)).returncode == 65
    away["profile"] = "toaster"
    done = run("doctor", "--config", write(**away))
    assert done.returncode == 78
    for line in (b"error    cpu", b"error    model.m", b"error    broker.uplink"):
        assert line in done.stdout


def test_a_check_that_fails_is_a_finding_and_the_others_go_on() -> None:
    def bad() -> Iterator[Finding]:
        yield Finding("a", "ok", "first")
        raise ZeroDivisionError

    first, second = guarded("a", bad)
    assert (first.found, second.level, second.code) == ("first", "error", "internal")


# Settings.


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"device_id = ", "not TOML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"\x00\x1b[2J = 1", "not TOML"),
        (b"", "device_id: Field required"),
        (b'device_id = "d"\nuplnk = 1', "uplnk: unknown key"),
        (b'device_id = "d"\n[uplink]\nport = "x\x1b[2J"', "not TOML"),
        (b'device_id = "d"\n[uplink]\nport = 70000', "uplink.port"),
        (b'device_id = "d"\n[uplink]\npassword = "x"', "needs a username"),
        (b'device_id = "d"\n[routes.r]\ntopic = "#/a"\nmodels = ["m"]', "routes.r"),
        (b"a" + b".a" * 5000 + b" = 1", "nested deeper"),
        (b"x = " + b"[" * 100_000, "not TOML"),
    ],
)
def test_settings_that_cannot_be_used(
    raw: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "agent.toml"
    config.write_bytes(raw)
    assert doctor.main(["--config", str(config), "--json"]) == 78
    report = json.loads(capsys.readouterr().out)
    wrong = [f for f in report["findings"] if f["level"] == "error"]
    assert {(f["check"], f["code"]) for f in wrong} == {("config", "config.invalid")}
    assert said in wrong[0]["found"]
    assert str(config) in wrong[0]["found"]
    assert "docs/settings.md" in wrong[0]["remedy"]
    assert "clock" in {f["check"] for f in report["findings"]}, "the device is looked at anyway"
    assert doctor.main(["--config", str(config)]) == 78
    assert "\x1b" not in capsys.readouterr().out


def test_settings_that_are_not_there(run: Run, tmp_path: Path) -> None:
    for name in ("", "none.toml", "n" * 300):
        assert broken(examine(tmp_path / name)) == {"config"}
    assert run("doctor", "--config", tmp_path / "none.toml").returncode == 78


def test_settings_that_would_serve_nothing(write: Write, bundle: Path) -> None:
    found = examine(write(uplink=at(free_port())))
    assert found["config.models"].level == "warning"
    found = examine(write(uplink=at(free_port()), models={"m": {"bundle": bundle}}))
    assert found["config.models.m"].found == "no route leads to it"


# Brokers.


@pytest.fixture
def guarded_broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that knows one user."""
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("no mosquitto_passwd")
    known = tmp_path / "known"
    subprocess.run(["mosquitto_passwd", "-b", "-c", known, "dev1", PASSWORD], check=True)
    known.chmod(0o644)
    extra = f"allow_anonymous false\npassword_file {known}"
    broker = Mosquitto(tmp_path / "guarded", extra=extra)
    broker.start()
    yield broker
    broker.kill()


@pytest.mark.broker
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_password_is_tried(
    protocol: str, write: Write, guarded_broker: Mosquitto, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    user = {"protocol": protocol, "username": "dev1", "password_file": secret}
    config = write(uplink=at(guarded_broker.port, **user))
    secret.write_text(f"{PASSWORD}\n")
    assert examine(config)["broker.uplink"].level == "ok"
    secret.write_text("battery staple")
    wrong = examine(config)["broker.uplink"]
    assert (wrong.level, wrong.status) == ("error", 78)
    assert wrong.found.startswith("user name or password refused: 127.0.0.1:")
    nobody = examine(write(uplink=at(guarded_broker.port, protocol=protocol)))["broker.uplink"]
    assert nobody.found.startswith("user name or password refused")


@pytest.mark.broker
def test_a_password_is_never_told(
    write: Write, guarded_broker: Mosquitto, capsys: pytest.CaptureFixture[str]
) -> None:
    for password in (PASSWORD, "battery staple"):
        config = write(uplink=at(guarded_broker.port, username="dev1", password=password))
        for options in ([], ["--json"]):
            doctor.main(["--config", str(config), *options])
            told = capsys.readouterr()
            assert "dev1" in told.out
            assert password not in told.out + told.err


@pytest.mark.broker
def test_the_agents_sessions_stay_its_own(write: Write, mosquitto: Mosquitto) -> None:
    reports: list[Report] = []
    broker = Broker(host="127.0.0.1", port=mosquitto.port)
    link: MqttLink[Any] = MqttLink(LinkConfig("dev1", broker, session_expiry_s=60), reports.append)
    link.start()
    poll(lambda: bool(reports), "the agent's link is up")
    assert examine(write(uplink=at(mosquitto.port)))["broker.uplink"].level == "ok"
    link.stop()
    assert link.join(5)
    assert reports == [Up(1, session_present=False)]


@pytest.mark.broker
def test_both_brokers_are_tried(write: Write, mosquitto: Mosquitto) -> None:
    found = examine(write(uplink=at(mosquitto.port), input=at(free_port())))
    assert broken(found) == {"broker.input"}
    assert found["broker.input"].found.startswith("nobody listens there: 127.0.0.1:")
    assert found["broker.input"].status == 75


def test_a_name_that_nobody_knows(write: Write) -> None:
    found = examine(write(uplink={"host": "no-such-broker.invalid"}))["broker.uplink"]
    assert found.found.startswith("name not known: no-such-broker.invalid:1883")


def test_a_host_that_is_none(write: Write) -> None:
    for host in ("a" * 70, ".", "b\x00c", "\u2028"):
        assert examine(write(uplink={"host": host}))["broker.uplink"].level == "error"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"", "connected, and got no answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "connected, and got no answer"),
        (b"\x20\x00", "connected, and got no answer"),
        (b"\x20\xff\xff\xff\xff\xff", "connected, and got no answer"),
        (b"\x20\x0a\x00\x00\x07\x1f\x00\x04\xff\xfe\xff\xfe", "connected, and got no answer"),
        (b"\x20\x02\x00\x01", "MQTT version refused"),
        (b"\x20\x03\x00\x84\x00", "MQTT version refused"),
        (b"\x20\x03\x00\x85\x00", "client id refused"),
        (b"\x20\x03\x00\x89\x00", "the broker takes nobody now"),
        (b"\x20\x03\x00\x8a\x00", "this client is banned"),
        (b"\x20\x03\x00\x80\x00", "refused"),
    ],
)
def test_whatever_a_broker_says(reply: bytes, said: str, write: Write) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        found = examine(write(uplink=at(server.getsockname()[1])))["broker.uplink"]
        thread.join(10)
    assert found.found.startswith(said)
    assert found.level == ("warning" if reply[3:4] == b"\x85" else "error")


def test_a_password_in_clear_over_the_network_is_told(write: Write) -> None:
    user = {"username": "u", "password": "p", "port": free_port()}
    assert "broker.uplink.tls" not in examine(write(uplink={"host": "localhost", **user}))
    found = examine(write(uplink={"host": "no-such-broker.invalid", **user}))
    assert found["broker.uplink.tls"].level == "warning"


# TLS.

# paho leaves a socket whose handshake failed to the collector, which closes it.
PAHOS = pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


TlsBroker = Callable[..., int]


@pytest.fixture
def tls_broker(tmp_path: Path, authority: Authority) -> Iterator[TlsBroker]:
    """Starts brokers with a certificate of the authority; returns the port."""
    started: list[Mosquitto] = []

    def start(*more: str, **certificate: Any) -> int:
        name = f"broker-{len(started)}"
        cert, key = authority.sign(name, **certificate)
        for path in (cert, key, authority.cert):
            path.chmod(0o644)
        lines = (f"certfile {cert}", f"keyfile {key}", f"cafile {authority.cert}", *more)
        broker = Mosquitto(tmp_path / name, extra="\n".join(("allow_anonymous true", *lines)))
        broker.start()
        started.append(broker)
        return broker.port

    yield start
    for broker in started:
        broker.kill()


@PAHOS
@pytest.mark.broker
def test_tls_is_tried(write: Write, tls_broker: TlsBroker, authority: Authority) -> None:
    port = tls_broker()
    trusted = {"tls": {"ca_file": authority.cert}}
    good = examine(write(uplink=at(port, **trusted)))["broker.uplink"]
    assert (good.level, "over TLS" in good.found) == ("ok", True)
    for uplink, said, status in (
        (at(port, tls={}), "signed by nobody we trust", 78),
        ({**at(port, **trusted), "host": "localhost"}, "is for another name", 78),
        (at(port), "connected, and got no answer", 75),
    ):
        found = examine(write(uplink=uplink))["broker.uplink"]
        assert said in found.found
        assert found.status == status


@PAHOS
@pytest.mark.broker
def test_a_certificate_out_of_date_points_at_the_clock(
    write: Write, tls_broker: TlsBroker, authority: Authority
) -> None:
    uplink = at(tls_broker(days=0), tls={"ca_file": authority.cert})

    def ended() -> bool:
        return "not valid now" in examine(write(uplink=uplink))["broker.uplink"].found

    poll(ended, "the certificate has ended")
    assert "clock" in examine(write(uplink=uplink))["broker.uplink"].remedy


@pytest.mark.broker
def test_a_client_certificate_is_shown(
    write: Write, tls_broker: TlsBroker, authority: Authority
) -> None:
    port = tls_broker("require_certificate true")
    cert, key = authority.sign("dev1")
    key.chmod(0o600)
    trusted = {"ca_file": authority.cert}
    shown = {**trusted, "cert_file": cert, "key_file": key}
    found = examine(write(uplink=at(port, tls=shown)))
    assert (found["broker.uplink"].level, found["uplink.tls.key_file"].level) == ("ok", "ok")
    lacking = examine(write(uplink=at(port, tls=trusted)))["broker.uplink"]
    assert (lacking.status, "tls.cert_file" in lacking.remedy) == (78, True)
    other = Authority(authority.folder / "other", name="other")
    foreign = dict(zip(("cert_file", "key_file"), other.sign("dev1"), strict=True))
    refused = examine(write(uplink=at(port, tls={**trusted, **foreign})))["broker.uplink"]
    assert (refused.status, "tls.cert_file" in refused.remedy) == (78, True)
    assert "does not take this device's certificate" in refused.found


@PAHOS
@pytest.mark.broker
def test_tls_to_a_port_without(write: Write, mosquitto: Mosquitto) -> None:
    found = examine(write(uplink=at(mosquitto.port, tls={})))["broker.uplink"]
    assert found.found.startswith("TLS failed")


def test_files_of_a_connection_that_cannot_be_used(
    write: Write, authority: Authority, tmp_path: Path
) -> None:
    cert, key = authority.sign("dev1")
    _, other = authority.sign("other")
    (tmp_path / "junk").write_bytes(b"\xff\x00junk")
    none, junk = tmp_path / "none", tmp_path / "junk"
    for fields, field in (
        ({"username": "u", "password_file": none}, "uplink.password_file"),
        ({"username": "u", "password_file": tmp_path}, "uplink.password_file"),
        ({"username": "u", "password_file": junk}, "uplink.password_file"),
        ({"username": "u", "password_file": "/dev/zero"}, "uplink.password_file"),
        ({"tls": {"ca_file": none}}, "uplink.tls.ca_file"),
        ({"tls": {"ca_file": junk}}, "uplink.tls"),
        ({"tls": {"cert_file": cert, "key_file": other}}, "uplink.tls"),
        ({"tls": {"cert_file": cert, "key_file": authority.encrypt(key)}}, "uplink.tls"),
    ):
        found = examine(write(uplink=at(free_port(), **fields)))["broker.uplink"]
        assert found.found.startswith(f"{field}: ")
        assert (found.status, found.code) == (78, "config.invalid")


# Updates.


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture
def updated(write: Write, fleet: Fleet, tmp_path: Path) -> Write:
    """Writes settings of a device with an updater, right but for what is given of [update]."""

    def write_settings(**update: Any) -> Path:
        said = {"root": fleet.root, "dir": tmp_path / "updater", "min_free_mb": 1, **update}
        return write(uplink=at(free_port()), update=said)

    return write_settings


def of_updates(config: Path) -> Found:
    return {f.check: f for f in updates.updates(load_settings(config))}


def test_without_an_updater_nothing_is_said_of_one(write: Write, mosquitto: Mosquitto) -> None:
    found = examine(write(uplink=at(mosquitto.port)))
    assert not [check for check in found if check.startswith("update") or "packets" in check]


def test_a_device_to_which_models_can_come(
    updated: Write, tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = updated(user=getpass.getuser())
    store = FileSlotStore(tmp_path / "updater", whole_slot)
    shutil.copytree(bundle, store.folder("m", "a"))
    held = whole_slot(store.folder("m", "a"))
    assert held is not None
    store.write(SlotTable(models={"m": ModelSlots(active="a", a=held)}))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "updater").rglob("*")}
    found = of_updates(config)
    assert {f.level for f in found.values()} == {"ok"}
    assert "root 1 of a fleet, good until 2" in found["update.root"].found
    assert f"m {held.version} ({held.bundle[:12]})" in found["update.dir"].found
    assert "no agent runs" in found["update.agent"].found
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "updater").rglob("*")} == before
    store.close()
    doctor.main(["--config", str(config)])
    assert "ok       update.root" in capsys.readouterr().out


def test_a_root_that_is_none(updated: Write, fleet: Fleet, tmp_path: Path) -> None:
    root = tmp_path / "root.json"
    whole = json.loads(fleet.root.read_bytes())
    unsigned = {**whole, "signatures": whole["signatures"][:1]}
    other = fleet.repository.store.read("timestamp.json")
    for raw, code in (
        (None, "config.invalid"),
        (b"", "trust.malformed"),
        (b"\xff\x00", "trust.malformed"),
        (other, "trust.malformed"),
        (json.dumps(unsigned).encode(), "trust.signature"),
    ):
        root.unlink(missing_ok=True)
        if raw is not None:
            root.write_bytes(raw)
        found = of_updates(updated(root=root))["update.root"]
        assert (found.level, found.status, found.code) == ("error", 78, code)
        assert str(root) in found.found
        assert "fleet keys export-root" in found.remedy


@pytest.mark.parametrize(
    ("days", "level", "said"),
    [(0, "ok", "good until"), (340, "warning", "good until"), (370, "warning", "ended")],
)
def test_a_root_that_ends(updated: Write, days: int, level: str, said: str) -> None:
    update = load_settings(updated()).update
    assert update is not None
    (found,) = updates.trusted_root(update, of=At(time.time() + 86_400 * days))
    assert (found.level, said in found.found) == (level, True)
    assert level == "ok" or "fleet keys renew root" in found.remedy


def test_the_newest_root_that_the_updater_went_on_to_counts(updated: Write, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "other")

    def fetch(file: str, _max_bytes: int) -> bytes:
        if not (fleet.folder / "fleet" / "metadata" / file).exists():
            raise NotThereError(file)
        return fleet.repository.store.read(file)

    trust = Trust(tmp_path / "updater" / "trust", fleet.root.read_bytes(), fetch)
    trust.walk_roots()
    assert ": root 1 of a fleet, good" in of_updates(updated(root=fleet.root))["update.root"].found
    fleet.repository.renew(["root"])
    trust.walk_roots()
    found = of_updates(updated(root=fleet.root))["update.root"]
    assert ": root 1 of a fleet, by which root 2 is trusted, good until" in found.found


def test_packages_that_are_not_installed(updated: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "require_extra", require_none)
    found = of_updates(updated())["update.root"]
    assert (found.status, found.code) == (75, "update.extra")
    assert "edgeslm[update]" in found.found


def require_none() -> None:
    msg = "tuf: not installed. pip install 'edgeslm[update]'"
    raise UpdateExtraError(msg)


def test_an_updaters_user_that_nobody_is(updated: Write) -> None:
    found = of_updates(updated(user="nobody-of-that-name"))["update.user"]
    assert found.level == "warning"


def test_an_updaters_directory_that_is_of_no_use(updated: Write, tmp_path: Path) -> None:
    folder = tmp_path / "updater"
    config = updated()
    assert "no updater has run" in of_updates(config)["update.dir"].found
    folder.mkdir()
    assert "no model committed yet" in of_updates(config)["update.dir"].found
    (folder / "slots.json").write_text("{}x")
    found = of_updates(config)["update.dir"]
    assert (found.level, "slots.json" in found.found) == ("warning", True)


def test_room_for_one_more_bundle(
    updated: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")  # noqa: PYI024 -- of what shutil gives
    folder = tmp_path / "updater" / "bundles" / "m"
    held = Slot(bundle="a" * 64, version=1, whole=True)
    for name, size in (("a", 5), ("b", 2)):
        (folder / name).mkdir(parents=True)
        (folder / name / "weights").write_bytes(bytes(size * 2**20))
    table = SlotTable(models={"m": ModelSlots(active="a", a=held)})
    (tmp_path / "updater" / "slots.json").write_text(table.model_dump_json())
    for free_mb, level in ((4.1, "ok"), (3.9, "warning")):  # 1 to keep, 3 more than the spare slot
        free = int(free_mb * 2**20)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(free))
        assert of_updates(updated())["update.space"].level == level


REPORT = AgentReport(instance="a", models=(ServingModel(model="m", state="serving"),))


@pytest.mark.parametrize(
    ("words", "level", "said"),
    [
        (encode(REPORT), "ok", "answers; 1 of 1 models serve"),
        (BUSY, "ok", "its updater is connected"),
        (b"", "warning", "does not hear this user"),
        (b"hello\n", "warning", "no agent of this version"),
        (b"\xff" * 300_000, "warning", "no agent of this version"),
    ],
)
def test_an_agent_that_answers(updated: Write, words: bytes, level: str, said: str) -> None:
    config = updated()
    path = load_settings(config).runtime_dir / SOCKET
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            client, _ = listener.accept()
            with client, contextlib.suppress(OSError):
                client.sendall(words)

        thread = threading.Thread(target=serve)
        thread.start()
        found = of_updates(config)["update.agent"]
        thread.join(10)
    assert (found.level, said in found.found) == (level, True), found
    assert "no agent runs" in of_updates(config)["update.agent"].found, "a socket that is left"


def test_an_agent_that_says_nothing(updated: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "_ANSWER_S", 0.1)
    config = updated()
    path = load_settings(config).runtime_dir / SOCKET
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        found = of_updates(config)["update.agent"]
    assert (found.level, "says nothing" in found.found) == ("warning", True)


@pytest.mark.broker
@pytest.mark.parametrize(
    ("largest", "level"), [(None, None), (131_072, "warning"), (131_300, "ok"), (1_048_576, "ok")]
)
def test_a_broker_must_take_packets_as_large_as_a_block(
    updated: Write, tmp_path: Path, largest: int | None, level: str | None
) -> None:
    more = "" if largest is None else f"\nmax_packet_size {largest}"
    broker = Mosquitto(tmp_path / "broker", extra=f"allow_anonymous true{more}")
    broker.start()
    try:
        config = updated()
        settings = load_settings(config)
        uplink = settings.uplink.model_copy(update={"port": broker.port})
        settings = settings.model_copy(update={"uplink": uplink})
        found = {f.check: f for f in brokers.brokers(settings)}
        packet = [f.level for f in found.values() if f.check == "broker.uplink.packets"]
        assert packet == ([] if level is None else [level])
        without = settings.model_copy(update={"update": None})
        assert [f.check for f in brokers.brokers(without)] == ["broker.uplink"]
    finally:
        broker.kill()


@pytest.mark.broker
def test_a_block_is_as_long_as_is_said(tmp_path: Path) -> None:
    """Up to the byte; mosquitto leaves out the three in which a packet says how long it is."""
    topic = FleetTopics(AgentSettings(device_id="d").topics.root).blob("0" * 64)
    needed = brokers.packet_bytes(topic)
    block = bytes(BLOCK_BYTES + HEAD_BYTES)
    for largest, taken in ((needed - 3, True), (needed - 4, False)):
        extra = f"allow_anonymous true\nmax_packet_size {largest}"
        broker = Mosquitto(tmp_path / str(largest), extra=extra)
        broker.start()
        lost: list[object] = []
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.on_disconnect = lambda *why, lost=lost: lost.append(why)
        client.connect("127.0.0.1", broker.port)
        client.publish(topic, block)  # paho itself does not look at the limit
        until = time.monotonic() + (0.3 if taken else 10.0)
        while not lost and time.monotonic() < until:
            client.loop(0.05)
        assert (not lost) == taken
        client.disconnect()
        client.loop(0.1)
        broker.kill()


# Models.


def test_each_model_is_tried_by_itself(write: Write, bundle: Path, tmp_path: Path) -> None:
    cut = tiny.write_bundle(tmp_path / "cut")
    (cut / "model.onnx").write_bytes(b"")
    line = json.dumps(tiny.golden_line("pump", label="red", score=99, confidence=0.5))
    differs = tiny.write_bundle(tmp_path / "differs", files={"golden.jsonl": line.encode()})
    bundles = {"good": bundle, "none": tmp_path / "none", "cut": cut, "differs": differs}
    models = {name: {"bundle": path} for name, path in bundles.items()}
    found = examine(write(uplink=at(free_port()), models=models))
    assert found["model.good"].level == "ok"
    assert "2 of 2 nodes on cpu" in found["model.good"].found
    assert "verified: none (never run on such a device" in found["model.good"].found
    assert {found[f"model.{name}"].code for name in ("none", "cut", "differs")} == {
        "bundle.missing",
        "bundle.tampered",
        "golden.failed",
    }
    assert found["model.cut"].status == 65


# The device.


class At:
    """A clock that stands still."""

    def __init__(self, now: float) -> None:
        self.now = now

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("now", "level"),
    [
        (0.0, "error"),
        (-1e30, "error"),
        (float("nan"), "error"),
        (1.7e9, "error"),
        (1.8e9, "ok"),
        (4e9, "warning"),
        (1e300, "warning"),
    ],
)
def test_a_clock_that_cannot_be_right(now: float, level: str) -> None:
    (found,) = device.clock(None, of=At(now))
    assert found.level == level


def test_the_release_is_as_the_changelog_says() -> None:
    log = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    heading = f"## [{edgeslm.__version__}] - "
    assert heading not in log or f"{heading}{edgeslm.RELEASED}" in log


def test_a_profile_that_this_machine_is_not(write: Write) -> None:
    settings = load_settings(write(profile="generic-x86_64"))
    old = Device("x86_64", "Old", frozenset({"avx2"}))
    (found,) = device.cpu(settings, device=old)
    assert (found.level, found.status, found.code) == ("error", 78, "profile.invalid")
    assert "generic-x86_64-avx2" in found.remedy
    assert examine(write(profile="toaster", uplink=at(free_port())))["cpu"].status == 78


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages of plug-ins are there and no others, whatever this machine has."""
    for other in (coreml, cuda):
        monkeypatch.setattr(other, "problem", lambda: "not here")
    for plugin in (openvino, qnn):
        monkeypatch.setattr(plugin, "problem", lambda: None)
        monkeypatch.setattr(plugin, "runtime", lambda: "1.2")


def looked_at(profile: str) -> Found:
    settings = AgentSettings.model_construct(profile=profile)
    return {finding.check: finding for finding in checked.execution_providers(settings)}


@pytest.mark.usefixtures("plugins")
def test_a_package_without_its_hardware_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {}

    def absent(_provider: object, graphs: Sequence[Artifact]) -> str | None:
        [graph] = graphs
        wanted[graph.provider] = graph.requires.accelerator
        return None if graph.provider == "cpu" else "finds nothing"

    monkeypatch.setattr(checked, "absent", absent)
    found = looked_at("intel-core-ultra")
    assert wanted == {"cpu": None, "openvino": "NPU", "qnn": None}, "those with a package"
    assert found["provider.cpu"].level == "ok"
    for name, remedy in (("openvino", "take it out of profile"), ("qnn", "remove its package")):
        one = found[f"provider.{name}"]
        assert (one.level, remedy in one.remedy) == ("warning", True)
        assert one.found == "runtime 1.2 is installed, but finds nothing"
    assert "provider" not in found, "the profile's CPU still serves"
    monkeypatch.setattr(checked, "absent", lambda *_: "finds nothing")
    assert looked_at("intel-core-ultra")["provider"].status == 65


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("emulated", [True, False])
def test_an_emulator_is_called_one(monkeypatch: pytest.MonkeyPatch, *, emulated: bool) -> None:
    monkeypatch.setattr(checked, "absent", lambda *_: None)
    monkeypatch.setattr(qnn, "emulated", lambda: emulated)
    found = looked_at("generic-x86_64")
    assert ("an emulator" in found["provider.qnn"].found) == emulated
    assert found["provider.openvino"].found == "present, runtime 1.2"


@pytest.mark.parametrize("name", ["openvino", "qnn"])
def test_a_provider_is_present_where_a_graph_would_run(name: str) -> None:
    """Of this very machine, by the plug-ins themselves."""
    provider = providers.load(name)
    assert provider is not None
    if (why := provider.problem()) is not None:
        pytest.skip(why)
    profile = "intel-core-ultra" if name == "openvino" else "rb3-gen2"
    options = openvino.on("NPU") if name == "openvino" else qnn.htp({})
    found = looked_at(profile)[f"provider.{name}"]
    assert (found.level == "ok") == (hardware_problem(options) is None)
    assert ("finds no NPU here" in found.found) == (found.level == "warning")


def test_a_machine_that_no_profile_fits() -> None:
    (found,) = guarded("cpu", lambda: device.cpu(None, device=Device("riscv64", "", frozenset())))
    assert (found.level, found.code) == ("error", "profile.invalid")
    assert "riscv64" in found.found


@pytest.mark.parametrize(("value", "level"), [("1", "ok"), ("TRUE", "ok"), ("0", "warning")])
def test_telemetry_that_is_on_is_told(
    value: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", value)
    (found,) = device.telemetry(None)
    assert found.level == level


# Files.


def settings_at(folder: Path, **more: Any) -> AgentSettings:
    return AgentSettings(
        device_id="d", state_dir=folder / "state", runtime_dir=folder / "run", **more
    )


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    (tmp_path / "run").symlink_to("/proc/self")
    found = {f.check: f for f in files.folders(settings_at(tmp_path))}
    assert {f.level for f in found.values()} == {"error"}
    assert {f.status for f in found.values()} == {75}
    assert "is not a folder" in found["state_dir"].found


def test_folders_are_left_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    assert {f.level for f in files.folders(settings_at(tmp_path))} == {"ok"}
    assert [p.name for p in tmp_path.rglob("*")] == ["state"]


def test_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")  # noqa: PYI024 -- of what shutil gives
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "outbox.sqlite").write_bytes(bytes(2**20))
    settings = settings_at(tmp_path, outbox={"max_mb": 100})
    for free_mb, level in ((200, "ok"), (115.5, "ok"), (114.5, "warning"), (15, "error")):
        free = int(free_mb * 2**20)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(free))
        found = {f.check: f for f in files.folders(settings)}
        assert found["state_dir"].level == level
        assert found["runtime_dir"].level == "ok"


def test_secrets_that_others_can_read(write: Write, tmp_path: Path) -> None:
    secret = tmp_path / "pass word"
    secret.write_text("x")
    user = {"username": "u", "port": free_port(), "host": "127.0.0.1"}
    config = write(uplink={**user, "password_file": secret})
    for mode, level in ((0o600, "ok"), (0o640, "ok"), (0o644, "warning"), (0o602, "warning")):
        secret.chmod(mode)
        found = examine(config)["uplink.password_file"]
        assert found.level == level
        if level == "warning":
            assert found.remedy == f"chmod o= '{secret}'"
    hardware = {"module": secret, "token": "t", "pin_file": secret}
    asks = {**user, "password_file": secret}
    for more in (
        {"token_file": secret, "pkcs11": hardware, "broker": asks},
        {"factory_key_file": secret},
    ):
        names = {"token_file", "factory_key_file"} & more.keys()
        names |= {"pkcs11.pin_file", "broker.password_file"} if "broker" in more else set()
        config = write(uplink=user, provision={"dir": tmp_path / "none", **more})
        for mode, level in ((0o640, "ok"), (0o644, "warning")):
            secret.chmod(mode)
            levels = {name: examine(config)[f"provision.{name}"].level for name in names}
            assert levels == dict.fromkeys(names, level)
    nobody_yet = config.read_text().replace('device_id = "dev1"\n', "")
    config.write_text(nobody_yet)  # where it lies before the device is provisioned
    assert examine(config)["provision.factory_key_file"].level == "warning"
    config = write(uplink={**user, "password": "x"})
    assert examine(config)["config.password"].level == "ok"
    config.chmod(0o644)
    assert examine(config)["config.password"].level == "warning"
