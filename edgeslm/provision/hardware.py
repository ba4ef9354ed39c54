"""The device's key in a PKCS#11 token, where it is made and stays, and stunnel, which uses it.

Python's TLS cannot use such a key. stunnel can: it listens on a Unix socket in a folder that the
agent's group alone may enter, and connects to the broker with the certificate. The token keeps the
key before the newest one, since stunnel may not have read its new configuration yet.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from edgeslm.adapters.fs import write_durably
from edgeslm.contract.brokers import Broker, Tls
from edgeslm.contract.identity import CERT, CURRENT, SOCKET, TUNNEL_PID
from edgeslm.contract.settings import HardwareKey
from edgeslm.core.provisioning import SIGNED
from edgeslm.provision.errors import DeviceKeyError, ProvisionExtraError, unusable
from edgeslm.provision.folder import Folder, disk

CONFIG: Final = "tunnel/stunnel.conf"
_PIN: Final = "provision.pkcs11.pin_file"
_LABEL: Final = "edgeslm"
IDS: Final = "token.json"
_ID_BYTES: Final = 16
_IDS: Final = TypeAdapter(
    dict[
        Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")],
        Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")],
    ]
)
_CURVE: Final = "secp256r1"
_HALF: Final = 32  # bytes of r, and of s


class HardwareKeys:
    """Keys in a token that others may use, too: each has an id that is drawn, and written down.

    Args:
        folder: `provision.dir`.
        where: the token.
        uplink: to which stunnel connects.

    Raises:
        ProvisionExtraError: a package is missing.
    """

    def __init__(self, folder: Folder, where: HardwareKey, uplink: Broker) -> None:
        for name in ("pkcs11", "asn1crypto"):
            if importlib.util.find_spec(name) is None:
                msg = f"{name}: not installed. pip install 'edgeslm[pkcs11]'"
                raise ProvisionExtraError(msg)
        self._folder = folder
        self._where = where
        self._uplink = uplink

    def make(self, folder: Path, device: str | None) -> str:
        import pkcs11  # noqa: PLC0415 -- an extra of its own
        from pkcs11.util import ec  # noqa: PLC0415

        number = folder.name
        with self._session() as session:
            self._destroy(session, [number])  # of a run that was killed
            made = secrets.token_bytes(_ID_BYTES)
            self._keep({**self._ids(), number: made.hex()})
            curve = {pkcs11.Attribute.EC_PARAMS: ec.encode_named_curve_parameters(_CURVE)}
            parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
            public, private = parameters.generate_keypair(
                store=True,
                id=made,
                label=_LABEL,
                private_template={
                    pkcs11.Attribute.SENSITIVE: True,
                    pkcs11.Attribute.EXTRACTABLE: False,
                },
            )
            return _csr(device, ec.encode_ec_public_key(public), private)

    def sign(self, folder: Path, csr_der: bytes) -> str:
        import pkcs11  # noqa: PLC0415 -- as above

        made = self._id(folder.resolve().name)
        with self._session() as session:
            private = session.get_key(pkcs11.ObjectClass.PRIVATE_KEY, id=made, label=_LABEL)
            return base64.b64encode(_signature(private, SIGNED + csr_der)).decode("ascii")

    def installed(self, number: int) -> None:
        key = self._id(str(number))
        text = stunnel(self._folder.path, self._where, self._uplink, key).encode()
        file = self._folder.path / CONFIG
        with disk(file):
            if file.exists() and file.read_bytes() == text:
                return
        if old := [each for each in self._ids() if int(each) < number - 1]:
            with self._session() as session:
                self._destroy(session, old)
        with disk(file):
            self._folder.make(file.parent)
            self._folder.write(file, text)

    @contextmanager
    def _session(self) -> Iterator[Any]:
        """Open the token.

        Raises:
            DeviceKeyError: it is not there, its PIN is wrong, or what is asked cannot be done.
            ProvisionConfigError: the file of the PIN holds more than that.
        """
        import pkcs11  # noqa: PLC0415 -- as above

        where = self._where
        try:
            pin = where.pin_file.read_text("utf-8")
            if pin.endswith("\n"):  # as stunnel's engine has it
                what = f"{where.pin_file}: a newline would be part of the PIN"
                raise unusable(_PIN, what, remedy="printf %s PIN > FILE")
            token = pkcs11.lib(os.fspath(where.module)).get_token(token_label=where.token)
            with token.open(rw=True, user_pin=pin) as session:
                yield session
        except (pkcs11.PKCS11Error, RuntimeError, OSError, ValueError) as err:
            what = str(err) or type(err).__name__
            msg = f"token {where.token}: {what}. Check provision.pkcs11: module, token and PIN."
            raise DeviceKeyError(msg) from None

    def _destroy(self, session: Any, numbers: Sequence[str]) -> None:
        """Destroy keys of ours and nobody else's, then forget them."""
        import pkcs11  # noqa: PLC0415 -- as above

        ids = self._ids()
        for number in numbers:
            if (made := ids.pop(number, None)) is not None:
                ours = {
                    pkcs11.Attribute.ID: bytes.fromhex(made),
                    pkcs11.Attribute.LABEL: _LABEL,
                }
                for found in list(session.get_objects(ours)):
                    found.destroy()
        self._keep(ids)

    def _ids(self) -> dict[str, str]:
        """Return the keys' ids, hex, by the number of their folder.

        Raises:
            DeviceKeyError: what was written down is damaged.
        """
        file = self._folder.path / IDS
        try:
            with disk(file):
                raw = file.read_bytes() if file.exists() else b"{}"
            return _IDS.validate_json(raw)
        except ValidationError:
            msg = f"{file}: damaged. Remove what is in provision.dir and provision the device anew."
            raise DeviceKeyError(msg) from None

    def _id(self, number: str) -> bytes:
        if (made := self._ids().get(number)) is None:
            file = self._folder.path / IDS
            msg = f"{file}: names no key {number}. Provision the device anew."
            raise DeviceKeyError(msg)
        return bytes.fromhex(made)

    def _keep(self, ids: dict[str, str]) -> None:
        file = self._folder.path / IDS
        with disk(file):
            write_durably(file, _IDS.dump_json(ids))


