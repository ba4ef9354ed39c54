"""Lines from one peer at a time: bounded, in order, and only from those who may be heard."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeslm.adapters import unix_socket
from edgeslm.adapters.unix_socket import (
    Line,
    LineServer,
    Opened,
    SocketUnavailableError,
    peer_uid,
)

LIMIT = 100
BUSY = b"busy\n"
WAIT_S = 10.0
NOBODY = 65534


def poll(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Owner:
    """Who a server works for, on a socket in a folder that anybody may enter."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="edgeslm-test-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.path = self.folder / "s"
        self.heard: list[Opened | Line] = []
        self.room = True
        self.server = LineServer(
            self.path,
            uids=frozenset({os.geteuid()}),
            max_bytes=LIMIT,
            busy=BUSY,
            sink=self.heard.append,
            room=lambda: self.room,
        )

    @property
    def lines(self) -> list[bytes | None]:
        return [what.data for what in list(self.heard) if isinstance(what, Line)]

    def connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(WAIT_S)
        made.connect(str(self.path))
        return made

    def peer(self) -> socket.socket:
        """Connect, and wait until the server knows."""
        count = len([what for what in self.heard if isinstance(what, Opened)])
        made = self.connect()
        poll(lambda: len([w for w in self.heard if isinstance(w, Opened)]) > count)
        return made


@pytest.fixture
def owner() -> Iterator[Owner]:
    made = Owner()
    yield made
    made.server.stop(b"")
    shutil.rmtree(made.folder)


@pytest.fixture(scope="module")
def lasting() -> Iterator[Owner]:
    made = Owner()
    yield made
    made.server.stop(b"")
    shutil.rmtree(made.folder)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(st.lists(st.binary(max_size=40).filter(lambda b: b"\n" not in b), max_size=30), st.data())
def test_lines_come_whole_and_in_order_however_they_are_cut(
    lasting: Owner, lines: list[bytes], data: st.DataObject
) -> None:
    lasting.heard.clear()
    raw = b"".join(line + b"\n" for line in lines) + b"half a line"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    with lasting.peer() as peer:
        for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            peer.sendall(raw[begin:end])
        poll(lambda: len(lasting.lines) >= len(lines))
    assert lasting.lines == lines


@pytest.mark.parametrize("end", [b"\n", b""])
def test_of_a_line_that_is_too_long_nothing_is_taken_nor_of_what_follows(
    owner: Owner, end: bytes
) -> None:
    with owner.peer() as peer:
        peer.sendall(b"x" * LIMIT + b"\nok\n" + b"x" * (LIMIT + 1) + end)
        poll(lambda: None in owner.lines)
        with contextlib.suppress(OSError):
            peer.sendall(b"\nmore\n" * 1000)
        owner.server.send(1, b"too long\n", last=True)
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while part := peer.recv(100):
                got += part
        assert got == b"too long\n"
    assert owner.lines == [b"x" * LIMIT, b"ok", None]


def test_a_megabyte_without_an_end_is_not_kept(owner: Owner) -> None:
    with owner.peer() as peer, contextlib.suppress(OSError):
        peer.settimeout(0.5)
        peer.sendall(b"x" * 2**22)
    poll(lambda: owner.lines)
    assert owner.lines == [None]


def test_a_second_peer_is_told_that_there_is_one_and_takes_over_when_it_is_gone(
    owner: Owner,
) -> None:
    first = owner.peer()
    with owner.connect() as second:
        assert second.recv(100) == BUSY
        assert second.recv(100) == b""
    first.sendall(b"still here\n")
    poll(lambda: owner.lines)
    first.close()
    with owner.peer() as third:
        third.sendall(b"hello\n")
        poll(lambda: len(owner.lines) == 2)
        owner.server.send(1, b"to the first\n")
        owner.server.send(2, b"to the third\n")
        assert third.recv(100) == b"to the third\n"
    assert owner.lines == [b"still here", b"hello"]


def test_what_its_owner_has_no_room_for_waits(owner: Owner) -> None:
    with owner.peer() as peer:
        owner.room = False
        peer.sendall(b"one\ntwo\n")
        time.sleep(0.1)
        assert owner.lines == []
        owner.room = True
        owner.server.wake()
        poll(lambda: len(owner.lines) == 2)


def test_lines_sent_before_the_end_are_taken_though_there_was_no_room_for_them(
    owner: Owner,
) -> None:
    with owner.peer() as peer:
        peer.sendall(b"one\n")
        poll(lambda: owner.lines)
        owner.room = False
        peer.sendall(b"two\n")
        time.sleep(0.05)
    owner.room = True
    owner.server.wake()
    poll(lambda: len(owner.lines) == 2)


