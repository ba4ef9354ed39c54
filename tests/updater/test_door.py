"""Commands of the device are heard one at a time, and each learns how its errand ended."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from edgeslm.contract.control import MAX_LINE_BYTES, Answer, Errand
from edgeslm.contract.messages import UpdateState
from edgeslm.errors import EdgeSLMError
from edgeslm.ports import DiskFullError
from edgeslm.updater.door import (
    MAX_WAITING,
    SOCKET,
    Door,
    ErrandInvalidError,
    UpdaterAwayError,
    UpdaterBusyError,
    ask,
)

WAIT_S: Final = 10.0
STATE: Final[UpdateState] = {
    "schema": 1,
    "device": "d1",
    "time": 1.5,
    "updater_version": "0",
    "phase": "idle",
    "seq": 0,
    "config_seq": 0,
    "models": [],
}
TAKE: Final = Errand(do="take", path="/media/usb")


class House:
    """A door, and who looks after it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.came = threading.Semaphore(0)
        self.door = Door(folder, self.came.release)
        self.pool = ThreadPoolExecutor()

    def asks(self, errand: Errand) -> Future[list[Answer]]:
        return self.pool.submit(lambda: list(ask(self.folder, errand, timeout_s=WAIT_S)))

    def errands(self) -> list[tuple[int, Errand]]:
        """What came next, where it was not answered at once."""
        assert self.came.acquire(timeout=WAIT_S)
        return list(self.door.errands(STATE))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.door.close()
    made.pool.shutdown()


def test_who_asks_how_things_are_is_answered_at_once(house: House) -> None:
    said = house.asks(Errand(do="status"))
    assert house.errands() == []
    assert said.result(WAIT_S) == [Answer(state=STATE, over=True)]


@pytest.mark.parametrize("failed", [[], [DiskFullError("no room"), DiskFullError("none here")]])
def test_how_an_errand_ended_is_told_with_all_that_came_to_nothing(
    house: House, failed: list[EdgeSLMError]
) -> None:
    said = house.asks(TAKE)
    [(peer, errand)] = house.errands()
    assert errand == TAKE
    house.door.say(peer, Answer(state=STATE))
    house.door.over(peer, STATE, failed)
    first, last = said.result(WAIT_S)
    assert not first.over
    assert last.over
    assert last.errors == tuple({"code": err.code, "message": str(err)} for err in failed)
    assert last.exit_status == (75 if failed else 0)


def test_who_wants_something_forgotten_is_heard(house: House) -> None:
    said = house.asks(Errand(do="forget", model="press"))
    [(peer, errand)] = house.errands()
    assert (errand.do, errand.model) == ("forget", "press")
    house.door.over(peer, STATE, [ErrandInvalidError("no")])
    assert said.result(WAIT_S)[-1].exit_status == 65


def test_what_is_no_errand_is_answered_and_the_next_is_heard(house: House) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer, peer.makefile("rb") as lines:
        peer.settimeout(WAIT_S)
        peer.connect(str(house.folder / SOCKET))
        for line in (b"", b"{}", b'{"do":"take","path":1}', b'{"do":"format"}', b"\xff"):
            peer.sendall(line + b"\n")
            assert house.errands() == []
            answer = Answer.model_validate_json(lines.readline())
            assert [error["code"] for error in answer.errors] == [ErrandInvalidError.code]
            assert answer.over
        peer.sendall(TAKE.model_dump_json().encode() + b"\n")
        assert [errand for _, errand in house.errands()] == [TAKE]


def test_while_one_is_heard_another_is_told_so(house: House) -> None:
    first = house.asks(TAKE)
    [(peer, _)] = house.errands()
    [busy] = house.asks(TAKE).result(WAIT_S)
    assert [error["code"] for error in busy.errors] == [UpdaterBusyError.code]
    assert busy.exit_status == 75
    house.door.over(peer, STATE, [])
    assert first.result(WAIT_S)[-1].over


def test_where_no_updater_is_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(UpdaterAwayError, match=r"updater\.sock: No such file"):
        list(ask(tmp_path, TAKE))


# Strangers and floods.

DEEP = b"[" * 100_000
NOBODY: Final = 65534