def stunnel(directory: Path, where: HardwareKey, uplink: Broker, made: bytes) -> str:
    """Return the configuration of stunnel that has the key with this id.

    It takes whichever of the broker's names the certificate has, whatever node it has connected to.
    """
    tls = uplink.tls or Tls()
    key = "".join(f"%{byte:02x}" for byte in made)
    authority = f"CAfile = {tls.ca_file}" if tls.ca_file else "CApath = /etc/ssl/certs"
    hosts = [f"connect = {host}:{port}" for host, port in uplink.nodes]
    names = dict.fromkeys(host for host, _ in uplink.nodes)
    checks = [f"{'checkIP' if _is_address(host) else 'checkHost'} = {host}" for host in names]
    lines = [
        "; Made by `edgeslm provision`; the folder's mode says who may open the socket.",
        "foreground = yes",
        "syslog = no",
        f"pid = {directory / TUNNEL_PID}",
        "engine = pkcs11",
        f"engineCtrl = MODULE_PATH:{where.module}",
        "engineCtrl = INIT",
        "[uplink]",
        "client = yes",
        f"accept = {directory / SOCKET}",
        *hosts,
        f"cert = {directory / CURRENT / CERT}",
        "engineNum = 1",
        f"key = pkcs11:token={where.token};id={key};type=private?pin-source=file:{where.pin_file}",
        authority,
        "verifyChain = yes",
        *checks,
        "sslVersionMin = TLSv1.2",
    ]
    return "\n".join([*lines, ""])


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def _csr(device: str | None, public_der: bytes, private: Any) -> str:
    from asn1crypto import algos, core, csr, keys, pem, x509  # noqa: PLC0415 -- as above

    subject = x509.Name.build({"common_name": device} if device is not None else {})
    info = csr.CertificationRequestInfo(
        {
            "version": "v1",
            "subject": subject,
            "subject_pk_info": keys.PublicKeyInfo.load(public_der),
            "attributes": csr.CRIAttributes([]),
        }
    )
    request = csr.CertificationRequest(
        {
            "certification_request_info": info,
            "signature_algorithm": algos.SignedDigestAlgorithm({"algorithm": "sha256_ecdsa"}),
            "signature": core.OctetBitString(_signature(private, info.dump())),
        }
    )
    found: bytes = pem.armor("CERTIFICATE REQUEST", request.dump())
    return found.decode("ascii")


def _signature(private: Any, data: bytes) -> bytes:
    """Return an ECDSA signature over SHA-256, DER."""
    import pkcs11  # noqa: PLC0415
    from pkcs11.util.ec import encode_ecdsa_signature  # noqa: PLC0415

    digest = hashlib.sha256(data).digest()
    raw = private.sign(digest, mechanism=pkcs11.Mechanism.ECDSA)
    assert len(raw) == 2 * _HALF  # noqa: S101 -- P-256
    der: bytes = encode_ecdsa_signature(raw)
    return der
