"""One request and its answer over MQTT, and what each way of failing means."""

from __future__ import annotations

import contextlib
import secrets
import select
import ssl
import time
from typing import Final

from pydantic import ValidationError

from edgeslm.adapters.mqtt_open import LinkConfig, describe, open_client
from edgeslm.adapters.paho_stock import StockClient
from edgeslm.contract.brokers import Broker
from edgeslm.contract.provision import MAX_BYTES, AuthorityNotice, CertificateReply
from edgeslm.contract.topics import FleetTopics
from edgeslm.errors import EdgeSLMError
from edgeslm.ports import Letter
from edgeslm.provision.errors import (
    BrokerExpiredError,
    BrokerRefusedError,
    BrokerUnreachableError,
    ClockBehindError,
    ProvisionUnansweredError,
    RevokedAtBrokerError,
    UnknownAuthorityError,
)

CONNECT_S: Final = 10.0
WAIT_S: Final = 30.0
AGAIN_S: Final = 5.0
"""No answer for so long: asked again. The same request has the same answer."""
RETAINED_S: Final = 2.0
_NOT_YET: Final = 9  # X509_V_ERR_CERT_NOT_YET_VALID
_EXPIRED: Final = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_REVOKED: Final = "certificate revoked"  # RFC 8446, 6.2: certificate_revoked, as OpenSSL has it


def ask(
    broker: Broker, root: str, request: str, payload: bytes, *, wait_s: float = WAIT_S
) -> CertificateReply:
    """Return the fleet's answer.

    Args:
        broker: where; each of its nodes is tried.
        root: topic levels that the fleet's devices share.
        request: 128 random bits, hex: client id and last level of the topic.
        payload: a `CertificateRequest`.
        wait_s: for an answer.

    Raises:
        EdgeSLMError: one of `edgeslm.provision.errors`, as the last node had it.
    """
    failed: EdgeSLMError | None = None
    config = LinkConfig(request, broker, max_packet_bytes=2 * MAX_BYTES)
    for node in range(len(broker.nodes)):
        try:
            client = open_client(config, epoch=1, node=node)
        except ssl.SSLCertVerificationError as err:
            failed = _distrusted(err, describe(err, broker, node))
        except (OSError, ValueError) as err:
            msg = f"{describe(err, broker, node)}. Check network, host and port."
            failed = BrokerUnreachableError(msg)
        else:
            try:
                return _Exchange(client, FleetTopics(root), request, payload).run(wait_s)
            except BrokerUnreachableError as err:
                failed = err
            finally:
                client.close()
    assert failed is not None  # noqa: S101 -- there is a node
    raise failed


def hear(broker: Broker, root: str) -> str | None:
    """Return who signs certificates now, as the fleet has it retained; None: it is not said.

    Args:
        broker: where; its first node that answers tells.
        root: topic levels that the fleet's devices share.

    Raises:
        RevokedAtBrokerError: by the list of the last node the certificate was revoked.
        EdgeSLMError: no node answers, or takes us.
    """
    topic = FleetTopics(root).authority
    failed: EdgeSLMError | None = None
    config = LinkConfig(secrets.token_hex(16), broker, max_packet_bytes=2 * MAX_BYTES)
    for node in range(len(broker.nodes)):
        try:
            client = open_client(config, epoch=1, node=node)
        except (OSError, ValueError) as err:
            failed = BrokerUnreachableError(describe(err, broker, node))
        else:
            try:
                return _heard(client, topic)
            except BrokerUnreachableError as err:
                failed = err
            finally:
                client.close()
    assert failed is not None  # noqa: S101 -- there is a node
    raise failed


