"""A faster paho client for the versions of paho it was tested with; the stock one otherwise.

Stock paho makes three or more system calls and builds a 22 us object of properties for each
message. This one reads 64 KB at a time, longer packets in larger pieces, and decodes PUBLISH and
PUBACK itself; all other packets go to paho's own handlers. It overrides private methods, so it is
used only on versions in `TESTED`: adding one takes a green run of tests/contract/test_transport.py
and tests/adapters/.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final

import paho.mqtt
from paho.mqtt.client import PUBACK, PUBLISH, MQTTMessageInfo
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.exception import MQTTException

from edgeslm.adapters.paho_stock import NO_PROPERTIES, Carrier, StockClient
from edgeslm.ports import Publication, Received

TESTED: Final = frozenset({"2.2.0"})
READ_AHEAD: Final = 65_536
READ_MOST: Final = 1 << 20  # at once, while a packet that is longer than that comes in
MAX_TOPICS: Final = 4096  # whose decoded form is kept
_QOS: Final = 0x06
_QOS_1: Final = 0x02
_U16: Final = struct.Struct("!H")
_PUBACK: Final = struct.Struct("!BBH")
_CORRELATION_DATA: Final = 9
# MQTT 5, 2.2.2.2, those of PUBLISH: how long the value is (0: 2 bytes say it).
_FIXED: Final = {1: 1, 2: 4, 35: 2}
_SIZED: Final = {3: 1, 8: 1, 9: 1, 38: 2}  # how many sized strings follow
_SUBSCRIPTION_ID: Final = 11


def make_client(
    client_id: str, *, v5: bool, clean: bool, epoch: int, carrier: Carrier = "tcp"
) -> StockClient:
    """Return the best client for the paho that is installed.

    Over WebSocket that is the stock one: paho's frames give what one packet needs and no more, so
    there is nothing to read ahead, and packets that were joined would be one frame to it.
    """
    fast = paho.mqtt.__version__ in TESTED and carrier != "websockets"
    kind = FastClient if fast else StockClient
    return kind(client_id, v5=v5, clean=clean, epoch=epoch, carrier=carrier)


class FastClient(StockClient):
    """A `StockClient` with its own reading, and writing of whole bursts."""

    def __init__(
        self, client_id: str, *, v5: bool, clean: bool, epoch: int, carrier: Carrier = "tcp"
    ) -> None:
        super().__init__(client_id, v5=v5, clean=clean, epoch=epoch, carrier=carrier)
        self._held = bytearray()  # the beginning of a packet whose end has not come
        self._need = 0  # bytes that `_held` must have before it is worth a look
        self._topics: dict[bytes, str] = {}

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        del max_packets
        if self._sock is None:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        try:
            data = self._sock_recv(READ_AHEAD if self._need <= READ_AHEAD else READ_MOST)
        except BlockingIOError:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        except OSError as err:
            self._heed(err)
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        if not data:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        with self._msgtime_mutex:
            self._last_bytes_received = self.received_at
        if self._held:
            if len(self._held) + len(data) < self._need:
                self._held += data
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            data = b"".join((self._held, data))
            self._held.clear()
        try:
            rc = self._take(data)
        except (MQTTException, IndexError, struct.error, UnicodeDecodeError):
            rc = MQTTErrorCode.MQTT_ERR_PROTOCOL
        return self._loop_rc_handle(rc) if rc else rc

    def _sock_send(self, buf: bytes | bytearray) -> int:
        try:
            return super()._sock_send(buf)
        except BlockingIOError:
            raise
        except OSError:  # who has hung up may have said why, and that lies there unread
            try:
                self._sock_recv(1)
            except OSError as err:
                self._heed(err)
            raise

    def _heed(self, err: OSError) -> None:
        self.alert = self.alert or alert_of(err)
        if self.alert:
            self.trouble = self.trouble or f"the broker's TLS: {self.alert}"

    def send(self, publications: Iterable[Publication]) -> list[int]:
        parts: list[bytes] = []
        mids: list[int] = []
        for item in publications:
            mid = self._mid_generate()
            mids.append(mid)
            topic = item.topic.encode()
            properties = b""
            if self.v5:
                properties = _encode_properties(item.properties) if item.properties else b"\0"
            payload = item.payload
            size = 4 + len(topic) + len(properties) + len(payload)
            if item.qos:
                parts += (
                    _HEADS[item.retain],
                    _encode_length(size),
                    _U16.pack(len(topic)),
                    topic,
                    _U16.pack(mid),
                    properties,
                    payload,
                )
                continue
            self._queue(parts)
            parts = [
                _HEADS_0[item.retain],
                _encode_length(size - 2),
                _U16.pack(len(topic)),
                topic,
                properties,
                payload,
            ]
            # A view: what a write leaves of a long packet is not copied for the next. When it is
            # written, paho says so by the number.
            packet = memoryview(b"".join(parts))
            self._packet_queue(PUBLISH, packet, mid, 0, MQTTMessageInfo(mid))  # type: ignore[arg-type]
            parts = []
        self._queue(parts)
        return mids

    def acknowledge(self, mids: Iterable[int]) -> None:
        pack = _PUBACK.pack
        if packets := b"".join([pack(PUBACK, 2, mid) for mid in mids]):
            self._packet_queue(PUBACK, packets, 0, 1)

    def _queue(self, parts: list[bytes]) -> None:
        """Queue packets at QoS 1.

        For paho one packet, whatever is in it: it writes bytes and looks at the kind alone.
        """
        if parts:
            self._packet_queue(PUBLISH, b"".join(parts), 0, 1)

    def _take(self, data: bytes) -> MQTTErrorCode:
        """Handle every whole packet in `data`, keep the rest."""
        at, end = 0, len(data)
        self._need = 0
        arrived, confirmed = self.arrived, self.confirmed
        while at + 2 <= end:
            head, size = data[at], data[at + 1]
            body = at + 2
            if size & 0x80:
                size, body = _decode_length(data, at + 1)
                if body < 0:
                    break
            stop = body + size
            if stop > end:
                self._need = stop - at
                break
            kind = head & 0xF0
            if kind == PUBLISH and head & _QOS <= _QOS_1:
                arrived.append(self._publish(data, head, body, stop))
            elif kind == PUBACK and size >= 2:  # noqa: PLR2004 -- the packet id's size
                code = data[body + 2] if size > 2 else 0  # noqa: PLR2004
                confirmed.append((data[body] << 8 | data[body + 1], code))
            else:
                rc = self._other(head, data[body:stop])
                if rc or self._sock is None:
                    return rc
            at = stop
        if at < end:
            self._held += data[at:]
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _publish(self, data: bytes, head: int, body: int, stop: int) -> Received:
        at = body + 2 + (data[body] << 8 | data[body + 1])
        raw = data[body + 2 : at]
        topic = self._topics.get(raw)
        if topic is None:
            topic = raw.decode("utf-8", "replace")
            if len(self._topics) >= MAX_TOPICS:
                self._topics.clear()
            self._topics[raw] = topic
        qos = head >> 1 & 1
        mid = 0
        if qos:
            mid = data[at] << 8 | data[at + 1]
            at += 2
        properties = NO_PROPERTIES
        if self.v5:
            if data[at] == 0:
                at += 1
            else:
                length, at = _decode_length(data, at)
                properties = _decode_properties(data[at : at + length])
                at += length
        if at > stop:
            raise IndexError
        return Received(
            topic,
            data[at:stop],
            mid,
            qos,
            head & 0x08 != 0,
            head & 0x01 != 0,
            self.epoch,
            self.received_at,
            properties,
        )

    def _other(self, head: int, body: bytes) -> MQTTErrorCode:
        """Hand a packet to paho, as if it had just read it."""
        self._in_packet = {
            "command": head,
            "have_remaining": 1,
            "remaining_count": [],
            "remaining_mult": 1,
            "remaining_length": len(body),
            "packet": bytearray(body),
            "to_process": 0,
            "pos": 0,
        }
        return self._packet_handle()


_HEADS: Final = (bytes([PUBLISH | _QOS_1]), bytes([PUBLISH | _QOS_1 | 1]))  # by retain
_HEADS_0: Final = (bytes([PUBLISH]), bytes([PUBLISH | 1]))


def alert_of(err: OSError) -> str:
    """Return what the other side's TLS has said before it hung up; "" where it said nothing."""
    _, said, what = (getattr(err, "reason", None) or "").partition("ALERT_")
    return what.replace("_", " ").lower() if said else ""


