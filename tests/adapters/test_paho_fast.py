"""The fast client understands what a broker says, however the bytes are cut, and is understood."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import paho.mqtt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt import _packet
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeslm.adapters.paho_fast import TESTED, FastClient, make_client
from edgeslm.adapters.paho_stock import StockClient
from edgeslm.core.delivery import Parcel
from edgeslm.ports import Received

PUBLISH = 0x30
MATTERING = ("MessageExpiryInterval", "CorrelationData", "UserProperty")


@contextlib.contextmanager
def client(*, v5: bool) -> Iterator[tuple[FastClient, socket.socket]]:
    """A client that believes to be connected, and the broker's end."""
    made = FastClient("c", v5=v5, clean=True, epoch=7)
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    theirs.settimeout(5)
    made._sock = ours  # noqa: SLF001 -- the one thing that stands in for a network
    try:
        yield made, theirs
    finally:
        theirs.close()
        made._sock_close()  # noqa: SLF001


def length(size: int) -> bytes:
    out = b""
    while size > 127:
        out += bytes([size % 128 | 128])
        size //= 128
    return out + bytes([size])


def publish(message: Received, given: Mapping[str, Any], *, v5: bool) -> bytes:
    """A PUBLISH packet, its properties packed by paho."""
    topic = message.topic.encode()
    body = struct.pack("!H", len(topic)) + topic
    if message.qos:
        body += struct.pack("!H", message.mid)
    if v5:
        made = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call] # paho's
        for name, value in given.items():
            setattr(made, name, value)
        body += made.pack()  # type: ignore[no-untyped-call]
    body += message.payload
    head = PUBLISH | message.dup << 3 | message.qos << 1 | message.retain
    return bytes([head]) + length(len(body)) + body


text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
properties = st.fixed_dictionaries(
    {},
    optional={
        "MessageExpiryInterval": st.integers(0, 2**32 - 1),
        "CorrelationData": st.binary(max_size=8),
        "UserProperty": st.lists(st.tuples(text, text), min_size=1, max_size=3),
        "ContentType": text,
        "ResponseTopic": text,
        "PayloadFormatIndicator": st.integers(0, 1),
        "SubscriptionIdentifier": st.lists(st.integers(1, 268_435_455), min_size=1, max_size=2),
        "TopicAlias": st.integers(1, 65_535),
    },
)
payloads = st.binary(max_size=40) | st.sampled_from(
    [bytes(200), bytes(20_000), bytes(70_000), bytes(131_088), bytes(1_200_000)]
)


@st.composite
def messages(draw: st.DrawFn) -> tuple[Received, Mapping[str, Any]]:
    qos = draw(st.integers(0, 1))
    given_ = draw(properties)
    message = Received(
        draw(st.sampled_from(["t", "a/b", "a/\N{SNOWMAN}", "x" * 200])),
        draw(payloads),
        draw(st.integers(1, 65_535)) if qos else 0,
        qos,
        draw(st.booleans()) and qos == 1,
        draw(st.booleans()),
        7,
        0.0,
        {k: v for k, v in given_.items() if k in MATTERING},
    )
    return message, given_


pubacks = st.tuples(st.integers(1, 65_535), st.sampled_from([None, 0, 0x10, 0x87]))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(messages() | pubacks, min_size=1, max_size=8),
    st.lists(st.integers(0, 1_000_000), max_size=12),
    st.booleans(),
)
def test_reads_what_was_written_however_it_is_cut(
    said: list[tuple[Received, Mapping[str, Any]] | tuple[int, int | None]],
    cuts: list[int],
    v5: bool,  # noqa: FBT001
) -> None:
    packets: list[bytes] = []
    arrived: list[Received] = []
    confirmed: list[tuple[int, int]] = []
    for first, second in said:
        if isinstance(first, Received) and isinstance(second, Mapping):
            packets.append(publish(first, second, v5=v5))
            arrived.append(first if v5 else first._replace(properties={}))
        elif isinstance(first, int) and not isinstance(second, Mapping):
            tail = bytes([second]) if v5 and second is not None else b""
            packets.append(b"\x40" + bytes([2 + len(tail)]) + struct.pack("!H", first) + tail)
            confirmed.append((first, tail[0] if tail else 0))
    stream = b"".join(packets)
    edges = [0, *sorted(c % (len(stream) + 1) for c in cuts), len(stream)]
    with client(v5=v5) as (made, broker):
        for start, end in itertools.pairwise(edges):
            for at in range(start, end, 30_000):
                broker.sendall(stream[at : min(end, at + 30_000)])
                made.loop_read()
        assert made.socket() is not None
        assert made.arrived == arrived
        assert made.confirmed == confirmed


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=60), st.booleans())
def test_garbage_ends_the_connection_or_is_waited_for_and_never_raises(
    garbage: bytes,
    v5: bool,  # noqa: FBT001
) -> None:
    with client(v5=v5) as (made, broker):
        broker.sendall(garbage)
        made.loop_read()


