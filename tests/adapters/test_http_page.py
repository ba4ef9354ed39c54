"""One page for whoever asks well, whatever the others do."""

from __future__ import annotations

import contextlib
import errno
import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from edgeslm.adapters import http_page
from edgeslm.adapters.http_page import MAX_CLIENTS, PageServer, PageUnavailableError

ASK = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


class Owner:
    """Puts a number each time it is asked for one, unless it hangs."""

    def __init__(self) -> None:
        self.asked = 0
        self.hangs = False
        self.server = PageServer[int](
            ("127.0.0.1", 0),
            path="/metrics",
            content_type="text/plain",
            render=self.render,
            want=self.want,
        )

    def want(self) -> None:
        self.asked += 1
        if not self.hangs:
            self.server.put(self.asked)

    @staticmethod
    def render(number: int) -> bytes:
        return f"page {number}\n".encode()

    def get(self, path: str = "/metrics", method: str = "GET") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=10)


@pytest.fixture
def owner() -> Iterator[Owner]:
    made = Owner()
    yield made
    made.server.stop()
    assert not made.server._thread.is_alive()  # noqa: SLF001


def test_a_page_is_made_when_it_is_asked_for_and_at_most_once_a_second(owner: Owner) -> None:
    time.sleep(0.1)
    assert owner.asked == 0
    began = time.monotonic()
    for _ in range(20):
        assert owner.get()[0] == 200
    assert owner.asked <= 1 + time.monotonic() - began
    time.sleep(1.1)
    assert owner.get("/metrics?x=1") == (200, f"page {owner.asked}\n".encode())
    assert owner.asked >= 2


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("POST", "/metrics", 405), ("HEAD", "/metrics", 405), ("GET", "x", 404)],
)
def test_nothing_else_is_there(owner: Owner, method: str, path: str, status: int) -> None:
    assert owner.get(path, method) == (status, b"")
    assert owner.asked == 0


def test_an_owner_that_hangs_is_not_waited_for_without_end(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_page, "PATIENCE_S", 0.3)
    owner.hangs = True
    assert owner.get() == (503, b"")
    owner.hangs = False
    owner.server.put(7)
    assert owner.get() == (200, b"page 7\n")
    time.sleep(1.1)
    owner.hangs = True
    assert owner.get() == (200, b"page 7\n")  # old is better than nothing


@pytest.mark.parametrize(
    "said",
    [b"", b"\0" * 100, b"GET /metrics\r\n\r\n", b"GET " + b"a" * 9000, ASK[:-2], b"\r\n\r\n"],
    ids=lambda said: str(said[:20]),
)
def test_who_says_nonsense_or_nothing_is_left_and_others_are_served(
    owner: Owner, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(http_page, "CLIENT_S", 0.5)
    with owner.connect() as hostile:
        with contextlib.suppress(OSError):
            hostile.sendall(said)
        began = time.monotonic()
        assert owner.get()[0] == 200
        assert time.monotonic() - began < 0.4
        with contextlib.suppress(ConnectionResetError):
            answer = hostile.recv(4096)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        assert time.monotonic() - began < 2


def test_clients_that_stay_make_room_for_new_ones(owner: Owner) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(3 * MAX_CLIENTS):
            held.enter_context(owner.connect())
        began = time.monotonic()
        assert owner.get()[0] == 200
        assert time.monotonic() - began < http_page.CLIENT_S  # which none of them waits out
        assert len(owner.server._clients) <= MAX_CLIENTS  # noqa: SLF001


def test_one_that_sends_by_drops_and_one_that_does_not_read_are_left(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_page, "CLIENT_S", 0.6)
    monkeypatch.setattr(owner.server, "_render", lambda _: b"x" * 30_000_000)
    with owner.connect() as drops, owner.connect() as deaf:
        deaf.sendall(ASK)
        ended = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                for byte in ASK * 100:
                    drops.sendall(bytes([byte]))
                    time.sleep(0.05)
            ended.set()

        threading.Thread(target=drip, daemon=True).start()
        assert ended.wait(10)
        deadline = time.monotonic() + 5
        while owner.server._clients and time.monotonic() < deadline:  # noqa: SLF001
            time.sleep(0.05)
        assert not owner.server._clients  # noqa: SLF001


def test_an_address_that_is_taken_is_an_error_that_says_so(owner: Owner) -> None:
    with pytest.raises(PageUnavailableError, match=rf"127.0.0.1:{owner.server.port}: .*in use"):
        PageServer[int](
            ("127.0.0.1", owner.server.port),
            path="/",
            content_type="",
            render=owner.render,
            want=owner.want,
        )


def test_a_name_that_leads_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(PageUnavailableError, match="not on loopback"):
        http_page._listen("localhost", 80)  # noqa: SLF001


def test_without_descriptors_it_waits_and_does_not_spin(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    class Starved:
        """The listener, as it is while the process has no descriptor left."""

        def __init__(self, real: socket.socket) -> None:
            self.real = real

        def accept(self) -> tuple[socket.socket, object]:
            tried.append(time.monotonic())
            if len(tried) < 3:
                raise OSError(errno.EMFILE, "Too many open files")
            return self.real.accept()

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

        def fileno(self) -> int:
            return self.real.fileno()

    monkeypatch.setattr(http_page, "DEAF_S", 0.3)
    owner.server._listener = Starved(owner.server._listener)  # type: ignore[assignment] # noqa: SLF001
    assert owner.get()[0] == 200
    assert len(tried) == 3
    assert tried[2] - tried[0] >= 0.6
