"""A network between a client and a broker that a test can break."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable


class Proxy:
    """Forwards connections to a port of this machine until it is told otherwise."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0)
        self.port: int = self._server.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._ear, self._bell = socket.socketpair()
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._lock = threading.Lock()
        self._silent = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Break every connection; new ones are taken."""
        with self._lock:
            self._drop_all()

    def silence(self, *, silent: bool) -> None:
        """Hold back every byte, as a network does whose cable is out."""
        self._silent = silent
        self._bell.send(b"!")

    def close(self) -> None:
        """End."""
        self._closing = True
        self._bell.send(b"!")
        self._thread.join(5)
        with self._lock:
            self._drop_all()
        for end in (self._server, self._ear, self._bell):
            end.close()
        self._selector.close()

    def admitted(self, client: socket.socket) -> socket.socket:
        """What is spoken with, of a client that has just come."""
        return client

    def passed(self, end: socket.socket, data: bytes) -> bytes:
        """What goes on of the bytes that came from `end`."""
        del end
        return data

    def _run(self) -> None:
        while not self._closing:
            events = self._selector.select()
            with self._lock:
                for key, _ in events:
                    if key.fileobj is self._server:
                        self._accept()
                    elif key.fileobj is self._ear:
                        self._ear.recv(100)
                        self._watch()
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._peers:
                        self._forward(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._server.accept()
        try:
            client = self.admitted(client)
            broker = socket.create_connection(("127.0.0.1", self._target), timeout=2)
        except OSError:
            client.close()
            return
        for one, other in ((client, broker), (broker, client)):
            one.settimeout(5)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._peers[one] = other
        self._watch()

    def _watch(self) -> None:
        for end in self._peers:
            watched = end in self._selector.get_map()
            if self._silent and watched:
                self._selector.unregister(end)
            elif not self._silent and not watched:
                self._selector.register(end, selectors.EVENT_READ)

    def _forward(self, end: socket.socket) -> None:
        try:
            data = end.recv(65536)
            if data:
                self._peers[end].sendall(self.passed(end, data))
        except OSError:
            data = b""
        if not data:
            self._drop(end)

    def _drop(self, end: socket.socket) -> None:
        other = self._peers.pop(end)
        del self._peers[other]
        for each in (end, other):
            with contextlib.suppress(KeyError):
                self._selector.unregister(each)
            each.close()

    def _drop_all(self) -> None:
        while self._peers:
            self._drop(next(iter(self._peers)))


class LossyProxy(Proxy):
    """Loses messages at QoS 0 on their way to the client, as a broker does that has no room.

    Args:
        port: of the broker.
        lose: whether the next such message is lost.

    Attributes:
        bytes: that the broker sent, the lost ones included.
        lost: messages.
    """

    def __init__(self, port: int, lose: Callable[[], bool]) -> None:
        self.bytes = 0
        self.lost = 0
        self._lose = lose
        self._broker = port
        self._begun: dict[socket.socket, bytearray] = {}
        super().__init__(port)

    def passed(self, end: socket.socket, data: bytes) -> bytes:
        if end.getpeername()[1] != self._broker:
            return data
        self.bytes += len(data)
        held = self._begun.setdefault(end, bytearray())
        held += data
        out = bytearray()
        while (size := _packet(held)) is not None and size <= len(held):
            if held[0] & 0xF6 == 0x30 and self._lose():
                self.lost += 1
            else:
                out += held[:size]
            del held[:size]
        return bytes(out)


def _packet(data: bytearray) -> int | None:
    """Bytes of the first MQTT packet; None where its length has not come whole."""
    size = shift = 0
    for at, byte in enumerate(data[1:5], start=2):
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return at + size
    return None
