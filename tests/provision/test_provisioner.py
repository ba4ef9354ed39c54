"""A device does what is due, goes on where it was stopped, and stays who it is."""

from __future__ import annotations

import grp
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeslm.contract.identity import Identity, read_identity
from edgeslm.contract.provision import CertificateReply, CertificateRequest
from edgeslm.contract.settings import load_settings, read_settings
from edgeslm.core import provisioning as refused
from edgeslm.errors import ConfigError, EdgeSLMError
from edgeslm.provision.errors import (
    ProvisionBusyError,
    ProvisionDiskError,
    WrongCertificateError,
)
from edgeslm.provision.folder import Folder
from edgeslm.provision.machine import machine
from edgeslm.provision.provision import Due, due
from tests.provision.kit import DAY_S, Device, Fleet, LostError

Make = Callable[..., Device]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")


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


def test_other_hardware_is_asked_about_and_hardware_that_says_nothing_is_not() -> None:
    held = HELD.model_copy(update={"machine": ("a" * 64, "b" * 64)})
    assert due(held, 0.0, 0.66, machine=("c" * 64,)) is Due.MOVED
    assert due(held, 0.0, 0.66, machine=("c" * 64, "b" * 64)) is None
    assert due(held, 0.0, 0.66, machine=()) is None
    assert due(HELD, 0.0, 0.66, machine=("c" * 64,)) is None  # of before this was kept


