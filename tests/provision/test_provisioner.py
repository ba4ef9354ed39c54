"""A device does what is due, goes on where it was stopped, and stays who it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeslm.contract.identity import Identity, read_identity
from edgeslm.contract.provision import CertificateReply, CertificateRequest
from edgeslm.contract.settings import load_settings
from edgeslm.core import provisioning as refused
from edgeslm.errors import ConfigError, EdgeSLMError
from edgeslm.fleet.authority import read_csr
from edgeslm.provision.errors import ProvisionBusyError, WrongCertificateError
from edgeslm.provision.folder import Folder
from edgeslm.provision.machine import machine
from edgeslm.provision.provision import Due, due
from tests.provision.kit import DAY_S, Device, Fleet, LostError

Make = Callable[..., Device]


@pytest.fixture
def started(fleet: Fleet, device: Make) -> Device:
    """A device with a token."""
    made = device("d")
    made.token(fleet.enrol("d")["d"])
    return made


HELD = Identity(device="d", serial="1", not_before=1000.0, not_after=2000.0)


@pytest.mark.parametrize(
    ("now", "found"),
    [
        (0.0, None),  # 1970: the clock is to be set, and the certificate is good
        (999.0, None),
        (1600.0, None),
        (1661.0, Due.SOON),
        (2001.0, Due.EXPIRED),
    ],
)
def test_what_is_due_when(now: float, found: Due | None) -> None:
    assert due(HELD, now, 0.66, asked=False) is found
    assert due(HELD, now, 0.66, asked=True) is Due.ASKED
    assert due(None, now, 0.66, asked=False) is Due.FIRST


def test_a_key_is_for_its_owner_alone_and_new_each_time(started: Device) -> None:
    started.run()
    key = started.state / "current" / "key.pem"
    first = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    assert started.state.stat().st_mode & 0o777 == 0o700
    outcome = started.run()
    assert (outcome.renewed, key.read_bytes()) == (False, first)
    started.clock.now = started.fleet.clock.now = started.clock.now + 250 * DAY_S
    outcome = started.run()
    assert (outcome.renewed, key.read_bytes() == first) == (True, False)
    assert sorted(path.name for path in started.state.iterdir()) == ["2", "current", "lock"]


def test_a_lost_answer_is_asked_for_again_and_is_the_same(started: Device, fleet: Fleet) -> None:
    for renew in (False, True):
        fleet.lose = 2
        for _ in range(2):
            with pytest.raises(LostError):
                started.run(renew=renew)
        serial = started.run(renew=renew).identity.serial
        assert len({each.csr for each in fleet.asked[-3:]}) == 1
        assert started.run().identity.serial == serial
    assert fleet.seen("d").clones == 0


def test_a_certificate_that_has_expired_is_renewed_by_its_key(started: Device) -> None:
    started.run()
    started.clock.now = started.fleet.clock.now = started.clock.now + 900 * DAY_S
    assert started.run().renewed


def test_a_clock_that_is_behind_takes_nothing_away(started: Device) -> None:
    started.clock.now = 0.0
    outcome = started.run()  # it gets its certificate, not valid yet by its own clock
    assert (outcome.renewed, outcome.clock_behind) == (True, True)
    outcome = started.run()
    assert (outcome.renewed, outcome.clock_behind) == (False, True)


def test_the_fleet_says_who_it_is_and_it_stays_that(started: Device) -> None:
    assert started.run().identity.device == "d"
    started.id = "a-new-hostname"
    outcome = started.run(renew=True)
    assert outcome.identity.device == "d"
    assert load_settings(started.folder / "agent.toml").device_id == "d"


def test_who_has_not_been_told_who_it_is_cannot_run(started: Device) -> None:
    started.settings()
    with pytest.raises(ConfigError, match="has not been told") as caught:
        load_settings(started.folder / "agent.toml")
    assert caught.value.exit_status == 78


def test_a_wrong_id_is_corrected_and_asked_anew(started: Device) -> None:
    started.id = "other"
    with pytest.raises(refused.OtherDeviceError):
        started.run()
    started.id = "d"
    assert started.run().renewed


def test_settings_are_completed_with_what_it_got(started: Device) -> None:
    started.run()
    file = started.folder / "agent.toml"
    file.write_text(file.read_text() + '\n[uplink.tls]\nca_file = "/ca"\n')
    tls = load_settings(file).uplink.tls
    assert tls is not None
    assert (tls.cert_file, tls.key_file) == (
        started.state / "current" / "cert.pem",
        started.state / "current" / "key.pem",
    )


def test_one_at_a_time(started: Device) -> None:
    with Folder(started.state, None).held(), pytest.raises(ProvisionBusyError):
        started.run()


def test_a_certificate_of_another_key_or_name_is_not_taken(
    started: Device, fleet: Fleet, device: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = device("other")
    other.token(fleet.enrol("other")["other"])
    other.run()
    theirs = (other.state / "current" / "cert.pem").read_text()
    ask = fleet.ask

    def lies(*said: Any) -> CertificateReply:
        return ask(*said).model_copy(update={"certificate": wrong})

    monkeypatch.setattr(fleet, "ask", lies)
    nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for wrong in (theirs, "", nonsense):  # noqa: B007 -- `lies` has it
        with pytest.raises(WrongCertificateError):
            started.run()
    monkeypatch.undo()
    assert started.run().renewed


@pytest.mark.parametrize(
    ("provision", "says"),
    [
        ({}, "neither token_file nor factory_key_file"),
        ({"token_file": "/nowhere"}, "provision.token_file: /nowhere"),
        ({"factory_key_file": "/dev/null"}, "no private key"),
        ({"token_file": "/dev/null"}, "holds no token"),
        ({"token_file": "/x", "group": "no-such-group"}, "no such group"),
        ({"token_file": "/x", "factory_key_file": "/y"}, "not both"),
        ({"broker": "example.org"}, "in clear"),
    ],
)
def test_settings_that_do_not_say_how(device: Make, provision: dict[str, Any], says: str) -> None:
    made = device("d", **{k: v for k, v in provision.items() if k != "broker"})
    if "broker" in provision:  # with a token that there is
        made.token("x")
        made.more = f"[provision.broker]\nhost = {json.dumps(provision['broker'])}\n"
    with pytest.raises(ConfigError, match=says) as caught:
        made.run()
    assert caught.value.exit_status == 78


@pytest.mark.parametrize("damage", [b"", b"{", b'{"device": "/"}', b"\xff"])
def test_an_identity_that_is_damaged_is_said(started: Device, damage: bytes) -> None:
    started.run()
    (started.state / "current" / "identity.json").write_bytes(damage)
    with pytest.raises(ConfigError, match=r"identity\.json"):
        read_identity(started.state)


# Hardware.


def test_hardware_is_known_by_its_serial_before_its_addresses(tmp_path: Path) -> None:
    assert machine(tmp_path) is None
    network = tmp_path / "sys/class/net/eth0"
    (network / "device").mkdir(parents=True)
    (network / "address").write_text("02:00:00:00:00:01\n")
    by_address = machine(tmp_path)
    assert by_address is not None
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    serial = tmp_path / "proc/device-tree/serial-number"
    serial.write_bytes(b"0000000000000000\0")
    assert machine(tmp_path) == by_address  # zeros are nobody's
    serial.write_bytes(b"10000000abcdef01\0")
    assert machine(tmp_path) not in {by_address, None}


# What comes from anywhere.

TEXT = st.text(max_size=60)
SAID = st.dictionaries(
    st.sampled_from(["schema", "device", "csr", "machine", "token", "current", "signature"]),
    st.one_of(TEXT, st.integers(), st.none(), st.just(1)),
)


@given(SAID)
def test_any_object_is_a_request_or_refused(said: dict[str, Any]) -> None:
    try:
        found = CertificateRequest.model_validate_json(json.dumps(said))
    except ValidationError:
        return
    assert (found.token is None) == (found.signature is not None)


@given(st.one_of(TEXT, st.binary(max_size=300).map(lambda raw: raw.decode("latin-1"))))
def test_any_text_is_a_csr_or_refused(text: str) -> None:
    head, foot = "-----BEGIN CERTIFICATE REQUEST-----\n", "\n-----END CERTIFICATE REQUEST-----\n"
    for pem in (text, head + text + foot):
        with pytest.raises(refused.CertificateRequestError):
            read_csr(pem)


@given(TEXT, TEXT)
def test_any_refusal_is_an_error_of_ours(code: str, message: str) -> None:
    assert isinstance(refused.refusal(code, message), EdgeSLMError)
