"""Ways to a broker other than straight: WebSocket, with TLS, and proxies."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.adapters.mqtt_open import LinkConfig, visit
from edgeslm.adapters.paho_fast import FastClient, make_client
from edgeslm.adapters.paho_stock import StockClient
from edgeslm.contract.brokers import Broker
from tests.certificates import Authority
from tests.gateways import ConnectProxy, Gateway, SocksProxy, WebSocketGateway
from tests.mosquitto import Mosquitto

pytestmark = pytest.mark.broker


@pytest.fixture
def gateways() -> Iterator[list[Gateway]]:
    """Gateways that a test made, to be closed."""
    made: list[Gateway] = []
    yield made
    for gateway in made:
        gateway.close()


def reaches(**broker: Any) -> StockClient:
    config = LinkConfig("dev", Broker.model_validate(broker))
    return visit(config, timeout_s=5)


def test_a_websocket_goes_to_the_path_that_the_settings_name(
    mosquitto: Mosquitto, gateways: list[Gateway]
) -> None:
    gateways.append(web := WebSocketGateway(mosquitto.port))
    broker = {"host": "127.0.0.1", "port": web.port, "transport": "websockets", "path": "/a/b?c=1"}
    client = reaches(**broker)
    assert client.session_present is False
    assert type(client) is StockClient
    assert web.requests[0][0] == "GET /a/b?c=1 HTTP/1.1"
    assert "Sec-Websocket-Protocol: mqtt" in web.requests[0]


# Where the handshake fails, paho leaves the socket to be collected.
leaves_a_socket = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@leaves_a_socket
def test_a_websocket_with_tls_is_verified_like_any_other_broker(
    mosquitto: Mosquitto, gateways: list[Gateway], tmp_path: Path
) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ours.sign("broker"))
    gateways.append(web := WebSocketGateway(mosquitto.port, tls=context))
    broker = {"host": "127.0.0.1", "port": web.port, "transport": "websockets"}
    assert reaches(**broker, tls={"ca_file": ours.cert}).session_present is False
    assert web.requests[0][0] == "GET /mqtt HTTP/1.1"
    with pytest.raises(ssl.SSLCertVerificationError):
        reaches(**broker, tls={"ca_file": theirs.cert})
    assert len(web.requests) == 1


@leaves_a_socket
def test_what_is_no_websocket_is_told_as_trouble(mosquitto: Mosquitto) -> None:
    with pytest.raises(OSError, match=r"(?i)websocket"):
        reaches(host="127.0.0.1", port=mosquitto.port, transport="websockets")


def test_the_fast_client_stays_where_it_can() -> None:
    for carrier, kind in (("tcp", FastClient), ("unix", FastClient), ("websockets", StockClient)):
        client = make_client("dev", v5=True, clean=True, epoch=1, carrier=carrier)  # type: ignore[arg-type]
        assert type(client) is kind


def test_an_http_proxy_leads_to_the_broker_by_its_name(
    mosquitto: Mosquitto, gateways: list[Gateway], tmp_path: Path
) -> None:
    gateways.append(proxy := ConnectProxy(mosquitto.port, user="dev:secret"))
    (tmp_path / "password").write_text("secret\n")
    via = {"host": "127.0.0.1", "port": proxy.port}
    known = {**via, "username": "dev", "password_file": tmp_path / "password"}
    client = reaches(host="broker.elsewhere", port=1883, proxy=known)
    assert client.session_present is False
    assert isinstance(client, FastClient)
    assert proxy.asked == ["broker.elsewhere:1883"]
    with pytest.raises(OSError, match="407"):
        reaches(host="broker.elsewhere", port=1883, proxy=via)
    assert proxy.refused == 1


def test_a_socks_proxy_looks_names_up(mosquitto: Mosquitto, gateways: list[Gateway]) -> None:
    gateways.append(proxy := SocksProxy(mosquitto.port))
    via = {"kind": "socks5", "host": "127.0.0.1", "port": proxy.port}
    assert reaches(host="broker.elsewhere", port=1884, proxy=via).session_present is False
    assert proxy.asked == ["broker.elsewhere:1884"]


def test_a_websocket_goes_through_a_proxy(mosquitto: Mosquitto, gateways: list[Gateway]) -> None:
    gateways.append(web := WebSocketGateway(mosquitto.port))
    gateways.append(proxy := ConnectProxy(web.port))
    via = {"host": "127.0.0.1", "port": proxy.port}
    client = reaches(host="broker.elsewhere", transport="websockets", proxy=via)
    assert client.session_present is False
    assert proxy.asked == ["broker.elsewhere:80"]
    assert "Host: broker.elsewhere" in web.requests[0]


def test_a_proxy_without_its_package_says_what_to_install(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "socks", None)
    with pytest.raises(ValueError, match=r"edgeslm\[proxy\]"):
        reaches(host="h", port=mosquitto.port, proxy={"host": "127.0.0.1", "port": 1})
