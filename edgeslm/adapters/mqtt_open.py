"""Opens MQTT connections: what a session is called, who it is, and how it is protected."""

from __future__ import annotations

import contextlib
import select
import ssl
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeslm.adapters.paho_fast import make_client
from edgeslm.adapters.paho_stock import Carrier, StockClient
from edgeslm.contract.brokers import Broker, Proxy, Tls

TCP_TIMEOUT_S: Final = 3.0
LAST_S: Final = 1.0  # at `stop`, for what is on the way
MAX_PACKET_BYTES: Final = 17 * 1024 * 1024  # a route reads at most 16 MiB


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """One session on one broker.

    Args:
        client_id: the session's name.
        broker: where.
        session_expiry_s: how long the broker keeps the session; 0: not at all.
        receive_maximum: messages taken and not settled before reading pauses; announced as
            Receive Maximum where the protocol has one.
        window: publications sent and not confirmed.
        will: (topic, payload), retained, published by the broker when we are lost.
        held: filters the broker may hold for the session from an earlier life; those no longer
            wanted are given up.
        max_packet_bytes: the largest packet that we take, announced where the protocol can.
    """

    client_id: str
    broker: Broker
    session_expiry_s: int = 0
    receive_maximum: int = 512
    window: int = 64
    will: tuple[str, bytes] | None = None
    held: frozenset[str] = frozenset()
    max_packet_bytes: int = MAX_PACKET_BYTES


def open_client(config: LinkConfig, *, epoch: int, node: int = 0) -> StockClient:
    """Return a client whose TCP (and TLS) connection stands and whose CONNECT is queued.

    Args:
        config: which session.
        epoch: number of the connection.
        node: which of the broker's nodes; counted on from the last to the first again.

    Raises:
        OSError: nobody there, or TLS, the WebSocket or the proxy failed.
        ValueError: a file that the settings name cannot be used.
    """
    broker = config.broker
    v5 = broker.protocol == "5"
    keep = config.session_expiry_s > 0
    host, port = broker.nodes[node % len(broker.nodes)]
    carrier: Carrier = "unix" if host.startswith("/") else broker.transport
    client = make_client(config.client_id, v5=v5, clean=not keep, epoch=epoch, carrier=carrier)
    if carrier == "websockets":
        client.ws_set_options(path=broker.path)
    if broker.proxy is not None:
        client.proxy_set(**_proxy_options(broker.proxy))
    if broker.username is not None:
        client.username_pw_set(broker.username, password_of(broker))
    if broker.tls is not None:
        client.tls_set_context(tls_context(broker.tls))
    if config.will is not None:
        client.will_set(*config.will, qos=1, retain=True)
    client.connect_timeout = TCP_TIMEOUT_S
    if v5:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho's
        properties.SessionExpiryInterval = config.session_expiry_s
        properties.ReceiveMaximum = config.receive_maximum
        properties.MaximumPacketSize = config.max_packet_bytes
        client.connect(host, port, broker.keepalive_s, clean_start=not keep, properties=properties)
    else:
        client.connect(host, port, broker.keepalive_s)
    return client


def visit(config: LinkConfig, *, timeout_s: float, node: int = 0) -> StockClient:
    """Connect, wait for the broker's answer and leave, with a session that ends with us.

    Args:
        config: which session.
        timeout_s: for the broker to answer.
        node: which of the broker's nodes.

    Returns:
        The client: `session_present` is None unless the broker took us, and then `trouble` and
        `refusal` say why.

    Raises:
        OSError, ValueError: see `open_client`.
    """
    client = open_client(replace(config, session_expiry_s=0, will=None), epoch=0, node=node)
    try:
        _visit(client, timeout_s)
    finally:
        client.close()
    return client


def _visit(client: StockClient, timeout_s: float) -> None:
    poller = select.poll()
    until = time.monotonic() + timeout_s
    while (sock := client.socket()) is not None:
        if time.monotonic() >= until:
            client.trouble = client.trouble or "the broker did not answer"
            break
        if client.session_present is not None:
            client.disconnect()
        if client.want_write():
            client.loop_write()
            continue
        poller.register(sock.fileno(), select.POLLIN)
        if client.pending() or poller.poll(100):
            client.loop_read()


def forget_session(config: LinkConfig) -> None:
    """Have the broker drop the session: one that is begun clean under its name ends it.

    Does nothing where the broker cannot be reached: the session then ends by its expiry.
    """
    for node in range(len(config.broker.nodes)):
        with contextlib.suppress(OSError, ValueError):
            if visit(config, timeout_s=LAST_S, node=node).session_present is not None:
                return


def password_of(broker: Broker) -> str | None:
    """Return the password, read anew from its file at each connection: it may be rotated.

    Raises:
        OSError: the file cannot be read.
    """
    if broker.password is not None:
        return broker.password.get_secret_value()
    if broker.password_file is not None:
        return _password_in(broker.password_file)
    return None


def _password_in(file: Path) -> str:
    return file.read_text("utf-8").removesuffix("\n")


def _proxy_options(proxy: Proxy) -> dict[str, Any]:
    """Return what paho hands to PySocks, which it needs for this.

    Raises:
        ValueError: PySocks is not installed.
        OSError: the file with the password cannot be read.
    """
    try:
        import socks  # noqa: PLC0415 -- an extra, for those who have a proxy
    except ImportError:
        msg = "a proxy needs PySocks: pip install 'edgeslm[proxy]'"
        raise ValueError(msg) from None
    password = None if proxy.password_file is None else _password_in(proxy.password_file)
    return {
        "proxy_type": socks.HTTP if proxy.kind == "http" else socks.SOCKS5,
        "proxy_addr": proxy.host,
        "proxy_port": proxy.port,
        "proxy_rdns": True,  # names that only the proxy knows
        "proxy_username": proxy.username,
        "proxy_password": password,
    }


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Return what verifies the broker and shows our certificate.

    Raises:
        OSError: a file cannot be read, or holds no certificate or key (ssl.SSLError).
    """
    context = ssl.create_default_context(cafile=tls.ca_file)
    if tls.cert_file is not None:
        # An encrypted key is an error: without a password given, OpenSSL would ask the terminal.
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    return context


def describe(err: Exception, broker: Broker, node: int = 0) -> str:
    """Say which node of a broker failed how; no secret is in it."""
    host, port = broker.nodes[node % len(broker.nodes)]
    return f"{host}:{port}: {err}"
