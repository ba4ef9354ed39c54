"""One page over HTTP, for this machine alone: one thread, and no client holds up another."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, Generic, TypeVar

from edgeslm.errors import UnavailableError
from edgeslm.logs import Log

log = Log(__name__)
T = TypeVar("T")
MAX_CLIENTS: Final = 16  # at a time; for another, the one that has been there longest goes
MAX_REQUEST_BYTES: Final = 8192
CLIENT_S: Final = 5.0  # for a whole exchange
FRESH_S: Final = 1.0  # what is younger is shown again
DEAF_S: Final = 1.0  # without descriptors, until the next attempt to let somebody in
PATIENCE_S: Final = 2.0  # for something fresh; then what there is
_END: Final = b"\r\n\r\n"
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class PageUnavailableError(UnavailableError):
    """The address of [metrics] cannot be listened on: another has it, or it is not this host's."""

    code = "metrics.address"


@dataclass(slots=True, eq=False)
class _Client:
    """One connection, from its first byte to ours."""

    socket: socket.socket
    until: float
    request: bytes = b""
    asked_at: float | None = None  # its request is whole, and waits for the page
    answer: memoryview = field(default_factory=lambda: memoryview(b""))


class PageServer(Generic[T]):
    """Shows what its owner puts, rendered when it is asked for.

    Args:
        address: host and port, on loopback.
        path: of the page.
        content_type: of the page.
        render: makes the page; called on the server's thread.
        want: called there where something fresh is asked for; `put` answers, on any thread.

    Raises:
        PageUnavailableError: see there.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        path: str,
        content_type: str,
        render: Callable[[T], bytes],
        want: Callable[[], None],
    ) -> None:
        self._listener = _listen(*address)
        self._path = path.encode()
        self._type = content_type
        self._render = render
        self._want = want
        self._shown: tuple[float, T] | None = None  # since when, monotonic seconds; what
        self._wanted = False
        self._stopping = False
        self._deaf_until: float | None = None  # nobody is let in: there were no descriptors
        self._clients: dict[_Client, None] = {}  # oldest first
        self._ear, self._bell = socket.socketpair()
        for own in (self._ear, self._bell, self._listener):
            own.settimeout(0)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._ear, selectors.EVENT_READ, self._hear)
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def put(self, what: T) -> None:
        """Show this from now on."""
        self._shown = (time.monotonic(), what)
        self._wanted = False
        self._ring()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Show nothing more, and let go of the address."""
        self._stopping = True
        self._ring()
        self._thread.join(timeout_s)

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # full, so it will wake; or it has ended
            self._bell.send(b"!")

    def _run(self) -> None:
        try:
            while not self._stopping:
                for key, _ in self._selector.select(self._wait_s()):
                    key.data(key.fileobj)
                self._tend(time.monotonic())
        except Exception as err:  # noqa: BLE001 -- the agent goes on without it
            log.fault("metrics_failed", err)
        finally:
            for client in list(self._clients):
                self._close(client)
            self._selector.close()
            for own in (self._listener, self._ear, self._bell):
                own.close()

    def _wait_s(self) -> float | None:
        moments = [client.until for client in self._clients]
        moments += [c.asked_at + PATIENCE_S for c in self._clients if c.asked_at is not None]
        if self._deaf_until is not None:
            moments.append(self._deaf_until)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _tend(self, now: float) -> None:
        """Answer those for whom the page is there, and leave those who take too long."""
        if self._deaf_until is not None and now >= self._deaf_until:
            self._deaf_until = None
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        fresh = self._shown is not None and now - self._shown[0] < FRESH_S
        for client in list(self._clients):
            if now >= client.until:
                self._close(client)
            elif client.asked_at is not None:
                if fresh or now >= client.asked_at + PATIENCE_S:
                    client.asked_at = None
                    self._answer(client, *self._page())
                elif not self._wanted:
                    self._wanted = True
                    self._want()

    def _page(self) -> tuple[int, bytes]:
        if self._shown is None:
            return 503, b""
        try:
            return 200, self._render(self._shown[1])
        except Exception as err:  # noqa: BLE001 -- a fault of ours must not end the thread
            log.fault("metrics_failed", err)
            return 500, b""

    def _hear(self, _: object) -> None:
        with contextlib.suppress(OSError):
            self._ear.recv(4096)

    def _accept(self, _: object) -> None:
        try:
            connection, _address = self._listener.accept()
        except OSError as err:
            if err.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                # It stays at the door, and would wake us without end.
                self._selector.unregister(self._listener)
                self._deaf_until = time.monotonic() + DEAF_S
            return  # else: it has gone already
        connection.settimeout(0)
        if len(self._clients) >= MAX_CLIENTS:
            self._close(next(iter(self._clients)))
        client = _Client(connection, time.monotonic() + CLIENT_S)
        self._clients[client] = None
        self._selector.register(connection, selectors.EVENT_READ, lambda _: self._read(client))

    def _read(self, client: _Client) -> None:
        if client not in self._clients:  # closed in this turn
            return
        try:
            data = client.socket.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(client)
            return
        if client.asked_at is not None or client.answer:
            return  # it has had its say
        client.request += data
        if _END in client.request:
            self._obey(client)
        elif len(client.request) >= MAX_REQUEST_BYTES:
            self._answer(client, 431, b"")

    def _obey(self, client: _Client) -> None:
        words = client.request.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):  # noqa: PLR2004
            self._answer(client, 400, b"")
        elif words[1].split(b"?")[0] != self._path:
            self._answer(client, 404, b"")
        elif words[0] != b"GET":
            self._answer(client, 405, b"")
        else:
            client.asked_at = time.monotonic()

    def _answer(self, client: _Client, status: int, body: bytes) -> None:
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {self._type}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        client.answer = memoryview(head.encode() + body)
        self._selector.modify(client.socket, selectors.EVENT_WRITE, lambda _: self._write(client))

    def _write(self, client: _Client) -> None:
        if client not in self._clients:
            return
        try:
            client.answer = client.answer[client.socket.send(client.answer) :]
        except BlockingIOError:
            return
        except OSError:
            client.answer = client.answer[:0]
        if not client.answer:
            self._close(client)

    def _close(self, client: _Client) -> None:
        del self._clients[client]
        self._selector.unregister(client.socket)
        client.socket.close()


def _listen(host: str, port: int) -> socket.socket:
    where = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        if not ip_address(address[0]).is_loopback:  # whatever the hosts file says of a name
            msg = f"[metrics] {where}: {address[0]} is not on loopback"
            raise PageUnavailableError(msg)
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(MAX_CLIENTS)
        except OSError:
            listener.close()
            raise
    except OSError as err:
        why = err.strerror or str(err)
        msg = f"[metrics] {where}: {why}; give it another port, or end what has this one"
        raise PageUnavailableError(msg) from None
    return listener