@contextlib.contextmanager
def knocking(house: House) -> Iterator[tuple[socket.socket, Any]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer, peer.makefile("rb") as lines:
        peer.settimeout(WAIT_S)
        peer.connect(str(house.folder / SOCKET))
        yield peer, lines


def test_one_whose_line_is_too_long_is_let_go_and_another_is_heard(house: House) -> None:
    with knocking(house) as (peer, lines):
        with contextlib.suppress(OSError):  # it may be let go before it has said all of it
            peer.sendall(b"x" * (MAX_LINE_BYTES + 1))
        assert house.errands() == []
        answer = Answer.model_validate_json(lines.readline())
        assert [error["code"] for error in answer.errors] == [ErrandInvalidError.code]
        with contextlib.suppress(ConnectionResetError):
            assert not lines.readline(), "it would be the one that is heard for ever"
        said = house.asks(Errand(do="status"))
        assert house.errands() == []
        assert said.result(WAIT_S) == [Answer(state=STATE, over=True)]


def test_deep_nesting_is_no_errand(house: House) -> None:
    with knocking(house) as (peer, lines):
        peer.sendall(DEEP + b"\n")
        assert house.errands() == []
        assert ErrandInvalidError.code.encode() in lines.readline()


def test_a_flood_waits_outside(house: House) -> None:
    """No more is taken at once than there is room for, while the updater works or looks."""
    sent = 50
    with knocking(house) as (peer, _):
        peer.sendall((TAKE.model_dump_json().encode() + b"\n") * sent)
        for _ in range(MAX_WAITING):
            assert house.came.acquire(timeout=WAIT_S)
        assert not house.came.acquire(timeout=0.1)
        heard = len(list(house.door.errands(STATE)))
        assert heard == MAX_WAITING
        while heard < sent:
            found = len(house.errands())
            assert found <= MAX_WAITING
            heard += found


def test_all_that_is_heard_at_once_is_what_was_there_before(house: House) -> None:
    with knocking(house) as (peer, _):
        peer.sendall((TAKE.model_dump_json().encode() + b"\n") * (2 * MAX_WAITING))
        for _ in range(MAX_WAITING):
            assert house.came.acquire(timeout=WAIT_S)
        heard = []
        for errand in house.door.errands(STATE):
            heard.append(errand)
            assert house.came.acquire(timeout=WAIT_S), "another comes in its place"
        assert len(heard) == MAX_WAITING


def test_what_is_said_to_one_who_left_reaches_nobody_else(house: House) -> None:
    with knocking(house) as (peer, _):
        peer.sendall(TAKE.model_dump_json().encode() + b"\n")
        [(gone, _)] = house.errands()
    with knocking(house) as (peer, lines):
        peer.sendall(Errand(do="status").model_dump_json().encode() + b"\n")
        assert house.errands() == []
        house.door.over(gone, STATE, [])
        assert Answer.model_validate_json(lines.readline()) == Answer(state=STATE, over=True)
        peer.settimeout(0.05)
        with pytest.raises(TimeoutError):
            lines.readline()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_not_heard() -> None:
    script = f"""
import os, socket, sys
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1])
try:
    s.sendall(b'{{"do":"status"}}\\n')
    data = s.recv(100)
except (BrokenPipeError, ConnectionResetError):
    data = b""
sys.exit(77 if data == b"" else 1)
"""
    with tempfile.TemporaryDirectory(prefix="edgeslm-test-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        heard: list[None] = []
        door = Door(folder, lambda: heard.append(None))
        (folder / SOCKET).chmod(0o777)
        argv = [sys.executable, "-c", script, str(folder / SOCKET)]
        done = subprocess.run(argv, check=False, timeout=30)
        door.close()
    assert done.returncode == 77
    assert not heard


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (b"", "it went away"),
        (b"hello\n", "Invalid JSON"),
        (b'{"over":false}\n', "it went away"),
        (b"\xff\n", "Invalid JSON"),
        (None, "timed out"),
    ],
)
def test_one_that_is_no_updater_is_away(tmp_path: Path, words: bytes | None, said: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / SOCKET))
        listener.listen()

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(4096)
                if words is None:
                    client.recv(1)
                else:
                    client.sendall(words)

        thread = threading.Thread(target=serve)
        thread.start()
        timeout_s = WAIT_S if words is not None else 0.05
        with pytest.raises(UpdaterAwayError, match=said):
            list(ask(tmp_path, TAKE, timeout_s=timeout_s))
        thread.join(WAIT_S)
