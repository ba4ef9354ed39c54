"""The brokers: a real CONNECT with the agent's credentials, and none of its sessions touched."""

from __future__ import annotations

import errno
import ipaddress
import secrets
import socket
import ssl
from collections.abc import Iterator
from typing import Final, NamedTuple

from edgeslm.adapters.mqtt_open import LinkConfig, describe, tls_context, visit
from edgeslm.adapters.paho_fast import alert_of
from edgeslm.cli.checks import Finding, Level, error, ok, warning
from edgeslm.cli.checks.files import brokers_of, unreadable
from edgeslm.contract.brokers import Broker
from edgeslm.contract.fleet import BLOCK_BYTES
from edgeslm.contract.settings import AgentSettings
from edgeslm.contract.topics import FleetTopics
from edgeslm.core.block import HEAD_BYTES
from edgeslm.errors import EXIT_CONFIG, EXIT_UNAVAILABLE, ConfigError

_ANSWER_S: Final = 5.0
_AROUND_BYTES: Final = 7  # of a PUBLISH at QoS 0, MQTT 5: type, length, topic's length, properties
_KEEPALIVE_S: Final = 5  # paho waits so long for a peer that begins no TLS


class _Cause(NamedTuple):
    """What a failure comes from.

    Args:
        what: in a few words.
        remedy: what to do.
        status: of the finding.
        level: of the finding.
    """

    what: str
    remedy: str
    status: int = EXIT_UNAVAILABLE
    level: Level = "error"


_PASSWORD: Final = _Cause(
    "user name or password refused",
    "Correct username and password (or password_file), or give this user to the broker.",
    EXIT_CONFIG,
)
_LATER: Final = _Cause("the broker takes nobody now", "Look at the broker's log and load.")
# MQTT 5, 3.2.2.2; paho gives the codes of 3.1.1 these numbers.
_REFUSALS: Final = {
    0x84: _Cause(
        "MQTT version refused", "Set protocol to the version that it speaks.", EXIT_CONFIG
    ),
    0x85: _Cause(
        "client id refused: the broker has a list, so that only the agent itself can try",
        "Allow the ids DEVICE and DEVICE-in-MODEL of every model there.",
        level="warning",
    ),
    0x86: _PASSWORD,
    0x87: _PASSWORD,
    0x88: _LATER,
    0x89: _LATER,
    0x8A: _Cause("this client is banned", "Lift the ban at the broker."),
    0x8C: _PASSWORD,
    0x97: _LATER,
    0x9F: _LATER,
}
_REFUSED: Final = _Cause("refused", "Look at the broker's log.")
_CLOCK: Final = _Cause(
    "TLS: the broker's certificate is not valid now",
    "Look at this device's clock; renew the certificate if that is right.",
)
_NAME: Final = _Cause(
    "TLS: the broker's certificate is for another name",
    "Set host to a name in it, or issue it for this name.",
    EXIT_CONFIG,
)
_ISSUER: Final = _Cause(
    "TLS: the broker's certificate is signed by nobody we trust",
    "Set tls.ca_file to the certificate of the CA that signed it.",
    EXIT_CONFIG,
)
# X509_V_ERR_*, openssl-verification-options(1).
_CERTIFICATES: Final = {
    9: _CLOCK,
    10: _CLOCK,
    18: _ISSUER,
    19: _ISSUER,
    20: _ISSUER,
    21: _ISSUER,
    62: _NAME,
    64: _NAME,
}
# What OpenSSL's names of alerts have that are about the certificate that we show, or lack.
_OF_OURS: Final = ("certificate", "unknown ca")
_OURS: Final = _Cause(
    "TLS: the broker does not take this device's certificate",
    "Give tls.cert_file one that is in force, of an authority in the broker's cafile. With "
    "[provision], `edgeslm provision --renew` gets one, or says what the fleet has against it.",
    EXIT_CONFIG,
)
_TLS: Final = _Cause(
    "TLS failed",
    "Is this the broker's TLS port? Does it want a client certificate (tls.cert_file)?",
)
_NOT_MQTT: Final = _Cause(
    "connected, and got no answer", "Is this the port of an MQTT broker, and a plain one, not TLS?"
)
_NOT_MQTT_TLS: Final = _Cause(
    "TLS stands, and no answer",
    "Does the broker want a client certificate (tls.cert_file), or one of another CA? Is it MQTT?",
)
_NO_ROUTE: Final = _Cause(
    "no route", "Look at this device's network: cable, address, gateway; and at host."
)
_NOT_REACHED: Final = _Cause("not reached", "Look at this device's network, and at host.")
_FAILURES: Final[tuple[tuple[type[Exception], _Cause], ...]] = (  # the first that fits
    (ssl.SSLError, _TLS),
    (socket.gaierror, _Cause("name not known", "Correct host, or look at this device's DNS.")),
    (
        ConnectionRefusedError,
        _Cause(
            "nobody listens there",
            "Start the broker, or correct port (1883, with TLS 8883) and host.",
        ),
    ),
    (
        TimeoutError,
        _Cause("no answer", "Look at the network and at firewalls between; and at host."),
    ),
    (ValueError, _Cause("cannot be tried", "Correct host.", EXIT_CONFIG)),
)
_UNREACHABLE: Final = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}
)