def test_who_does_not_read_is_let_go(owner: Owner) -> None:
    with owner.peer() as peer:
        for _ in range(40):
            owner.server.send(1, b"x" * 100_000)
        got = 0
        with contextlib.suppress(ConnectionResetError):
            while part := peer.recv(2**20):
                got += len(part)
        assert got < 40 * 100_000
    with owner.peer() as peer:
        peer.sendall(b"hello\n")
        poll(lambda: owner.lines)


def test_who_reads_nothing_for_long_is_let_go(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_socket, "STUCK_S", 0.2)
    with owner.peer():
        owner.server.send(1, b"x" * 900_000)
        time.sleep(0.1)
        with owner.connect() as second:
            assert second.recv(100) == BUSY
        time.sleep(0.3)
        with owner.peer() as third:
            third.sendall(b"hello\n")
            poll(lambda: owner.lines)


def test_the_last_word_is_said_before_the_end(owner: Owner) -> None:
    with owner.peer() as peer:
        owner.server.stop(b"leaving\n")
        assert peer.recv(100) == b"leaving\n"
        assert peer.recv(100) == b""
    assert not owner.path.exists()


def test_the_end_waits_for_no_one_who_does_not_read(owner: Owner) -> None:
    with owner.peer():
        owner.server.send(1, b"x" * 1_000_000)
        began = time.monotonic()
        owner.server.stop(b"leaving\n")
        assert time.monotonic() - began < 3 * unix_socket.FAREWELL_S


def test_it_is_for_its_owner_and_group_and_replaces_what_a_killed_process_left(
    owner: Owner,
) -> None:
    assert stat.S_IMODE(owner.path.stat().st_mode) == 0o660
    left = owner.folder / "left"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(left))
    server = LineServer(
        left, uids=frozenset(), max_bytes=1, busy=b"", sink=lambda _: None, room=lambda: True
    )
    server.stop(b"")


@pytest.mark.parametrize("where", ["nowhere/s", "x" * 200])
def test_where_it_cannot_be_made_that_is_a_typed_error(owner: Owner, where: str) -> None:
    with pytest.raises(SocketUnavailableError, match="cannot reach this agent"):
        LineServer(
            owner.folder / where,
            uids=frozenset(),
            max_bytes=1,
            busy=b"",
            sink=lambda _: None,
            room=lambda: True,
        )


def test_the_kernel_says_whose_process_it_is(owner: Owner) -> None:
    one, other = socket.socketpair()
    assert peer_uid(one) == os.geteuid()
    one.close()
    other.close()
    assert owner.heard == []


STRANGER = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(10)
nobody = int(sys.argv[2])
os.setgroups([])
os.setgid(nobody)
os.setuid(nobody)
try:
    s.connect(sys.argv[1])
    s.sendall(b"obey me\\n")
    print("heard", s.recv(100))
except PermissionError:
    print("kept out")
except OSError:  # let go before it was read
    print("heard", b"")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(("mode", "said"), [(0o666, "heard b''"), (0o660, "kept out")])
def test_another_user_is_not_heard(owner: Owner, mode: int, said: str) -> None:
    """Also where the socket is open to all, as by a wrong hand: what counts is who asks."""
    owner.path.chmod(mode)
    argv = [sys.executable, "-I", "-c", STRANGER, str(owner.path), str(NOBODY)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said
    assert owner.heard == []


def test_a_flood_of_connections_neither_wears_it_out_nor_keeps_the_peer_from_being_heard(
    owner: Owner,
) -> None:
    ended = threading.Event()
    refused: list[bytes] = []

    def flood() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as one:
                one.settimeout(1)
                one.connect(str(owner.path))
                refused.append(one.recv(100))

    with owner.peer() as peer:
        threads = [threading.Thread(target=flood) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for i in range(20):
                began = time.monotonic()
                peer.sendall(b"line %d\n" % i)
                poll(lambda: len(owner.lines) == i + 1)  # noqa: B023
                assert time.monotonic() - began < 2
                time.sleep(0.02)
            began, count = time.monotonic(), len(refused)
            time.sleep(1)
            rate = (len(refused) - count) / (time.monotonic() - began)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    assert rate <= 2 / unix_socket.PAUSE_S
    assert set(refused) <= {BUSY, b""}


def test_a_flood_of_lines_is_taken_no_faster_than_is_good(owner: Owner) -> None:
    with owner.peer() as peer:
        began = time.monotonic()
        peer.sendall(b"\n" * 1000)
        poll(lambda: len(owner.lines) == 1000)
        taken_s = time.monotonic() - began
    assert taken_s > 0.8 * unix_socket.PAUSE_S * 1000 / unix_socket.MAX_LINES
