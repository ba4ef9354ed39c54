"""The device's key in a file: made here, and never elsewhere."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final, Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from edgeslm.contract.identity import KEY
from edgeslm.core.provisioning import SIGNED
from edgeslm.provision.errors import unusable
from edgeslm.provision.folder import Folder

FACTORY_KEY: Final = "provision.factory_key_file"
DIR: Final = "provision.dir"
_MAX_BYTES: Final = 65_536


class Keys(Protocol):
    """Where the device's keys are."""

    def make(self, folder: Path, device: str | None) -> str:
        """Make a key for a folder; return a request for its certificate, PEM.

        Raises:
            EdgeSLMError, OSError: it cannot be made.
        """

    def sign(self, folder: Path, csr_der: bytes) -> str:
        """Sign a request by the key of a folder; Base64.

        Raises:
            EdgeSLMError, OSError: the key cannot be used.
        """

    def installed(self, number: int) -> None:
        """The key of the folder with this number is in force; may be said again.

        Raises:
            EdgeSLMError: the disk or the token refused.
        """


class FileKeys:
    """Keys in files of the folder.

    Args:
        folder: `provision.dir`.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def make(self, folder: Path, device: str | None) -> str:
        private = ec.generate_private_key(ec.SECP256R1())
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._folder.write_key(folder, pem)
        csr = x509.CertificateSigningRequestBuilder().subject_name(named(device))
        return csr.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM).decode("ascii")

    def sign(self, folder: Path, csr_der: bytes) -> str:
        return signature(load_key(folder / KEY, DIR), csr_der)

    def installed(self, number: int) -> None:
        """The one before goes with its folder."""


def named(device: str | None) -> x509.Name:
    """Return the subject of a request."""
    if device is None:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])


def load_key(file: Path, setting: str) -> PrivateKeyTypes:
    """Return a private key.

    Raises:
        ProvisionConfigError: there is none in the file.
    """
    remedy = "Give a private key, PEM, without a passphrase."
    try:
        with file.open("rb") as opened:
            return load_pem_private_key(opened.read(_MAX_BYTES), None)
    except OSError as err:
        what = f"{file}: {err.strerror or err}"
    except (ValueError, TypeError, UnsupportedAlgorithm):
        what = f"{file}: no private key, or one with a passphrase"
    raise unusable(setting, what, remedy=remedy)


def public_pem(private: PrivateKeyTypes) -> str:
    """Return the public half."""
    public = private.public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def signature(private: PrivateKeyTypes, csr_der: bytes) -> str:
    """Return a key's signature of a request, Base64.

    Raises:
        ProvisionConfigError: keys of this kind sign nothing here.
    """
    data = SIGNED + csr_der
    if isinstance(private, ec.EllipticCurvePrivateKey):
        raw = private.sign(data, ec.ECDSA(hashes.SHA256()))
    elif isinstance(private, rsa.RSAPrivateKey):
        raw = private.sign(data, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(private, ed25519.Ed25519PrivateKey):
        raw = private.sign(data)
    else:
        what = "neither EC, RSA nor Ed25519"
        raise unusable(FACTORY_KEY, what, remedy="Give another key.")
    return base64.b64encode(raw).decode("ascii")
