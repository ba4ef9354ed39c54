"""What anybody may send who may ask for a certificate, what comes back, and batches of devices."""

from __future__ import annotations

import base64
import contextlib
import time
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from edgeslm.contract.provision import CertificateReply, CertificateRequest
from edgeslm.core.provisioning import (
    CertificateRequestError,
    CertificateUnknownError,
    reserved,
)
from edgeslm.fleet.authority import Authority
from edgeslm.fleet.enrolment import BatchError, read_batch
from edgeslm.fleet.shown import read_csr, read_issued
from edgeslm.provision.errors import WrongCertificateError
from edgeslm.provision.folder import Pending
from edgeslm.provision.provision import certificate_of
from tests.fleet import kit
from tests.fuzz.harness import fuzz
from tests.provision.kit import Csr, versioned


def armoured(der: bytes, what: str) -> str:
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN {what}-----\n{body}-----END {what}-----\n"


def requests() -> list[Csr]:
    wants = (
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName([x509.DNSName("broker.plant")]),
    )
    many = x509.Name(
        [x509.NameAttribute(oid, "DE") for oid in (NameOID.COUNTRY_NAME, NameOID.COMMON_NAME)]
    )
    return [
        Csr("press-1"),
        Csr(None, private=ec.generate_private_key(ec.SECP384R1())),
        Csr("d", extensions=wants),
        Csr("d", private=rsa.generate_private_key(65537, 2048)),
        Csr(None, subject=many),
    ]


def test_csr(targets: int) -> None:
    """Of a real one, DER: what PEM says badly is not looked at further."""

    def parse(der: bytes) -> None:
        found = read_csr(armoured(der, "CERTIFICATE REQUEST"))
        assert len(found.hash) == 64

    fuzz(
        parse,
        [each.der for each in requests()[:4]],
        allowed=(CertificateRequestError,),
        targets=targets,
    )


def test_csr_as_text(targets: int) -> None:
    def parse(raw: bytes) -> None:
        read_csr(raw.decode("utf-8", "replace"))

    seeds = [each.pem.encode() for each in requests()[:4]]
    fuzz(parse, seeds, allowed=(CertificateRequestError,), targets=targets)


def test_a_bit_of_a_csr_is_refused_or_was_not_what_is_signed() -> None:
    """Each, of one: a version that there is not is one of them."""
    der = requests()[0].der
    whole = read_csr(armoured(der, "CERTIFICATE REQUEST"))
    for bit in range(8 * len(der)):
        damaged = bytearray(der)
        damaged[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(CertificateRequestError):
            found = read_csr(armoured(bytes(damaged), "CERTIFICATE REQUEST"))
            assert (found.public, found.name) == (whole.public, whole.name)
    for number in range(1, 256):
        with pytest.raises(CertificateRequestError):
            read_csr(versioned(der, number))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(kit.make(tmp_path_factory.mktemp("authority") / "fleet"))
    made.make()
    return made


def issued(authority: Authority) -> x509.Certificate:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return x509.load_pem_x509_certificate(authority.issue("d", public, time.time()).pem.encode())


def test_certificate_in_force(authority: Authority, targets: int) -> None:
    der = issued(authority).public_bytes(Encoding.DER)

    def parse(raw: bytes) -> None:
        read_issued(armoured(raw, "CERTIFICATE"))

    fuzz(parse, [der], allowed=(CertificateUnknownError,), targets=targets)


def test_certificate_request(targets: int) -> None:
    csr = Csr("d").pem
    proofs = (
        {"token": "edp_x"},
        {"factory_key": "k", "signature": "AAAAAAAA"},
        {"current": "c", "signature": "AAAAAAAA"},
    )
    seeds = [
        CertificateRequest.model_validate(
            {"schema": 1, "csr": csr, "device": "d", "machine": ("a" * 64,), **proof}
        )
        .model_dump_json(by_alias=True, exclude_none=True)
        .encode()
        for proof in proofs
    ]

    def parse(raw: bytes) -> None:
        found = CertificateRequest.model_validate_json(raw)
        given = [found.token, found.factory_key, found.current]
        assert sum(each is not None for each in given) == 1
        assert (found.token is None) is (found.signature is not None)

    fuzz(parse, seeds, allowed=(ValidationError,), targets=targets)


def test_certificate_reply(authority: Authority, targets: int) -> None:
    """What a broker may invent: it is taken for our key and our name, or not at all."""
    private = ec.generate_private_key(ec.SECP256R1())
    csr = Csr("d", private=private)
    ours = authority.issue("d", private.public_key(), time.time()).pem
    request = "0" * 32
    pending = Pending(request=request, device="d", csr=csr.pem)
    said = {"schema": 1, "request": request, "time": 1.0}
    error = {"code": "provision.revoked", "message": "m"}
    seeds = [
        CertificateReply.model_validate({**said, **more}).model_dump_json(by_alias=True).encode()
        for more in ({"device": "d", "certificate": ours}, {"error": error})
    ]

    def parse(raw: bytes) -> None:
        reply = CertificateReply.model_validate_json(raw)
        if reply.certificate is not None:
            assert certificate_of(reply, pending, None, ()).device == "d"

    fuzz(parse, seeds, allowed=(ValidationError, WrongCertificateError), targets=targets)


def test_certificate_of_a_reply(authority: Authority, targets: int) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pending = Pending(request="0" * 32, device="d", csr=Csr("d", private=private).pem)
    ours = authority.issue("d", private.public_key(), time.time()).pem
    der = x509.load_pem_x509_certificate(ours.encode()).public_bytes(Encoding.DER)

    def parse(raw: bytes) -> None:
        said: dict[str, Any] = {"schema": 1, "request": "0" * 32, "time": 1.0, "device": "d"}
        said["certificate"] = armoured(raw, "CERTIFICATE")
        reply = CertificateReply.model_validate_json(
            CertificateReply(**said).model_dump_json(by_alias=True)
        )
        assert certificate_of(reply, pending, None, ()).device == "d"

    fuzz(parse, [der], allowed=(ValidationError, WrongCertificateError), targets=targets)


def public_pem() -> str:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_batch(targets: int) -> None:
    key = "ab" * 32
    seeds = [
        f"device,factory_key\npress-1,\npress-2,{key}\n".encode(),
        b"\xef\xbb\xbfdevice\r\na\r\nb\r\n",
        f'"a",sha256:{key}\n"b","{public_pem()}"\n'.encode(),
    ]

    def parse(raw: bytes) -> None:
        found = read_batch(raw, file="batch.csv")
        assert found
        names = [each.device for each in found]
        assert len(set(names)) == len(names)
        assert not any(map(reserved, names))

    fuzz(parse, seeds, allowed=(BatchError,), targets=targets)