def brokers(settings: AgentSettings | None) -> Iterator[Finding]:
    """Whether each broker takes us, by its address, protocol, TLS and credentials as set."""
    for name, broker in brokers_of(settings):
        assert settings is not None  # noqa: S101 -- there are no brokers without
        # Models come by the fleet's broker alone.
        fetches = name == "uplink" and settings.update is not None
        blocks = FleetTopics(settings.topics.root).blob("0" * 64) if fetches else ""
        yield from _broker(name, broker, settings.device_id, blocks)
        if broker.tls is None and broker.username is not None and not _is_here(broker.host):
            found = f"{broker.host}: user name and password cross the network unencrypted"
            yield warning(f"broker.{name}.tls", found, f"Add [{name}.tls].")


def _broker(name: str, broker: Broker, device_id: str, blocks: str) -> Iterator[Finding]:
    check = f"broker.{name}"
    wrong = [(f"{name}.{field}", what) for field, what in unreadable(broker)]
    if not wrong and broker.tls is not None:
        try:
            tls_context(broker.tls)
        except (OSError, ValueError) as err:
            what = f"no certificates, or no key to one (an encrypted key is no use here): {err}"
            wrong = [(f"{name}.tls", what)]
    for field, what in wrong:
        remedy = "Correct the path, what is in it, or who may read it."
        yield error(check, f"{field}: {what}", remedy, status=EXIT_CONFIG, code=ConfigError.code)
    if not wrong:
        yield from _connect(check, broker, device_id, blocks)


def _connect(check: str, broker: Broker, device_id: str, blocks: str) -> Iterator[Finding]:
    # An id of our own: the agent's would end its connection, or its session.
    config = LinkConfig(
        client_id=f"{device_id}-doctor-{secrets.token_hex(4)}",
        broker=broker.model_copy(update={"keepalive_s": _KEEPALIVE_S}),
    )
    try:
        client = visit(config, timeout_s=_ANSWER_S)
    except (OSError, ValueError) as err:
        yield _finding(check, describe(err, broker), _cause(err, tls=broker.tls is not None))
        return
    if client.session_present is None:
        cause = _NOT_MQTT_TLS if broker.tls else _NOT_MQTT
        if client.refusal:
            cause = _REFUSALS.get(client.refusal, _REFUSED)
        elif _is_of_ours(client.alert):
            cause = _OURS
        yield _finding(check, describe(ConnectionError(client.trouble), broker), cause)
        return
    how = f"MQTT {broker.protocol}{' over TLS' if broker.tls else ''}"
    who = _who(broker)
    yield ok(check, f"{broker.host}:{broker.effective_port}: takes us by {how} as {who}")
    if blocks and client.max_packet_bytes is not None:
        yield _carries(f"{check}.packets", client.max_packet_bytes, blocks)


def _who(broker: Broker) -> str:
    if broker.username is not None:
        return f"user {broker.username}"
    shows = broker.tls is not None and broker.tls.cert_file is not None
    return "who its certificate says" if shows else "nobody in particular"


def _carries(check: str, most: int, topic: str) -> Finding:
    """Say whether a broker that takes packets of `most` bytes takes a block of a model."""
    needed = packet_bytes(topic)
    found = f"the broker takes packets of {most} bytes"
    if most >= needed:
        return ok(check, f"{found}; a block of a model is one of {needed}")
    remedy = (
        f"Have it take {needed} (mosquitto: max_packet_size); until then only sticks bring models."
    )
    return warning(check, f"{found}, and a block of a model is one of {needed}", remedy)


def packet_bytes(topic: str) -> int:
    """Return the bytes of the MQTT packet that brings a block on `topic`."""
    return _AROUND_BYTES + len(topic.encode()) + HEAD_BYTES + BLOCK_BYTES


def _cause(err: OSError | ValueError, *, tls: bool) -> _Cause:
    """Return what a failure to connect comes from."""
    if isinstance(err, ssl.SSLCertVerificationError) and err.verify_code in _CERTIFICATES:
        return _CERTIFICATES[err.verify_code]
    if isinstance(err, OSError) and err.errno in _UNREACHABLE:
        return _NO_ROUTE
    if isinstance(err, ssl.SSLError) and _is_of_ours(alert_of(err)):
        return _OURS
    for kind, cause in _FAILURES:
        if isinstance(err, kind):
            return cause
    return _TLS if tls else _NOT_REACHED


def _is_of_ours(alert: str) -> bool:
    """Whether the broker's TLS has ended it for our certificate."""
    return any(word in alert for word in _OF_OURS)


def _finding(check: str, detail: str, cause: _Cause) -> Finding:
    found = f"{cause.what}: {detail}"
    if cause.level == "warning":
        return warning(check, found, cause.remedy)
    return error(check, found, cause.remedy, status=cause.status)


def _is_here(host: str) -> bool:
    """Whether `host` is this device itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
