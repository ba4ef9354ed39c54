"""A fleet that gives certificates, a broker that wants them, and devices that have none yet."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from sqlalchemy import Engine

from edgeslm.contract.brokers import Broker
from edgeslm.contract.provision import PROVISIONER, CertificateReply, CertificateRequest
from edgeslm.contract.settings import AgentSettings, read_settings
from edgeslm.errors import EdgeSLMError
from edgeslm.fleet import enrolment, issuing
from edgeslm.fleet.authority import Authority, name_of
from edgeslm.fleet.broker_config import SERVICE, Access, acl_file
from edgeslm.fleet.database import audit, identities
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.repository import Repository
from edgeslm.provision.provision import Outcome, Provisioner
from tests.fleet import kit as fleet_kit
from tests.fleet.guarded import secret
from tests.mosquitto import Mosquitto, free_port

ROOT: Final = "edgeslm/v1"
WE: Final = audit.Actor("test", "cli")
DAY_S: Final = 86_400.0


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return time.monotonic()


class Fleet:
    """Authority and database, asked without a broker between."""

    def __init__(self, repository: Repository, engine: Engine, now: float | None = None) -> None:
        self.repository = repository
        self.engine = engine
        self.clock = Clock(time.time() if now is None else now)
        self.authority = Authority(repository)
        self.authority.make()
        self.asked: list[CertificateRequest] = []
        self.lose = 0  # answers

    def enrol(self, *devices: str, **more: Any) -> dict[str, str]:
        wanted = [enrolment.Wanted(device) for device in devices]
        said = {"actor": WE, "now": self.clock.now, "days": 30.0, **more}
        return enrolment.enrol(self.engine, wanted, **said).tokens

    def enrol_key(self, device: str, key: str, **more: Any) -> None:
        said = {"actor": WE, "now": self.clock.now, "days": 30.0, **more}
        enrolment.enrol(self.engine, [enrolment.Wanted(device, key)], **said)

    def answer(self, request: CertificateRequest) -> identities.Issued:
        return issuing.answer(self.engine, self.authority, request, self.clock.now)

    def ask(self, _broker: Broker, _root: str, request: str, payload: bytes) -> CertificateReply:
        """As the service and `exchange.ask` do together."""
        asked = CertificateRequest.model_validate_json(payload)
        self.asked.append(asked)
        said: dict[str, Any] = {"schema": 1, "request": request, "time": self.clock.now}
        try:
            issued = self.answer(asked)
        except EdgeSLMError as err:
            said["error"] = {"code": err.code, "message": str(err)}
        else:
            said |= {"device": issued.device, "certificate": issued.pem}
        if self.lose:
            self.lose -= 1
            msg = "the answer was lost"
            raise LostError(msg)
        return CertificateReply.model_validate(said)

    def hear(self, _broker: Broker, _root: str) -> str | None:
        """As the publisher and `exchange.hear` do together."""
        return name_of(self.authority.certificate())

    def seen(self, device: str) -> identities.Enrolled:
        with reading(self.engine) as conn:
            return identities.some(conn, [device])[device]


class LostError(Exception):
    """What came was lost on its way."""


class Device:
    """A folder that a device has, and what it does."""

    def __init__(self, folder: Path, fleet: Fleet, *, machine: str = "a", **provision: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.fleet = fleet
        self.machine = tuple(each * 64 for each in machine)
        self.clock = Clock(fleet.clock.now)
        self.id: str | None = None
        self.more = ""  # of its settings
        self.provision = {"dir": str(folder / "state"), **provision}

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def token(self, token: str) -> None:
        (self.folder / "token").write_text(f"{token}\n")
        self.provision["token_file"] = str(self.folder / "token")

    def settings(self) -> AgentSettings:
        said = [f"device_id = {json.dumps(self.id)}"] if self.id is not None else []
        lines = [f"{key} = {json.dumps(value)}" for key, value in self.provision.items()]
        file = self.folder / "agent.toml"
        file.write_text("\n".join([*said, "[provision]", *lines, self.more]))
        return read_settings(file)

    def run(self, *, renew: bool = False) -> Outcome:
        provisioner = Provisioner(
            self.settings(),
            clock=self.clock,
            machine=self.machine,
            ask=self.fleet.ask,
            hear=self.fleet.hear,
        )
        return provisioner.run(renew=renew)


class Csr:
    """A request for a certificate, as anybody may make one."""

    def __init__(
        self,
        name: str | None,
        *,
        private: Any = None,
        subject: x509.Name | None = None,
        extensions: tuple[x509.ExtensionType, ...] = (),
    ) -> None:
        self.private = private or ec.generate_private_key(ec.SECP256R1())
        names = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name is not None else []
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject or x509.Name(names))
        for each in extensions:
            builder = builder.add_extension(each, critical=True)
        self.made = builder.sign(self.private, hashes.SHA256())

    @property
    def pem(self) -> str:
        return self.made.public_bytes(Encoding.PEM).decode()

    @property
    def der(self) -> bytes:
        return self.made.public_bytes(Encoding.DER)


def request(csr: Csr, **more: Any) -> CertificateRequest:
    return CertificateRequest.model_validate({"schema": 1, "csr": csr.pem, **more})


def versioned(der: bytes, number: int) -> str:
    """Return a request with another version than there is."""
    at = der.index(b"\x02\x01\x00")
    body = base64.encodebytes(der[: at + 2] + bytes([number]) + der[at + 3 :]).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"


class ServerCa:
    """The authority of a broker, and what it signs, for whatever time a test wants."""

    def __init__(self, folder: Path, name: str = "plant") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._private = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._made(self._name, self._private.public_key(), -DAY_S, 365 * DAY_S, ca=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(made.public_bytes(Encoding.PEM))

    def sign(self, name: str, *, since_s: float = -DAY_S, until_s: float = 30 * DAY_S) -> Path:
        """Write NAME.pem and NAME.key for 127.0.0.1; return the former."""
        private = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._made(subject, private.public_key(), since_s, until_s, ca=False)
        cert = self._folder / f"{name}.pem"
        cert.write_bytes(made.public_bytes(Encoding.PEM))
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        cert.with_suffix(".key").write_bytes(pem)
        return cert

    def _made(
        self, subject: x509.Name, public: Any, since_s: float, until_s: float, *, ca: bool
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + dt.timedelta(seconds=since_s))
            .not_valid_after(now + dt.timedelta(seconds=until_s))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .sign(self._private, hashes.SHA256())
        )


class Site:
    """A broker as docs/provisioning.md has it: one listener with passwords, one with certificates.

    The fleet's service comes by a third, in clear.
    """

    def __init__(self, folder: Path, repository: Repository) -> None:
        self.folder = folder
        self.repository = repository
        self.ca = ServerCa(folder / "ca")
        self.broker = Mosquitto(folder / "broker")
        self.first, self.mutual = free_port(), free_port()
        self.revoked: list[str] = []
        self.crl = folder / "crl.pem"
        self.authorities: Path | None = None  # another file than the repository's
        self.passwords = folder / "passwords"
        self.passwords.touch(0o600)
        for user in (SERVICE, PROVISIONER):
            argv = ["mosquitto_passwd", "-b", str(self.passwords), user, secret(user)]
            subprocess.run(argv, check=True, capture_output=True)
            (folder / user).write_text(secret(user))
        self.write_acl()

    def write_acl(self) -> None:
        access = Access(ROOT, inputs=["plant/+"], revoked=self.revoked)
        (self.folder / "acl").write_text(acl_file(access))

    def start(self, server: str = "server", **when: float) -> None:
        cert = self.ca.sign(server, **when)
        own = f"certfile {cert}\nkeyfile {cert.with_suffix('.key')}\n"
        devices = self.authorities or self.repository.folder / "devices.pem"
        crl = f"crlfile {self.crl}\n" if self.crl.exists() else ""
        self.broker.configure(
            f"allow_anonymous false\npassword_file {self.passwords}\n"
            f"acl_file {self.folder / 'acl'}\n"
            f"listener {self.first} 127.0.0.1\n{own}"
            f"listener {self.mutual} 127.0.0.1\n{own}cafile {devices}\n{crl}"
            "require_certificate true\nuse_identity_as_username true\n"
        )
        self.broker.start()
        for port in (self.first, self.mutual):
            eventually(lambda port=port: _listens(port), "a listener")  # type: ignore[misc]

    def restart(self, server: str = "server", **when: float) -> None:
        self.broker.stop()
        self.start(server, **when)

    def reload(self) -> None:
        """Have it read its files anew, as SIGHUP does."""
        process = self.broker._process  # noqa: SLF001 -- there is no other way
        assert process is not None
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)

    def list_replaced(self, engine: Engine) -> None:
        """Write the list as it is once replaced certificates are on it, too."""
        with reading(engine) as conn:
            ended = identities.ended(conn, time.time() + identities.LISTED_AFTER_S)
        assert ended
        self.crl.write_bytes(Authority(self.repository).revoked_list(ended))

    @property
    def service(self) -> Broker:
        said = {"host": "127.0.0.1", "port": self.broker.port, "username": SERVICE}
        return Broker.model_validate({**said, "password_file": self.folder / SERVICE})

    def configure(
        self,
        folder: Path,
        *,
        token: str | None = None,
        device: str | None = None,
        ca: Path | None = None,
        **provision: Any,
    ) -> Path:
        """Write the settings of a device; return their file."""
        folder.mkdir(parents=True, exist_ok=True)
        said = {"dir": str(folder / "state"), **provision}
        if token is not None:
            (folder / "token").write_text(token)
            said["token_file"] = str(folder / "token")
        authority = json.dumps(str(ca or self.ca.file))
        text = [f"device_id = {json.dumps(device)}"] if device is not None else []
        text += [f"state_dir = {json.dumps(str(folder))}"]
        text += ["[uplink]", 'host = "127.0.0.1"', f"port = {self.mutual}"]
        text += ["[uplink.tls]", f"ca_file = {authority}", "[provision]"]
        text += [f"{key} = {_toml(value)}" for key, value in said.items()]
        text += ["[provision.broker]", 'host = "127.0.0.1"', f"port = {self.first}"]
        text += [f'username = "{PROVISIONER}"']
        text += [f"password_file = {json.dumps(str(self.folder / PROVISIONER))}"]
        text += ["[provision.broker.tls]", f"ca_file = {authority}"]
        file = folder / "agent.toml"
        file.write_text("\n".join(text) + "\n")
        return file


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{key} = {_toml(each)}" for key, each in value.items())
        return f"{{ {inner} }}"
    return json.dumps(value)


def edgeslm(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command as people do."""
    return subprocess.run(
        [sys.executable, "-m", "edgeslm", *argv],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "EDGESLM_FLEET_PASSPHRASE": fleet_kit.PASSPHRASE, **env},
        timeout=120,
    )


def eventually(done: Callable[[], object], what: str) -> None:
    until = time.monotonic() + 30
    while not done():
        assert time.monotonic() < until, what
        time.sleep(0.05)