@pytest.mark.parametrize(
    "packet",
    [
        b"\x30\x01\x00",  # a topic length of half its size
        b"\x32\x04\x00\x05ab",  # a topic longer than the packet
        b"\x32\x05\x00\x01t\x00",  # no packet id
        b"\x30\x05\x00\x01t\x09\x09",  # properties longer than the packet
        b"\x30\x06\x00\x01t\x02\xfe\x00",  # an unknown property
        b"\x30\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x40\x01\x00",  # half a packet id
        b"\xf0\x00",  # AUTH, which nobody asked for
    ],
)
def test_a_malformed_packet_ends_the_connection(packet: bytes) -> None:
    with client(v5=True) as (made, broker):
        broker.sendall(packet + b"\0" * 20)
        made.loop_read()
        assert made.socket() is None
        assert made.arrived == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            Parcel,
            st.sampled_from(["t", "a/\N{SNOWMAN}"]),
            payloads,
            st.just(0.0),
            properties=st.just({}) | st.builds(lambda b: {"CorrelationData": b}, st.binary()),
            retain=st.booleans(),
            qos=st.integers(0, 1),
        ),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_paho_reads_what_is_written(
    parcels: list[Parcel],
    v5: bool,  # noqa: FBT001
) -> None:
    protocol = MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311
    with client(v5=v5) as (made, broker):
        mids = made.send(parcels)
        made.acknowledge([5, 65_535])
        got = b""
        assert made.confirmed == []
        while made.want_write():
            made.loop_write()
            got += broker.recv(1 << 20)
        written = [mid for parcel, mid in zip(parcels, mids, strict=True) if not parcel.qos]
        assert made.confirmed == [(mid, 0) for mid in written]
        broker.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while chunk := broker.recv(1 << 20):
                got += chunk
    for parcel, mid in zip(parcels, mids, strict=True):
        head, size, got = split(got)
        packet = _packet.decode_publish(head, size, protocol)
        assert packet.topic.decode() == parcel.topic
        assert (packet.payload, packet.qos) == (parcel.payload, parcel.qos)
        assert packet.mid == (mid if parcel.qos else 0)
        assert packet.retain == parcel.retain
        assert not packet.dup
        if v5:
            correlation = getattr(packet.properties, "CorrelationData", None)
            assert correlation == parcel.properties.get("CorrelationData")
    assert got == b"\x40\x02\x00\x05\x40\x02\xff\xff"


def split(stream: bytes) -> tuple[int, bytes, bytes]:
    """(first byte, body, what follows) of the first packet."""
    size, shift, at = 0, 0, 1
    while True:
        byte = stream[at]
        size |= (byte & 127) << shift
        shift += 7
        at += 1
        if byte < 128:
            return stream[0], stream[at : at + size], stream[at + size :]


class HungUp:
    """A TLS socket whose other end has said why, and hung up, before anything was written."""

    def send(self, _data: bytes) -> int:
        raise ssl.SSLEOFError(8, "EOF occurred in violation of protocol")

    def recv(self, _most: int) -> bytes:
        err = ssl.SSLError(1, "sslv3 alert certificate revoked")
        err.reason = "SSLV3_ALERT_CERTIFICATE_REVOKED"
        raise err

    def close(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("writes", [True, False])
def test_an_alert_is_heard_whoever_comes_first(*, writes: bool) -> None:
    with client(v5=True) as (made, _):
        made._sock_close()  # noqa: SLF001
        made._sock = HungUp()  # type: ignore[assignment] # noqa: SLF001
        if writes:
            made.acknowledge([5])
            made.loop_write()
        else:
            made.loop_read()
        assert made.alert == "certificate revoked"
        assert made.trouble == "the broker's TLS: certificate revoked"
        assert made.socket() is None


def test_only_tested_versions_of_paho_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paho.mqtt.__version__ in TESTED  # else this release is slower than it was measured
    assert isinstance(make_client("c", v5=True, clean=True, epoch=1), FastClient)
    monkeypatch.setattr(paho.mqtt, "__version__", "2.9.9")
    stock = make_client("c", v5=True, clean=True, epoch=1)
    assert type(stock) is StockClient
