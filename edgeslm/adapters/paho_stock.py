"""One MQTT connection on paho's public interface, driven by somebody else's loop."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeGuard

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgeslm.ports import Publication, Received

Carrier = Literal["tcp", "websockets", "unix"]
_MATTERING: Final = ("MessageExpiryInterval", "CorrelationData", "UserProperty")
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
NO_PROPERTIES: Final[Mapping[str, object]] = {}
GRANTED_MAX: Final = 2  # SUBACK codes up to it are granted QoS


class StockClient(paho.Client):
    """A paho client that collects what comes in and says what happened.

    Callbacks append to lists, nothing else; the owner empties these after each `loop_read`.

    Args:
        client_id: the session's name.
        v5: MQTT 5; else 3.1.1.
        clean: begin with an empty session, and leave none behind (3.1.1).
        epoch: number that received messages carry.
        carrier: what carries the packets; with "unix" the host is the path of a socket.

    Attributes:
        arrived: messages since the owner looked.
        confirmed: (packet id, reason code) of publications since the owner looked; those at QoS 0
            when they have been written.
        session_present: None until the broker has accepted the connection.
        trouble: why the connection was refused or is gone; "" while it is not.
        refusal: MQTT 5 reason code with which the broker said no; 0: it did not.
        alert: what the broker's TLS has said before it hung up, such as "certificate revoked"; ""
            where it said nothing, or who reads does not tell.
        quota: most publications the broker takes unconfirmed (MQTT 5).
        largest: most bytes of a packet that the broker takes (MQTT 5).
        max_packet_bytes: the largest packet that the broker takes; None: it named none.
        received_at: monotonic seconds, set by the owner before `loop_read`.
        suback: (packet id, whether each filter was granted), unsubscriptions as an empty list.
    """

    def __init__(
        self, client_id: str, *, v5: bool, clean: bool, epoch: int, carrier: Carrier = "tcp"
    ) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if v5 else clean,
            protocol=MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311,
            transport=carrier,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.epoch = epoch
        self.v5 = v5
        self.arrived: list[Received] = []
        self.confirmed: list[tuple[int, int]] = []
        self.suback: list[tuple[int, list[bool]]] = []
        self.session_present: bool | None = None
        self.trouble = ""
        self.refusal = 0
        self.alert = ""
        self.quota = 65_535
        self.max_packet_bytes: int | None = None
        self.largest = 0xFFFF_FFFF
        self.received_at = 0.0
        self.max_inflight_messages_set(0)  # bounded by the owner
        self.on_connect = self._note_connected
        self.on_disconnect = self._note_disconnected
        self.on_message = self._note_message
        self.on_publish = self._note_published
        self.on_subscribe = self._note_subscribed
        self.on_unsubscribe = self._note_unsubscribed
        self.on_socket_open = _tune
        # Its presence alone makes paho queue packets for `loop_write` instead of one write each.
        self.on_socket_register_write = _nothing

    def send(self, publications: Iterable[Publication]) -> list[int]:
        """Queue these for the next `loop_write`; return their packet ids."""
        mids = []
        for item in publications:
            properties = None
            if item.properties and self.v5:
                properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call] # paho's
                for name, value in item.properties.items():
                    setattr(properties, name, value)
            done = self.publish(item.topic, item.payload, item.qos, item.retain, properties)
            mids.append(done.mid)
        return mids

    def acknowledge(self, mids: Iterable[int]) -> None:
        """Queue the acknowledgement of these messages for the next `loop_write`."""
        for mid in mids:
            self.ack(mid, 1)

    def ask_for(self, filters: Iterable[str]) -> int:
        """Subscribe at QoS 1; return the packet id that `suback` will name."""
        if self.v5:
            # Retained messages come once for a subscription, not at every reconnection.
            options = SubscribeOptions(
                qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
            )
            _, mid = self.subscribe([(topic, options) for topic in filters])
        else:
            _, mid = self.subscribe([(topic, 1) for topic in filters])
        return mid or 0

    def drop(self, filters: Iterable[str]) -> int:
        """Unsubscribe; return the packet id that `suback` will name."""
        _, mid = self.unsubscribe(list(filters))
        return mid or 0

    def pending(self) -> bool:
        """Whether TLS holds decrypted bytes that no poll reports."""
        sock = _carried(self.socket())
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    def rearm(self) -> None:
        """Have the kernel acknowledge at once what comes next; Linux forgets it each time."""
        sock = _carried(self.socket())
        if _QUICKACK is not None and _is_tcp(sock):
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def close(self) -> None:
        """Let go of the socket now; paho's references to itself keep it until a collection."""
        if (sock := self.socket()) is not None:
            sock.close()

    def _note_connected(
        self, _c: object, _u: object, flags: paho.ConnectFlags, code: ReasonCode, props: Any
    ) -> None:
        if code.is_failure:
            self.trouble = f"the broker refused the connection: {code}"
            self.refusal = code.value
            return
        self.session_present = flags.session_present
        self.quota = getattr(props, "ReceiveMaximum", self.quota)
        self.max_packet_bytes = getattr(props, "MaximumPacketSize", None)
        self.largest = getattr(props, "MaximumPacketSize", self.largest)

    def _note_disconnected(
        self, _c: object, _u: object, _flags: object, code: ReasonCode, _props: object
    ) -> None:
        self.trouble = self.trouble or f"disconnected: {code}"

    def _note_message(self, _c: object, _u: object, message: paho.MQTTMessage) -> None:
        found = NO_PROPERTIES
        if message.properties is not None:
            held = vars(message.properties)
            found = {name: held[name] for name in _MATTERING if name in held}
        self.arrived.append(
            Received(
                message._topic.decode("utf-8", "replace"),  # noqa: SLF001 -- `.topic` may raise
                bytes(message.payload),
                message.mid,
                message.qos,
                message.dup,
                message.retain,
                self.epoch,
                self.received_at,
                found,
            )
        )

    def _note_published(
        self, _c: object, _u: object, mid: int, code: ReasonCode, _props: object
    ) -> None:
        self.confirmed.append((mid, code.value))

    def _note_subscribed(
        self, _c: object, _u: object, mid: int, codes: list[ReasonCode], _props: object
    ) -> None:
        self.suback.append((mid, [code.value <= GRANTED_MAX for code in codes]))

    def _note_unsubscribed(
        self, _c: object, _u: object, mid: int, _codes: object, _props: object
    ) -> None:
        self.suback.append((mid, []))


def _tune(_client: object, _userdata: object, sock: object) -> None:
    """No Nagle: a small packet leaves at once."""
    sock = _carried(sock)
    if _is_tcp(sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _carried(sock: object) -> object:
    """Return the socket below paho's WebSocket, or `sock` where there is none."""
    return getattr(sock, "_socket", sock) if type(sock).__module__ == paho.__name__ else sock


def _is_tcp(sock: object) -> TypeGuard[socket.socket]:
    return isinstance(sock, socket.socket) and sock.family != socket.AF_UNIX


def _nothing(_client: object, _userdata: object, _sock: object) -> None:
    """Do nothing: the owner asks `want_write`."""
