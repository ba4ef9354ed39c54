"""What a device shows that asks for a certificate: a request, and a key that is known already."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509.oid import NameOID

from edgeslm.core.provisioning import (
    SIGNED,
    CertificateRequestError,
    CertificateUnknownError,
    FactoryKeyUnknownError,
)

CURVES: Final = ("secp256r1", "secp384r1")
RSA_BITS: Final = range(2048, 4097)
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


def read_issued(pem: str) -> tuple[str, PublicKeyTypes]:
    """Return serial and key of a certificate that somebody shows: whose it is, the database says.

    Raises:
        CertificateUnknownError: it is none.
    """
    try:
        found = x509.load_pem_x509_certificate(pem.encode())
        return f"{found.serial_number:x}", found.public_key()
    except _UNREADABLE:
        msg = "the certificate to renew is not of this fleet. Enrol the device anew."
        raise CertificateUnknownError(msg) from None


def issuer_of(pem: str) -> str:
    """Return who signed a certificate, as it names them."""
    issuer = x509.load_pem_x509_certificate(pem.encode()).issuer
    return str(issuer.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


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
