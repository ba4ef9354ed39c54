"""What stands between a device and its broker where only HTTP gets out, for tests."""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import struct
from typing import Final

from tests.proxy import Proxy

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_BINARY: Final = 0x82
_FRAME: Final = 32_768  # bytes of a frame to the client, at most
_SOCKS_5: Final = 5


class Gateway(Proxy):
    """Speaks with the client first; then its bytes, as the gateway reads them, go to the broker.

    Args:
        port: of the broker.
    """

    def __init__(self, port: int) -> None:
        self._broker = port
        self._held: dict[socket.socket, bytearray] = {}  # by client: what has not been read
        self._through: set[socket.socket] = set()
        super().__init__(port)

    def passed(self, end: socket.socket, data: bytes) -> bytes:
        if end.getpeername()[1] == self._broker:
            return self.wrapped(data)
        held = self._held.setdefault(end, bytearray())
        held += data
        if end not in self._through and self.greeted(end, held):
            self._through.add(end)
        return self.unwrapped(held) if end in self._through else b""

    def greeted(self, client: socket.socket, held: bytearray) -> bool:
        """Answer what of the greeting is in `held`; return whether that was all of it."""
        raise NotImplementedError

    def wrapped(self, data: bytes) -> bytes:
        return data

    def unwrapped(self, held: bytearray) -> bytes:
        data = bytes(held)
        held.clear()
        return data


class WebSocketGateway(Gateway):
    """A broker's WebSocket listener (RFC 6455).

    Args:
        port: of the broker.
        tls: how it shows who it is; without TLS where absent.

    Attributes:
        requests: lines of the clients' requests.
    """

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[list[str]] = []
        self._tls = tls
        super().__init__(port)

    def admitted(self, client: socket.socket) -> socket.socket:
        return client if self._tls is None else self._tls.wrap_socket(client, server_side=True)

    def greeted(self, client: socket.socket, held: bytearray) -> bool:
        head, end, _ = bytes(held).partition(b"\r\n\r\n")
        if not end:
            return False
        del held[: len(head) + 4]
        lines = head.decode().split("\r\n")
        self.requests.append(lines)
        headers = dict(line.split(": ", 1) for line in lines[1:])
        key = headers["Sec-WebSocket-Key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()  # noqa: S324 -- as specified
        client.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n".encode()
        )
        return True

    def wrapped(self, data: bytes) -> bytes:
        out = b""
        for at in range(0, len(data), _FRAME):
            part = data[at : at + _FRAME]
            size = bytes([len(part)]) if len(part) < 126 else struct.pack("!BH", 126, len(part))
            out += bytes([_BINARY]) + size + part
        return out

    def unwrapped(self, held: bytearray) -> bytes:
        out = bytearray()
        while len(held) >= 2:
            size, at = held[1] & 0x7F, 2
            for kind, form in ((126, "!H"), (127, "!Q")):
                if size == kind:
                    at += struct.calcsize(form)
                    if len(held) < at:
                        return bytes(out)
                    (size,) = struct.unpack_from(form, held, 2)
                    break
            if len(held) < at + 4 + size:
                break
            mask = int.from_bytes((held[at : at + 4] * (size // 4 + 1))[:size], "big")
            body = int.from_bytes(held[at + 4 : at + 4 + size], "big")
            out += (body ^ mask).to_bytes(size, "big")
            del held[: at + 4 + size]
        return bytes(out)


class ConnectProxy(Gateway):
    """An HTTP proxy that lets a user through to any place; it is always our broker.

    Attributes:
        asked: where clients wanted to go.
        refused: how many it did not know.
    """

    def __init__(self, port: int, *, user: str | None = None) -> None:
        self.asked: list[str] = []
        self.refused = 0
        self._user = user
        super().__init__(port)

    def greeted(self, client: socket.socket, held: bytearray) -> bool:
        head, end, _ = bytes(held).partition(b"\r\n\r\n")
        if not end:
            return False
        del held[: len(head) + 4]
        lines = head.decode().split("\r\n")
        said = base64.b64encode((self._user or "").encode()).decode().lower()
        if self._user is not None and not any(said in line.lower() for line in lines[1:]):
            self.refused += 1
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return False
        assert lines[0].startswith("CONNECT ")
        self.asked.append(lines[0].split()[1])
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return True


class SocksProxy(Gateway):
    """A SOCKS5 proxy (RFC 1928) without authentication; the place is always our broker.

    Attributes:
        asked: where clients wanted to go.
    """

    def __init__(self, port: int) -> None:
        self.asked: list[str] = []
        self._chosen: set[socket.socket] = set()
        super().__init__(port)

    def greeted(self, client: socket.socket, held: bytearray) -> bool:
        if client not in self._chosen:
            if len(held) < 2 or len(held) < 2 + held[1]:
                return False
            assert held[0] == _SOCKS_5
            del held[: 2 + held[1]]
            self._chosen.add(client)
            client.sendall(bytes([_SOCKS_5, 0]))
        if len(held) < 5 or len(held) < 7 + held[4]:
            return False
        version, command, _, kind, size = held[:5]
        assert (version, command, kind) == (_SOCKS_5, 1, 3), "CONNECT to a name, which we look up"
        name = held[5 : 5 + size].decode()
        (port,) = struct.unpack_from("!H", held, 5 + size)
        del held[: 7 + size]
        self.asked.append(f"{name}:{port}")
        client.sendall(bytes([_SOCKS_5, 0, 0, 1, 127, 0, 0, 1, 0, 0]))
        return True