def _encode_length(size: int) -> bytes:
    """MQTT 5, 1.5.5: seven bits a byte, lowest first."""
    out = bytearray()
    while size > 0x7F:  # noqa: PLR2004 -- seven bits
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


def _decode_length(data: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends); (0, -1) where `data` ends before it.

    Raises:
        MQTTException: it is longer than four bytes.
    """
    size = 0
    for i in range(4):
        if at + i >= len(data):
            return 0, -1
        byte = data[at + i]
        size |= (byte & 0x7F) << 7 * i
        if not byte & 0x80:
            return size, at + i + 1
    msg = "a length of more than four bytes"
    raise MQTTException(msg)


def _encode_properties(properties: Mapping[str, object]) -> bytes:
    value = properties.get("CorrelationData")
    if not isinstance(value, bytes):
        return b"\0"
    body = bytes([_CORRELATION_DATA]) + _U16.pack(len(value)) + value
    return _encode_length(len(body)) + body


def _decode_properties(data: bytes) -> Mapping[str, object]:  # noqa: C901 -- one row a kind
    """Those of a PUBLISH that matter to us.

    Raises:
        MQTTException, IndexError, struct.error: malformed.
    """
    found: dict[str, object] = {}
    pairs: list[tuple[str, str]] = []
    at = 0
    while at < len(data):
        kind = data[at]
        at += 1
        if kind in _FIXED:
            value = data[at : at + _FIXED[kind]]
            at += _FIXED[kind]
            if kind == 2:  # noqa: PLR2004 -- Message Expiry Interval
                found["MessageExpiryInterval"] = int.from_bytes(value, "big")
        elif kind in _SIZED:
            strings: list[bytes] = []
            for _ in range(_SIZED[kind]):
                (size,) = _U16.unpack_from(data, at)
                strings.append(data[at + 2 : at + 2 + size])
                at += 2 + size
            if kind == _CORRELATION_DATA:
                found["CorrelationData"] = strings[0]
            elif len(strings) == 2:  # noqa: PLR2004 -- a User Property
                pairs.append((strings[0].decode(), strings[1].decode()))
        elif kind == _SUBSCRIPTION_ID:
            _, at = _decode_length(data, at)
        else:
            msg = f"property {kind} in a PUBLISH"
            raise MQTTException(msg)
    if at != len(data):
        raise IndexError
    if pairs:
        found["UserProperty"] = pairs
    return found