def test_a_key_is_the_groups_to_read_where_the_unit_may_set_no_bits(
    started: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RestrictSUIDSGID= of the unit refuses them."""
    real = Path.chmod

    def chmod(path: Path, mode: int) -> None:
        if mode & 0o7000:
            raise PermissionError(1, "Operation not permitted", str(path))
        real(path, mode)

    monkeypatch.setattr(Path, "chmod", chmod)
    started.provision["group"] = grp.getgrgid(os.getegid()).gr_name
    started.run()
    held = (started.state, started.state / "current/", started.state / "current" / "key.pem")
    assert [path.stat().st_mode & 0o7777 for path in held] == [0o750, 0o750, 0o640]
    assert {path.stat().st_gid for path in held} == {os.getegid()}


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
    assert caught.value.exit_status == 75  # it will be told: units go on trying


def test_a_wrong_id_is_corrected_and_asked_anew(started: Device) -> None:
    started.id = "other"
    with pytest.raises(refused.OtherDeviceError):
        started.run()
    started.id = "d"
    assert started.run().renewed


def test_settings_are_completed_with_what_it_got(started: Device) -> None:
    started.run()
    file = started.folder / "agent.toml"
    file.write_text(file.read_text() + '\n[uplink.tls]\nca_file = "/ca"\n[provision.broker]\n')
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


def test_hardware_is_known_by_each_of_its_serials_and_addresses(tmp_path: Path) -> None:
    assert machine(tmp_path) == ()
    network = tmp_path / "sys/class/net/eth0"
    (network / "device").mkdir(parents=True)
    (network / "address").write_text("02:00:00:00:00:01\n")
    by_address = machine(tmp_path)
    assert len(by_address) == 1
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    serial = tmp_path / "proc/device-tree/serial-number"
    serial.write_bytes(b"0000000000000000\0")
    assert machine(tmp_path) == by_address  # zeros are nobody's
    serial.write_bytes(b"10000000abcdef01\0")
    found = machine(tmp_path)
    assert (len(found), set(by_address) < set(found)) == (2, True)
    board = tmp_path / "sys/class/dmi/id"
    board.mkdir(parents=True)
    for name in ("product_uuid", "board_serial"):  # the same text is another name
        (board / name).write_text("4c4c4544-0042\n")
    assert (len(set(machine(tmp_path))), set(found) < set(machine(tmp_path))) == (4, True)


@pytest.mark.parametrize(
    "serial",
    [
        *("03000200-0400-0500-0006-000700080009", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"),
        *("00000000-0000-0000-0000-000000000000", "To Be Filled By O.E.M.", "Default string"),
        *("xxxxxxxx", "..............", "N/A"),
    ],
)
def test_what_makers_leave_there_is_nobodys_name(tmp_path: Path, serial: str) -> None:
    board = tmp_path / "sys/class/dmi/id"
    board.mkdir(parents=True)
    (board / "product_uuid").write_text(f"{serial}\n")
    assert machine(tmp_path) == ()


def test_network_hardware_that_is_plugged_in_or_has_a_drawn_address_is_no_name(
    tmp_path: Path,
) -> None:
    for number, (bus, assigned) in enumerate((("pci0", "0"), ("pci0/usb1", "0"), ("pci0", "3"))):
        device = tmp_path / "sys/devices" / bus / f"eth{number}"
        device.mkdir(parents=True)
        interface = tmp_path / f"sys/class/net/eth{number}"
        interface.mkdir(parents=True)
        (interface / "device").symlink_to(device)
        (interface / "address").write_text(f"00:a0:c9:00:00:0{number}\n")
        (interface / "addr_assign_type").write_text(f"{assigned}\n")
    (tmp_path / "sys/class/net/lo").mkdir()
    assert len(machine(tmp_path)) == 1


# The folder.


def test_the_umask_takes_the_key_from_nobody(started: Device) -> None:
    started.provision["group"] = grp.getgrgid(os.getegid()).gr_name
    before = os.umask(0o077)
    try:
        started.run()
    finally:
        os.umask(before)
    held = (started.state, started.state / "current/", started.state / "current" / "key.pem")
    assert [path.stat().st_mode & 0o777 for path in held] == [0o750, 0o750, 0o640]


@needs_root
def test_another_users_folder_is_not_taken(started: Device) -> None:
    started.state.mkdir()
    os.chown(started.state, 12345, -1)
    with pytest.raises(ProvisionDiskError, match="user 12345's"):
        started.run()
    assert not started.fleet.asked


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_may_write_is_not_taken(started: Device, mode: int) -> None:
    started.state.mkdir()
    started.state.chmod(mode)
    with pytest.raises(ProvisionDiskError, match="others may write"):
        started.run()


def test_a_token_that_any_user_may_have_written_is_not_taken(started: Device) -> None:
    (started.folder / "token").chmod(0o666)
    with pytest.raises(ConfigError, match=r"token_file.*every user") as caught:
        started.run()
    assert caught.value.exit_status == 78


# Settings.

HARDWARE = "[uplink.tls]\n[provision.broker]\n[provision.pkcs11]\n@"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[uplink]\nhost = "broker.plant"\n[provision]\n', "uplink.tls"),
        ('[uplink]\nothers = ["broker.plant"]\n[provision]\n', "uplink.tls"),
        ("[uplink.tls]\n[provision]\n", "provision.broker"),
        ('[uplink]\nhost = "broker.plant"\n[provision.pkcs11]\n@', "uplink.tls"),
        (f'[uplink]\ntransport = "websockets"\n{HARDWARE}', "stunnel"),
        (f'[uplink.proxy]\nhost = "x"\nport = 1080\n{HARDWARE}', "stunnel"),
    ],
)
def test_settings_by_which_the_certificate_would_not_be_used_are_refused(
    tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text.replace("@", 'module = "/m"\ntoken = "t"\npin_file = "/p"\n'))
    with pytest.raises(ConfigError, match=says):
        read_settings(file)


@pytest.mark.parametrize(
    "text",
    [
        "[provision]\n",  # beside a broker
        '[uplink]\nhost = "b"\nusername = "u"\npassword = "p"\n[uplink.tls]\n[provision]\n',
        '[uplink]\nhost = "b"\n[uplink.tls]\n[provision.broker]\n',
        '[uplink]\nhost = "b"\n',
    ],
)
def test_settings_that_say_enough(tmp_path: Path, text: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f'device_id = "d"\n{text}')
    read_settings(file)


# What comes from anywhere.

TEXT = st.text(max_size=60)
PROOFS: dict[str, dict[str, Any]] = {
    "token": {"token": "edp_x"},
    "factory_key": {"factory_key": "k", "signature": "AAAAAAAA"},
    "current": {"current": "c", "signature": "AAAAAAAA"},
}
OF_PROOFS = ("token", "factory_key", "current", "signature")
WHOLE = {"schema": 1, "device": "d", "csr": "x", "machine": ["a" * 64]}


@given(
    st.sampled_from(sorted(PROOFS)),
    st.dictionaries(st.sampled_from(OF_PROOFS), st.one_of(st.none(), st.just("AAAAAAAA"))),
)
def test_a_request_has_one_proof_or_is_refused(kind: str, more: dict[str, Any]) -> None:
    said = {**WHOLE, **PROOFS[kind], **more}
    given = {key for key in OF_PROOFS if said.get(key) is not None}
    try:
        found = CertificateRequest.model_validate_json(json.dumps(said))
    except ValidationError:
        assert given not in ({"token"}, {"factory_key", "signature"}, {"current", "signature"})
        return
    assert {key for key in OF_PROOFS if getattr(found, key) is not None} == given
    assert given in ({"token"}, {"factory_key", "signature"}, {"current", "signature"})


@given(TEXT, TEXT)
def test_any_refusal_is_an_error_of_ours(code: str, message: str) -> None:
    assert isinstance(refused.refusal(code, message), EdgeSLMError)