def _heard(client: StockClient, topic: str) -> str | None:
    until = time.monotonic() + CONNECT_S
    poller = select.poll()
    subscribed = False
    while (sock := client.socket()) is not None and time.monotonic() < until:
        if client.session_present is not None and not subscribed:
            subscribed = True
            client.ask_for([topic])
        if client.suback:  # what is retained comes right behind
            client.suback.clear()
            until = time.monotonic() + RETAINED_S
        if client.want_write():
            client.loop_write()
            continue
        poller.register(sock.fileno(), select.POLLIN)
        if client.pending() or poller.poll(100):
            client.loop_read()
        for message in client.arrived:
            client.acknowledge([message.mid])
            with contextlib.suppress(ValidationError):
                return AuthorityNotice.model_validate_json(message.payload[:MAX_BYTES]).issuer
        client.arrived.clear()
    if not subscribed:
        raise _not_let_in(client)
    return None


class _Exchange:
    """A client that asks once it is connected and hears, and asks again."""

    def __init__(
        self, client: StockClient, topics: FleetTopics, request: str, payload: bytes
    ) -> None:
        self._client = client
        self._reply = topics.provision_reply(request)
        self._letter = Letter(topics.provision(request), payload)
        self._request = request
        self._subscribed = False
        self._heard = False
        self._ask_at = 0.0

    def run(self, wait_s: float) -> CertificateReply:
        client = self._client
        began = time.monotonic()
        poller = select.poll()
        while (sock := client.socket()) is not None:
            now = time.monotonic()
            if now >= began + (wait_s if self._heard else CONNECT_S):
                break
            self._step(now)
            if client.want_write():
                client.loop_write()
                continue
            poller.register(sock.fileno(), select.POLLIN)
            if client.pending() or poller.poll(100):
                client.loop_read()
            if (reply := self._answer()) is not None:
                client.disconnect()
                return reply
        raise self._failure()

    def _step(self, now: float) -> None:
        client = self._client
        if client.session_present is None:
            return
        if not self._subscribed:
            self._subscribed = True
            client.ask_for([self._reply])
        for _, granted in client.suback:
            if not all(granted):
                msg = "the broker does not let us hear its answer. Check its access rules."
                raise BrokerRefusedError(msg)
            self._heard = True
        client.suback.clear()
        if self._heard and now >= self._ask_at:
            self._ask_at = now + AGAIN_S
            client.send([self._letter])
        for _, code in client.confirmed:
            if code >= 0x80:  # noqa: PLR2004 -- MQTT 5: a failure
                msg = "the broker does not let us ask. Check its access rules."
                raise BrokerRefusedError(msg)
        client.confirmed.clear()

    def _answer(self) -> CertificateReply | None:
        """Return what came for us; what is not well-formed did not come."""
        for message in self._client.arrived:
            self._client.acknowledge([message.mid])
            if message.topic != self._reply or len(message.payload) > MAX_BYTES:
                continue
            try:
                reply = CertificateReply.model_validate_json(message.payload)
            except ValidationError:
                continue
            if reply.request == self._request:
                return reply
        self._client.arrived.clear()
        return None

    def _failure(self) -> EdgeSLMError:
        client = self._client
        if client.refusal:
            msg = f"{client.trouble}. Check username and password of the broker's section."
            return BrokerRefusedError(msg)
        if self._heard and client.socket() is not None:
            msg = "the broker is there, and nobody has answered. Is `edgeslm fleet serve` running?"
            return ProvisionUnansweredError(msg)
        return _not_let_in(client)


def _not_let_in(client: StockClient) -> EdgeSLMError:
    if client.alert == _REVOKED:
        msg = "the broker says that this device's certificate was revoked."
        return RevokedAtBrokerError(f"{msg} Ask the fleet by [provision.broker].")
    return BrokerUnreachableError(client.trouble or "the broker did not answer")


def _distrusted(err: ssl.SSLCertVerificationError, said: str) -> EdgeSLMError:
    clock = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    if err.verify_code == _NOT_YET:
        msg = f"{said}. This device's clock says {clock}: set it, or wait until it is set."
        return ClockBehindError(msg)
    if err.verify_code == _EXPIRED:
        msg = f"{said}. This device's clock says {clock}. If that is right, renew the broker's."
        return BrokerExpiredError(msg)
    msg = f"{said}. Give tls.ca_file the authority of the broker's certificate, and its name."
    return UnknownAuthorityError(msg)
