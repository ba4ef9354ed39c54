"""Who gets a certificate: once by a token, again by the key in force, never a second machine."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from sqlalchemy import select

from edgeslm.contract.provision import CertificateReply
from edgeslm.core import provisioning as refused
from edgeslm.errors import EdgeSLMError
from edgeslm.fleet import enrolment
from edgeslm.fleet.database import events, identities
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.schema import audit, certificates
from edgeslm.fleet.database.schema import identities as table
from edgeslm.fleet.shown import fingerprint_of
from edgeslm.provision.errors import RevokedAtBrokerError
from tests.provision.kit import DAY_S, WE, Csr, Device, Fleet, LostError, request, versioned

A, B = "a" * 64, "b" * 64
Make = Callable[..., Device]


def signed(private: Any, csr: Csr) -> str:
    data = refused.SIGNED + csr.der
    return base64.b64encode(private.sign(data, ec.ECDSA(hashes.SHA256()))).decode()


def public_pem(private: Any) -> str:
    public = private.public_key()
    pem: bytes = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


# Tokens.


def test_a_token_lets_its_device_in(fleet: Fleet) -> None:
    token = fleet.enrol("press-1")["press-1"]
    csr = Csr("press-1")
    issued = fleet.answer(request(csr, token=token, device="press-1"))
    found = x509.load_pem_x509_certificate(issued.pem.encode())
    found.verify_directly_issued_by(fleet.authority.certificate())
    assert found.subject.rfc4514_string() == "CN=press-1"
    assert found.public_key() == csr.private.public_key()
    with reading(fleet.engine) as conn:
        said = [tuple(row) for row in conn.execute(select(audit.c.what, audit.c.who))]
        kept = str(conn.execute(select(table)).all())
    assert ("certificate.issued", "press-1") in said
    assert token not in kept  # a hash alone


def test_a_token_is_good_for_once_and_the_same_request_has_the_same_answer(fleet: Fleet) -> None:
    token = fleet.enrol("press-1")["press-1"]
    first = Csr("press-1")
    issued = fleet.answer(request(first, token=token))
    assert fleet.answer(request(first, token=token)) == issued
    with pytest.raises(refused.EnrolTokenUsedError):
        fleet.answer(request(Csr("press-1"), token=token))


def test_of_many_workers_that_see_one_token_one_uses_it(fleet: Fleet) -> None:
    token = fleet.enrol("press-1")["press-1"]
    asked = [request(Csr("press-1"), token=token) for _ in range(8)]

    def ask(number: int) -> str:
        try:
            return fleet.answer(asked[number]).serial
        except EdgeSLMError as err:
            return err.code

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert sorted(found)[1:] == ["provision.token_used"] * 7
    with reading(fleet.engine) as conn:
        assert len(conn.execute(select(certificates)).all()) == 1


def test_of_many_workers_that_see_one_certificate_one_renews_it(fleet: Fleet) -> None:
    token = fleet.enrol("press-1")["press-1"]
    first = Csr("press-1")
    issued = fleet.answer(request(first, token=token))
    new = [Csr("press-1") for _ in range(6)]
    asked = [
        request(each, current=issued.pem, signature=signed(first.private, each)) for each in new
    ]

    def ask(number: int) -> str:
        try:
            return fleet.answer(asked[number]).serial
        except EdgeSLMError as err:
            return err.code

    with ThreadPoolExecutor(6) as pool:
        found = sorted(pool.map(ask, range(6)))
    assert found[1:] == ["provision.cloned"] * 5
    assert fleet.seen("press-1").clones == 5


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"token": "edp_" + "x" * 43}, refused.EnrolTokenUnknownError),
        ({"token": ""}, refused.EnrolTokenUnknownError),
        ({"device": "press-2"}, refused.OtherDeviceError),
    ],
)
def test_what_lets_nobody_in(fleet: Fleet, more: dict[str, str], error: type[EdgeSLMError]) -> None:
    tokens = fleet.enrol("press-1", "press-2")
    with pytest.raises(error):
        fleet.answer(request(Csr("press-1"), **{"token": tokens["press-1"], **more}))
    fleet.answer(request(Csr("press-1"), token=tokens["press-1"]))  # nothing was used up


def test_a_request_in_anothers_name_is_refused(fleet: Fleet) -> None:
    token = fleet.enrol("press-1")["press-1"]
    with pytest.raises(refused.OtherDeviceError):
        fleet.answer(request(Csr("press-2"), token=token))
    assert fleet.answer(request(Csr(None), token=token)).device == "press-1"


def test_a_token_has_its_time(fleet: Fleet) -> None:
    token = fleet.enrol("press-1", days=2.0)["press-1"]
    fleet.clock.now += 3 * DAY_S
    with pytest.raises(refused.EnrolTokenExpiredError):
        fleet.answer(request(Csr("press-1"), token=token))
    fresh = fleet.enrol("press-1", again=True)["press-1"]
    assert fresh != token
    fleet.answer(request(Csr("press-1"), token=fresh))


# Requests.


def subject(*names: tuple[Any, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in names])


WEAK = {
    "a short RSA key": lambda: Csr("d", private=rsa.generate_private_key(65537, 1024)),  # noqa: S505 -- so
    "another curve": lambda: Csr("d", private=ec.generate_private_key(ec.SECP521R1())),
    "a subject of more": lambda: Csr(
        None, subject=subject((NameOID.COMMON_NAME, "d"), (NameOID.ORGANIZATION_NAME, "x"))
    ),
    "two names": lambda: Csr(
        None, subject=subject((NameOID.COMMON_NAME, "d"), (NameOID.COMMON_NAME, "edgeslm-fleet"))
    ),
    "no name of a device": lambda: Csr(None, subject=subject((NameOID.COUNTRY_NAME, "DE"))),
}


@pytest.mark.parametrize("make", WEAK.values(), ids=WEAK)
def test_a_request_must_hold(fleet: Fleet, make: Callable[[], Csr]) -> None:
    token = fleet.enrol("d")["d"]
    with pytest.raises(refused.CertificateRequestError):
        fleet.answer(request(make(), token=token))


def test_a_request_whose_sender_has_not_the_key_is_refused(fleet: Fleet) -> None:
    token = fleet.enrol("d")["d"]
    der = bytearray(Csr("d").der)
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der)).decode()
    pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"
    asked = request(Csr("d"), token=token).model_copy(update={"csr": pem})
    with pytest.raises(refused.CertificateRequestError):
        fleet.answer(asked)


def test_extensions_of_a_request_are_not_in_the_certificate(fleet: Fleet) -> None:
    token = fleet.enrol("d")["d"]
    wants = (
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName([x509.DNSName("broker.plant")]),
    )
    pem = fleet.answer(request(Csr("d", extensions=wants), token=token)).pem
    found = x509.load_pem_x509_certificate(pem.encode()).extensions
    assert found.get_extension_for_class(x509.BasicConstraints).value.ca is False
    with pytest.raises(x509.ExtensionNotFound):
        found.get_extension_for_class(x509.SubjectAlternativeName)


def test_no_two_devices_have_one_key(fleet: Fleet) -> None:
    tokens = fleet.enrol("d1", "d2")
    private = ec.generate_private_key(ec.SECP256R1())
    fleet.answer(request(Csr("d1", private=private), token=tokens["d1"]))
    with pytest.raises(refused.KeySharedError):
        fleet.answer(request(Csr("d2", private=private), token=tokens["d2"]))


@pytest.mark.parametrize("number", [1, 7, 0xFF])
def test_a_request_of_another_version_is_refused(fleet: Fleet, number: int) -> None:
    token = fleet.enrol("d")["d"]
    asked = request(Csr("d"), token=token)
    with pytest.raises(refused.CertificateRequestError):
        fleet.answer(asked.model_copy(update={"csr": versioned(Csr("d").der, number)}))


def test_a_certificate_of_another_version_renews_nothing(fleet: Fleet, device: Make) -> None:
    first = provisioned(fleet, device)
    file = first.state / "current" / "cert.pem"
    der = x509.load_pem_x509_certificate(file.read_bytes()).public_bytes(Encoding.DER)
    at = der.index(b"\xa0\x03\x02\x01\x02") + 4
    body = base64.encodebytes(der[:at] + b"\x07" + der[at + 1 :]).decode()
    file.write_text(f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")
    with pytest.raises(refused.CertificateUnknownError):
        first.run(renew=True)


def test_an_unknown_token_is_refused_before_anything_is_reckoned(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeslm.fleet.issuing.read_csr", lambda _: pytest.fail("looked at"))
    with pytest.raises(refused.EnrolTokenUnknownError):
        fleet.answer(request(Csr("d"), token="edp_" + "x" * 43))


@pytest.mark.parametrize("name", ["edgeslm-fleet", "Edgeslm-Provision", "unprovisioned"])
def test_no_certificate_says_the_name_of_who_is_no_device(fleet: Fleet, name: str) -> None:
    token = fleet.enrol(name)[name]  # past what `edgeslm fleet enroll` refuses
    with pytest.raises(refused.CertificateRequestError, match="called so"):
        fleet.answer(request(Csr(name), token=token))


# Factory keys.


def test_a_factory_key_names_its_device(fleet: Fleet) -> None:
    factory = ec.generate_private_key(ec.SECP384R1())
    fleet.enrol_key("press-9", fingerprint_of(factory.public_key()))
    csr = Csr(None)
    proof = {"factory_key": public_pem(factory), "signature": signed(factory, csr)}
    assert fleet.answer(request(csr, **proof)).device == "press-9"
    stolen = Csr(None)  # with a signature of another request
    with pytest.raises(refused.CertificateRequestError):
        fleet.answer(request(stolen, **proof))
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(refused.FactoryKeyUnknownError):
        fleet.answer(
            request(stolen, factory_key=public_pem(other), signature=signed(other, stolen))
        )
    same = Csr(None, private=factory)
    with pytest.raises(refused.CertificateRequestError, match="another"):
        fleet.answer(
            request(same, factory_key=public_pem(factory), signature=signed(factory, same))
        )


def test_a_device_that_was_reset_comes_back_by_its_factory_key_and_its_copy_does_not(
    fleet: Fleet,
) -> None:
    factory = ec.generate_private_key(ec.SECP256R1())
    fleet.enrol_key("d", fingerprint_of(factory.public_key()))

    def ask(machine: str) -> str:
        csr = Csr("d")
        proof = {"factory_key": public_pem(factory), "signature": signed(factory, csr)}
        return fleet.answer(request(csr, machine=(machine,), **proof)).serial

    assert ask(A) != ask(A)
    with pytest.raises(refused.DeviceClonedError):
        ask(B)
    assert fleet.seen("d").clones == 1
    fleet.enrol_key("d", fingerprint_of(factory.public_key()), again=True)  # a new board
    ask(B)


def test_ed25519_is_a_factory_key(fleet: Fleet, device: Make) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    fleet.enrol_key("d", fingerprint_of(private.public_key()))
    made = device("d")
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (made.folder / "factory.pem").write_bytes(pem)
    made.provision["factory_key_file"] = str(made.folder / "factory.pem")
    assert made.run().identity.device == "d"


# Copies and revocation, by whole devices.


def provisioned(fleet: Fleet, device: Make, name: str = "d") -> Device:
    made = device(name)
    made.token(fleet.enrol(name)[name])
    made.run()
    return made


def copied(of: Device, device: Make, **more: Any) -> Device:
    twin = device("twin", **more)
    shutil.copytree(of.state, twin.state, symlinks=True)
    return twin


def test_a_copy_on_other_hardware_is_noticed_and_refused(fleet: Fleet, device: Make) -> None:
    first = provisioned(fleet, device)
    twin = copied(first, device, machine="b")
    with pytest.raises(refused.DeviceClonedError, match="hardware"):
        twin.run(renew=True)
    seen = fleet.seen("d")
    assert (seen.clones, "hardware" in seen.cloned_why) == (1, True)
    with reading(fleet.engine) as conn:
        told = events.newest(conn, device="d", limit=5)
    assert [(each.event, each.code) for each in told] == [("identity_cloned", "provision.cloned")]
    first.run(renew=True)  # the first goes on


def test_a_copy_whose_hardware_says_nothing_is_noticed_when_both_have_renewed(
    fleet: Fleet, device: Make
) -> None:
    first = provisioned(fleet, device)
    twin = copied(first, device)
    first.run(renew=True)
    with pytest.raises(refused.DeviceClonedError, match="renewed since"):
        twin.run(renew=True)
    assert fleet.seen("d").clones == 1
    first.run(renew=True)


def test_hardware_is_the_same_while_one_of_its_names_is(fleet: Fleet, device: Make) -> None:
    first = device("d", machine="abc")
    first.token(fleet.enrol("d")["d"])
    first.run()
    for machine in ("cd", "b", "ea"):  # parts were changed, or not all could be read
        first.machine = tuple(each * 64 for each in machine)
        first.run(renew=True)
    first.machine = ("d" * 64,)  # what came later does not count
    with pytest.raises(refused.DeviceClonedError, match="hardware"):
        first.run(renew=True)


def test_a_copy_that_does_not_say_its_hardware_is_refused(fleet: Fleet, device: Make) -> None:
    first = provisioned(fleet, device)
    twin = copied(first, device, machine="")
    for machine in ((), (), (B,)):
        twin.machine = machine
        with pytest.raises(refused.DeviceClonedError, match="hardware"):
            twin.run(renew=True)
    first.run(renew=True)


def test_hardware_that_said_nothing_at_first_is_held_to_what_it_says(
    fleet: Fleet, device: Make
) -> None:
    first = device("d", machine="")
    first.token(fleet.enrol("d")["d"])
    first.run()
    first.run(renew=True)
    assert fleet.seen("d").machine is None
    first.machine = (A,)
    first.run(renew=True)
    assert fleet.seen("d").machine == A
    first.machine = (B,)
    with pytest.raises(refused.DeviceClonedError):
        first.run(renew=True)
    assert fleet.seen("d").machine == A


def test_of_a_copy_that_asks_and_asks_one_event_an_hour_is_told(fleet: Fleet, device: Make) -> None:
    twin = copied(provisioned(fleet, device), device, machine="b")
    fleet.clock.now = fleet.clock.now // 3600.0 * 3600.0 + 3600.0
    for _ in range(12):  # for three hours
        with pytest.raises(refused.DeviceClonedError):
            twin.run(renew=True)
        fleet.clock.now += 900.0
    with reading(fleet.engine) as conn:
        told = events.newest(conn, device="d", limit=50)
    assert (fleet.seen("d").clones, len(told)) == (12, 3)


def test_a_copy_of_a_device_that_was_not_provisioned_yet_is_noticed(
    fleet: Fleet, device: Make
) -> None:
    token = fleet.enrol("d")["d"]
    first, twin = device("d"), device("twin", machine="b")
    for each in (first, twin):
        each.token(token)
    first.run()
    with pytest.raises(refused.EnrolTokenUsedError, match="other hardware"):
        twin.run()
    assert fleet.seen("d").clones == 1


def test_who_was_revoked_gets_nothing_until_enrolled_anew(fleet: Fleet, device: Make) -> None:
    first = provisioned(fleet, device)
    with reading(fleet.engine) as conn:
        assert identities.revoked(conn) == []
        assert identities.ended(conn, fleet.clock.now) == []
    enrolment.revoke(fleet.engine, ["d"], actor=WE, now=fleet.clock.now)
    with pytest.raises(refused.DeviceRevokedError):
        first.run(renew=True)
    with reading(fleet.engine) as conn:
        assert identities.revoked(conn) == ["d"]
        ended = identities.ended(conn, fleet.clock.now)
    assert [serial for serial, _ in ended] == [first_serial(first)]
    crl = x509.load_pem_x509_crl(fleet.authority.revoked_list(ended))
    assert [f"{each.serial_number:x}" for each in crl] == [first_serial(first)]
    token = fleet.enrol("d", again=True)["d"]
    with pytest.raises(refused.DeviceRevokedError):  # its old certificate stays revoked
        first.run(renew=True)
    shutil.rmtree(first.state)
    first.token(token)
    first.run()
    with reading(fleet.engine) as conn:
        assert identities.revoked(conn) == []


def test_who_was_revoked_and_enrolled_anew_comes_by_what_let_it_in(
    fleet: Fleet, device: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = provisioned(fleet, device)
    enrolment.revoke(fleet.engine, ["d"], actor=WE, now=fleet.clock.now)
    before = first_serial(first)
    with pytest.raises(refused.DeviceRevokedError):  # with a token that was used
        first.run(renew=True)
    first.token(fleet.enrol("d", again=True)["d"])
    ask = fleet.ask

    def loses(*said: Any) -> CertificateReply:
        if (reply := ask(*said)).certificate is not None:
            raise LostError
        return reply

    with monkeypatch.context() as patch:
        patch.setattr(fleet, "ask", loses)
        with pytest.raises(LostError):
            first.run(renew=True)
    asked = fleet.asked[-1]
    assert first.run(renew=True).renewed
    assert fleet.asked[-1] == asked  # the same again, and not a token that has been used
    assert first_serial(first) != before
    assert first.run(renew=True).renewed


def test_who_is_on_a_brokers_list_asks_the_fleet_without_being_told_to(
    fleet: Fleet, device: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = provisioned(fleet, device)
    enrolment.revoke(fleet.engine, ["d"], actor=WE, now=fleet.clock.now)
    assert not first.run().renewed  # no broker says anything yet

    def listed(*_: object) -> str:
        msg = "by the list"
        raise RevokedAtBrokerError(msg)

    monkeypatch.setattr(fleet, "hear", listed)
    with pytest.raises(refused.DeviceRevokedError):
        first.run()
    first.token(fleet.enrol("d", again=True)["d"])
    assert first.run().renewed
    monkeypatch.undo()
    assert not first.run().renewed


def test_a_new_board_is_enrolled_anew_and_comes_by_its_token(fleet: Fleet, device: Make) -> None:
    first = provisioned(fleet, device)
    first.machine = (B,)
    with pytest.raises(refused.DeviceClonedError):  # without being asked to
        first.run()
    first.machine = ()  # of which nothing can be read today
    assert not first.run().renewed
    first.machine = (B,)
    first.token(fleet.enrol("d", again=True)["d"])
    assert first.run().renewed
    assert not first.run().renewed
    assert fleet.seen("d").machine == B


def test_what_was_replaced_is_listed_once_its_successor_has_arrived(
    fleet: Fleet, device: Make
) -> None:
    first = provisioned(fleet, device)
    before = first_serial(first)
    fleet.lose = 1
    with pytest.raises(LostError):
        first.run(renew=True)

    def listed() -> list[str]:
        with reading(fleet.engine) as conn:
            return [serial for serial, _ in identities.ended(conn, fleet.clock.now)]

    assert listed() == []  # it is all that the device has
    fleet.clock.now += identities.LISTED_AFTER_S
    assert listed() == [before]


def first_serial(device: Device) -> str:
    pem = (device.state / "current" / "cert.pem").read_bytes()
    return f"{x509.load_pem_x509_certificate(pem).serial_number:x}"


def test_an_unused_token_of_a_revoked_device_lets_nobody_in(fleet: Fleet) -> None:
    token = fleet.enrol("d")["d"]
    enrolment.revoke(fleet.engine, ["d"], actor=WE, now=fleet.clock.now)
    with pytest.raises(refused.DeviceRevokedError):
        fleet.answer(request(Csr("d"), token=token))


def test_an_authority_whose_certificate_was_lost_is_the_same_again(
    fleet: Fleet, device: Make
) -> None:
    first = provisioned(fleet, device)
    file = fleet.repository.folder / "devices.pem"
    before = x509.load_pem_x509_certificate(file.read_bytes())
    file.unlink()
    fleet.authority = type(fleet.authority)(fleet.repository)
    fleet.authority.make()
    after = fleet.authority.certificate()
    assert (after.subject, after.public_key()) == (before.subject, before.public_key())
    assert first.run(renew=True).renewed


def test_under_another_authority_a_device_comes_by_its_factory_key(
    fleet: Fleet, device: Make
) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    fleet.enrol_key("d", fingerprint_of(private.public_key()))
    first = device("d")
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (first.folder / "factory.pem").write_bytes(pem)
    first.provision["factory_key_file"] = str(first.folder / "factory.pem")
    first.run()
    for file in ("devices.pem", "keys/devices.pem"):
        (fleet.repository.folder / file).unlink()
    fleet.authority = type(fleet.authority)(fleet.repository)
    fleet.authority.make()
    assert first.run(renew=True).renewed
    found = x509.load_pem_x509_certificate((first.state / "current" / "cert.pem").read_bytes())
    found.verify_directly_issued_by(fleet.authority.certificate())


def test_a_certificate_of_another_fleet_renews_nothing(fleet: Fleet, device: Make) -> None:
    first = provisioned(fleet, device)
    with fleet.engine.begin() as conn:  # as if another had given it
        conn.execute(certificates.delete())
    with pytest.raises(refused.CertificateUnknownError):
        first.run(renew=True)
