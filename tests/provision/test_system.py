"""From a token to mutual TLS: real commands, the real service, a broker set up as we say."""

from __future__ import annotations

import contextlib
import json
import secrets
import ssl
import subprocess
from pathlib import Path
from queue import SimpleQueue

import pytest

from edgeslm.adapters.mqtt import MqttLink
from edgeslm.adapters.mqtt_open import LinkConfig, visit
from edgeslm.contract.settings import load_settings, read_settings
from edgeslm.fleet.database import identities
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.repository import Repository
from edgeslm.ports import Letter, Report
from tests import kills
from tests.fleet.guarded import secret
from tests.provision.kit import (
    DAY_S,
    ROOT,
    Csr,
    ServerCa,
    Site,
    edgeslm,
    eventually,
    versioned,
)
from tests.provision.live import Running, connects, publishes, up

pytestmark = [pytest.mark.broker, pytest.mark.timeout(900)]  # a dozen commands, on a busy machine

NO_TOKEN = "edp_" + "x" * 43


def trouble(file: Path) -> str:
    """Why the broker does not take the device."""
    return visit(LinkConfig("a-client", load_settings(file).uplink), timeout_s=5.0).trouble


def provision(file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return edgeslm("provision", "--config", str(file), *more)


def test_from_a_token_to_mutual_tls_and_out_again(
    site: Site, service: Running, tmp_path: Path
) -> None:
    file = site.configure(tmp_path / "dev", token=service.token("press-1"))
    done = provision(file)
    assert (done.returncode, "press-1: new certificate" in done.stdout) == (0, True), done.stderr
    settings = load_settings(file)
    assert settings.device_id == "press-1"
    assert connects(settings)
    assert provision(file, "--renew").returncode == 0  # by mutual TLS
    assert connects(load_settings(file))
    # What its access rules let it do is what its certificate says.
    assert publishes(settings.uplink, f"{ROOT}/press-1/status")
    assert not publishes(settings.uplink, f"{ROOT}/press-2/status")
    at = ("--repository", str(site.repository.folder))
    assert edgeslm("fleet", "revoke", *at, "press-1").returncode == 0
    done = provision(file, "--renew")
    assert (done.returncode, "[provision.revoked]" in done.stderr) == (65, True)
    site.revoked = ["press-1"]
    site.write_acl()
    site.reload()
    assert not publishes(settings.uplink, f"{ROOT}/press-1/status")
    site.crl.write_text(edgeslm("fleet", "broker-config", *at, "--kind", "crl").stdout)
    site.restart()
    assert not connects(load_settings(file))
    assert trouble(file) == "the broker's TLS: certificate revoked"
    done = provision(file)  # it asks by the other listener, and the fleet refuses
    assert (done.returncode, "[provision.revoked]" in done.stderr) == (65, True)
    (tmp_path / "dev" / "token").write_text(service.token("press-1", again=True))
    done = provision(file)
    assert (done.returncode, "press-1: new certificate" in done.stdout) == (0, True), done.stderr
    assert connects(load_settings(file))


def test_a_connection_that_is_lost_comes_back_with_the_renewed_certificate(
    site: Site, service: Running, tmp_path: Path
) -> None:
    """Agent and updater are not told: what they connect with is read anew."""
    file = site.configure(tmp_path / "dev", token=service.token("press-1"))
    assert provision(file).returncode == 0
    reports: SimpleQueue[Report] = SimpleQueue()
    config = LinkConfig("a-client", load_settings(file).uplink)
    link = MqttLink[Letter](config, reports.put)
    link.start()
    try:
        first = up(reports)
        assert provision(file, "--renew").returncode == 0
        site.list_replaced(service.engine)
        site.restart()  # from now on the first one would not get in
        assert up(reports).epoch > first.epoch
    finally:
        link.stop()
        link.join(5)


def test_a_token_that_was_used_is_refused_and_is_in_no_log(
    site: Site, service: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "edgeslm")
    token = service.token("press-1")
    first = site.configure(tmp_path / "first", token=token)
    second = site.configure(tmp_path / "second", token=token)
    done = provision(first)
    assert done.returncode == 0
    printed = [done.stdout + done.stderr]
    done = provision(second)
    printed += [done.stdout + done.stderr]
    assert (done.returncode, "[provision.token_used]" in done.stderr) == (65, True)
    assert "press-1" in done.stderr
    unknown = site.configure(tmp_path / "third", token=NO_TOKEN)
    done = provision(unknown)
    assert (done.returncode, "[provision.token_unknown]" in done.stderr) == (65, True)
    refused = service.refused()
    assert (refused["provision.token_used"], refused["provision.token_unknown"]) == (1, 1)
    said = [str(vars(record)) for record in caplog.records]
    assert any("certificate_issued" in line for line in said)
    assert not [line for line in said if token in line]
    assert not [line for line in printed if token in line]


def test_an_unknown_authority_a_clock_that_is_behind_and_a_broker_that_has_expired(
    site: Site, service: Running, tmp_path: Path
) -> None:
    token = service.token("press-1")
    stranger = ServerCa(tmp_path / "stranger", "stranger").file
    file = site.configure(tmp_path / "a", token=token, ca=stranger)
    done = provision(file)
    assert (done.returncode, "[provision.unknown_ca]" in done.stderr) == (65, True)
    file = site.configure(tmp_path / "a", token=token)
    site.restart("early", since_s=DAY_S)
    done = provision(file)
    assert (done.returncode, "[provision.clock]" in done.stderr) == (75, True)
    assert "clock says" in done.stderr
    site.restart("late", until_s=-60.0)
    done = provision(file)
    assert (done.returncode, "[provision.broker_expired]" in done.stderr) == (75, True)
    site.restart("again")
    done = provision(file)
    assert done.returncode == 0, done.stderr


def test_nobody_there_nobody_answers_and_a_wrong_password(
    site: Site, tmp_path: Path, repository: Repository
) -> None:
    del repository
    file = site.configure(tmp_path / "a", token=NO_TOKEN)
    done = provision(file, "--wait", "2")
    assert (done.returncode, "[provision.no_answer]" in done.stderr) == (75, True)
    (site.folder / "edgeslm-provision").write_text("wrong")
    done = provision(file, "--wait", "2")
    assert (done.returncode, "[provision.broker_refused]" in done.stderr) == (65, True)
    site.broker.stop()
    done = provision(file, "--wait", "2")
    assert (done.returncode, "[provision.unreachable]" in done.stderr) == (75, True)


def test_who_has_no_certificate_does_not_get_past_the_handshake(site: Site, tmp_path: Path) -> None:
    settings = read_settings(site.configure(tmp_path / "a", token=NO_TOKEN))
    with contextlib.suppress(ssl.SSLError):
        assert not connects(settings)


HOSTILE = {
    "nothing": b"",
    "no JSON": b"{",
    "no proof": b'{"schema":1,"csr":"x"}',
    "two proofs": b'{"schema":1,"csr":"x","token":"a","current":"b","signature":"AAAAAAAA"}',
    "another version": b'{"schema":2,"csr":"x","token":"a"}',
    "too long": b" " * 20_000,
    "no request": json.dumps({"schema": 1, "csr": "x", "token": "a"}).encode(),
    "deep": b"[" * 5000,
    "no text": b"\xff\xfe\x00",
}


def test_hostile_requests_are_counted_and_the_next_one_is_answered(
    site: Site, service: Running, tmp_path: Path
) -> None:
    file = site.configure(tmp_path / "dev", token=service.token("press-1"))
    assert provision(file).returncode == 0  # the service is there: it keeps no session
    at = ["-h", "127.0.0.1", "-p", str(site.first), "--cafile", str(site.ca.file)]
    who = ["-u", "edgeslm-provision", "-P", secret("edgeslm-provision")]
    known = {"schema": 1, "csr": versioned(Csr(None).der, 7), "token": service.token("press-2")}
    payloads = [*HOSTILE.values(), json.dumps(known).encode()]
    for payload in payloads:
        name = secrets.token_hex(16)
        topic = ["-t", f"{ROOT}/_fleet/provision/{name}", "-i", name, "-q", "1"]
        topic += ["-s"] if payload else ["-n"]
        argv = ["mosquitto_pub", *at, *who, *topic]
        subprocess.run(argv, input=payload, check=True, capture_output=True, timeout=20)
    eventually(lambda: sum(service.refused().values()) >= len(payloads), "refusals")
    reasons = {"malformed", "too_long", "provision.request", "provision.token_unknown"}
    assert set(service.refused()) <= reasons
    assert provision(file, "--renew").returncode == 0
    with reading(service.engine) as conn:
        assert [issued is not None for _, issued in identities.every(conn)] == [True, False]


# Killed.


def argv_of(file: Path) -> list[str]:
    return kills.python("-m", "edgeslm", "provision", "--config", str(file))


def hold(site: Site, service: Running, folder: Path, most: int) -> None:
    """Kill it before calls by which it changes the disk: in the end there is one certificate."""
    kills.need_strace()
    first = site.configure(folder / "counted", token=service.token("counted"))
    points = kills.points(argv_of(first), folder / "counted" / "state")
    assert len(points) > 15
    renewed = [*argv_of(first), "--renew"]
    of_renewal = kills.points(renewed, folder / "counted" / "state")
    for number, point in enumerate(kills.some(points, most)):
        name = f"d{number}"
        file = site.configure(folder / name, token=service.token(name))
        assert kills.kill(argv_of(file), point) == -9, point
        done = provision(file)
        assert done.returncode == 0, (point, done.stderr)
        whole(folder / name / "state")
        assert connects(load_settings(file), name)
    for point in kills.some(of_renewal, most):
        assert kills.kill(renewed, point) == -9, point
        assert connects(load_settings(first), "counted"), point  # the old or the new one
        done = provision(first, "--renew")
        assert done.returncode == 0, (point, done.stderr)
        whole(folder / "counted" / "state")
    with reading(service.engine) as conn:
        found = identities.every(conn)
    assert [enrolled.clones for enrolled, _ in found] == [0] * len(found)


def test_a_kill_leaves_what_the_next_run_goes_on_from(
    site: Site, service: Running, tmp_path: Path
) -> None:
    hold(site, service, tmp_path, 2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_kill_at_any_write_leaves_what_the_next_run_goes_on_from(
    site: Site, service: Running, tmp_path: Path
) -> None:
    hold(site, service, tmp_path, 1000)


def whole(state: Path) -> None:
    left = sorted(path.name for path in state.iterdir())
    assert left[-2:] == ["current", "lock"], left
    assert len(left) == 3, left
    files = sorted(path.name for path in (state / "current").iterdir())
    assert files == ["cert.pem", "identity.json", "key.pem"]
