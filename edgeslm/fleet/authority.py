"""The fleet's authority over its devices: a key of the repository, and certificates signed by it.

`keys/devices.pem` is the key, encrypted like the others; `devices.pem` its certificate, which
brokers hold devices' certificates against. Of a request only its key counts: everything else in a
certificate is ours.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgeslm.adapters.fs import write_durably
from edgeslm.core.provisioning import (
    SIGNED,
    CertificateRequestError,
    CertificateUnknownError,
    FactoryKeyUnknownError,
    IssuingUnavailableError,
    reserved,
)
from edgeslm.fleet.errors import FleetDamagedError, KeyInvalidError
from edgeslm.fleet.repository import Repository

CERTIFICATE: Final = "devices.pem"
KEY: Final = "devices"
LIFE_DAYS: Final = 25 * 365
BACKDATED_S: Final = 3600.0  # for brokers whose clocks are slow
CURVES: Final = ("secp256r1", "secp384r1")
RSA_BITS: Final = range(2048, 4097)
_DAY_S: Final = 86_400.0
_READABLE: Final = 0o644
_RESTORE: Final = "Restore it from a copy."
# Of whatever cryptography cannot read; a version that it does not know is no ValueError.
_UNREADABLE: Final = (
    *(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm),
    x509.InvalidVersion,
)
_NOT_HOLDING: Final = "the signature of the request does not hold"


@dataclass(frozen=True, slots=True)
class Csr:
    """A request whose sender has the key.

    Args:
        public: the key.
        der: all of it.
        name: whom its subject names; None: nobody.
    """

    public: PublicKeyTypes
    der: bytes
    name: str | None

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.der).hexdigest()


@dataclass(frozen=True, slots=True)
class Certificate:
    """One that was issued.

    Args:
        serial: hex.
        device: whose.
        not_before: seconds since 1970.
        not_after: the same.
        pem: all of it.
    """

    serial: str
    device: str
    not_before: float
    not_after: float
    pem: str


class Authority:
    """Signs devices' certificates. Any thread's.

    Args:
        repository: whose.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._lock = threading.Lock()
        self._opened: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None

    @property
    def exists(self) -> bool:
        return (self._repository.folder / CERTIFICATE).exists()

    def make(self) -> None:
        """Make key and certificate, unless they are there.

        A certificate that was lost is made again of its key: what it had signed still holds.

        Raises:
            EdgeSLMError: no passphrase, the disk refused, or another command writes for long.
        """
        with self._repository.store.locked():
            if self.exists:
                return
            if self._repository.keys.kept(KEY):
                private = self._private()
            else:
                private = ec.generate_private_key(ec.SECP256R1())
                self._repository.keys.keep(KEY, private)
            certificate = _own(private, self._repository.now())
            write_durably(
                self._repository.folder / CERTIFICATE,
                certificate.public_bytes(Encoding.PEM),
                mode=_READABLE,
            )

    def open(self) -> None:
        """Unlock the key, now and not when the first device asks.

        Raises:
            IssuingUnavailableError: there is none.
            EdgeSLMError: it is not where it should be, or its passphrase is wrong.
        """
        with self._lock:
            if self._opened is None:
                certificate = self.certificate()
                private = self._private()
                if private.public_key() != certificate.public_key():
                    msg = f"keys/{KEY}.pem: another key than {CERTIFICATE} is of. {_RESTORE}"
                    raise KeyInvalidError(msg)
                self._opened = certificate, private

    def certificate(self) -> x509.Certificate:
        """Return the authority's own.

        Raises:
            IssuingUnavailableError: there is none.
            FleetDamagedError: it is none.
        """
        file = self._repository.folder / CERTIFICATE
        try:
            return x509.load_pem_x509_certificate(file.read_bytes())
        except FileNotFoundError:
            msg = "this fleet gives no certificates yet: `edgeslm fleet enroll` makes its authority"
            raise IssuingUnavailableError(msg) from None
        except OSError as err:
            raise FleetDamagedError(
                str(file), [("", err.strerror or str(err))], remedy=_RESTORE
            ) from None
        except (ValueError, x509.InvalidVersion):
            raise FleetDamagedError(str(file), [("", "no certificate")], remedy=_RESTORE) from None

    def issue(self, device: str, public: PublicKeyTypes, now: float) -> Certificate:
        """Sign a certificate for a device's key.

        Raises:
            CertificateRequestError: its name is that of a user who is no device.
            EdgeSLMError: as `open`.
        """
        if reserved(device):  # whoever enrolled it: on the broker it would be that user
            msg = f"{device}: no device is called so. Enrol it by another id."
            raise CertificateRequestError(msg)
        own, private = self._pair()
        until = min(
            now + self._repository.config.days.certificate * _DAY_S,
            own.not_valid_after_utc.timestamp(),
        )
        since = now - BACKDATED_S
        serial = x509.random_serial_number()
        usage = _usage(digital_signature=True)
        made = (
            x509.CertificateBuilder()
            .subject_name(_named(device))
            .issuer_name(own.subject)
            .public_key(public)  # type: ignore[arg-type] # those that `read_csr` lets pass
            .serial_number(serial)
            .not_valid_before(_utc(since))
            .not_valid_after(_utc(until))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()),
                critical=False,
            )
            .sign(private, hashes.SHA256())
        )
        pem = made.public_bytes(Encoding.PEM).decode("ascii")
        return Certificate(
            f"{serial:x}",
            device,
            made.not_valid_before_utc.timestamp(),
            made.not_valid_after_utc.timestamp(),
            pem,
        )

    def issued(self, pem: str) -> tuple[str, PublicKeyTypes]:
        """Return serial and key of a certificate of ours, whether it has ended or not.

        Raises:
            CertificateUnknownError: it is none of ours.
            EdgeSLMError: as `certificate`.
        """
        own = self.certificate()
        try:
            found = x509.load_pem_x509_certificate(pem.encode())
            found.verify_directly_issued_by(own)
            return f"{found.serial_number:x}", found.public_key()
        except _UNREADABLE:
            msg = "the certificate to renew is not of this fleet. Enrol the device anew."
            raise CertificateUnknownError(msg) from None

    def revoked_list(self, serials: Iterable[tuple[str, float]]) -> bytes:
        """Return a list of revoked certificates, PEM.

        It is good for as long as the authority is: a broker whose list has ended lets nobody in.

        Args:
            serials: each with when it was revoked, seconds since 1970.

        Raises:
            EdgeSLMError: as `open`.
        """
        own, private = self._pair()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(own.subject)
            .last_update(_utc(self._repository.now() - BACKDATED_S))
            .next_update(own.not_valid_after_utc)
        )
        for serial, at in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(int(serial, 16))
            builder = builder.add_revoked_certificate(revoked.revocation_date(_utc(at)).build())
        return builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _private(self) -> ec.EllipticCurvePrivateKey:
        private = self._repository.keys.private(KEY)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            msg = f"keys/{KEY}.pem: no key of an elliptic curve. {_RESTORE}"
            raise KeyInvalidError(msg)
        return private

    def _pair(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        self.open()
        assert self._opened is not None  # noqa: S101 -- just opened
        return self._opened


def read_csr(pem: str) -> Csr:
    """Return a request, once its sender has shown that the key is theirs.

    Raises:
        CertificateRequestError: no request, a key that is too weak, or a subject that is more than
            a name. What it asks for besides is ignored.
    """
    try:
        found = x509.load_pem_x509_csr(pem.encode())
        public = found.public_key()
        holds = found.is_signature_valid
        names = [(each.oid, each.value) for each in found.subject]
        der = found.public_bytes(Encoding.DER)
    except _UNREADABLE:
        msg = "not a request for a certificate (PKCS#10, PEM)"
        raise CertificateRequestError(msg) from None
    if not holds:
        raise CertificateRequestError(_NOT_HOLDING)
    if not _strong(public):
        msg = "the key must be of curve P-256 or P-384, or RSA of 2048 to 4096 bits"
        raise CertificateRequestError(msg)
    if names and [oid for oid, _ in names] != [NameOID.COMMON_NAME]:
        msg = "the subject must be CN=DEVICE and nothing else, or empty"
        raise CertificateRequestError(msg)
    return Csr(public, der, str(names[0][1]) if names else None)


def factory_key(pem: str) -> PublicKeyTypes:
    """Return a factory key's public half.

    Raises:
        FactoryKeyUnknownError: it is none that can be.
    """
    try:
        public = load_pem_public_key(pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        msg = "not a public key, PEM"
        raise FactoryKeyUnknownError(msg) from None
    if not (_strong(public) or isinstance(public, ed25519.Ed25519PublicKey)):
        msg = "a factory key is of curve P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits"
        raise FactoryKeyUnknownError(msg)
    return public


def fingerprint_of(public: PublicKeyTypes) -> str:
    """Return the SHA-256 of a public key, as `openssl pkey -pubin -outform DER | sha256sum`."""
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def check_signed(public: PublicKeyTypes, signature: str, csr: Csr) -> None:
    """Hold a request against the signature of a key that is known already.

    Raises:
        CertificateRequestError: it does not hold.
    """
    data = SIGNED + csr.der
    try:
        raw = base64.b64decode(signature, validate=True)
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(raw, data, ec.ECDSA(hashes.SHA256()))
        elif isinstance(public, rsa.RSAPublicKey):
            public.verify(raw, data, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(raw, data)
        else:
            raise CertificateRequestError(_NOT_HOLDING)
    except (InvalidSignature, ValueError, binascii.Error):
        raise CertificateRequestError(_NOT_HOLDING) from None


def _strong(public: PublicKeyTypes) -> bool:
    if isinstance(public, ec.EllipticCurvePublicKey):
        return public.curve.name in CURVES
    return isinstance(public, rsa.RSAPublicKey) and public.key_size in RSA_BITS


def _own(private: ec.EllipticCurvePrivateKey, now: float) -> x509.Certificate:
    # No two fleets' authorities have the same name, since a broker may hold several; one that is
    # made again has the one it had.
    public = private.public_key()
    name = _named(f"edgeslm devices {fingerprint_of(public)[:8]}")
    usage = _usage(key_cert_sign=True, crl_sign=True)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_utc(now - BACKDATED_S))
        .not_valid_after(_utc(now + LIFE_DAYS * _DAY_S))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(private, hashes.SHA256())
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _utc(at: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(at), dt.UTC)
