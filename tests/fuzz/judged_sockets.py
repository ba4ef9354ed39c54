"""What comes over a device's two sockets: orders to the agent, errands to the updater, news to it.

Whoever sends a valid order is obeyed, whatever he had in mind. So a mutant here is what the JSON
schema of its kind refuses, as a validator that is not ours reads it; accepted is what is taken
nevertheless. Lines go through the real ends, over real sockets.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from edgeslm.adapters.unix_socket import Line, LineServer, Opened
from edgeslm.agent.intake import BUSY, Intake
from edgeslm.contract.control import (
    MAX_LINE_BYTES,
    NEWS,
    ORDERS,
    Answer,
    Done,
    Errand,
    Failed,
    Leaving,
    Recheck,
    Report,
    ServingModel,
)
from edgeslm.updater.control import (
    AgentAwayError,
    AgentTooNewError,
    Control,
    OrderFailedError,
)
from edgeslm.updater.door import SOCKET, Door, ErrandInvalidError
from tests.fuzz.counting import Case, Verdict
from tests.fuzz.meaning import refused_by
from tests.fuzz.test_control import ORDERS as ORDERS_OF_ALL_KINDS
from tests.updater.test_door import STATE

WAIT_S: Final = 10.0
ERRANDS: Final = (
    Errand(do="status"),
    Errand(do="take", path="/media/usb", trust_clock=True),
    Errand(do="take", path="stick.tar"),
)
NEWS_OF_ALL_KINDS: Final = (
    Report(
        instance="i",
        models=(
            ServingModel(model="m", state="serving", bundle="1" * 64, version=2, p99_ms=1.5),
            ServingModel(model="n", state="failed", error={"code": "c", "message": "why"}),
        ),
        config_seq=3,
    ),
    Done(do="recheck", model="m", took_ms=2.5),
    Failed(do="recheck", model="m", error={"code": "golden.failed", "message": "1 of 2"}),
    Leaving(),
)


@contextlib.contextmanager
def sockets(folder: Path) -> Iterator[list[Case]]:
    """Each end that reads lines of another process."""
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        agent = AgentEnd(folder / "control.sock")
        stack.callback(agent.close)
        updater = UpdaterEnd(folder)
        stack.callback(updater.close)
        talker = Talker(folder / "talker.sock")
        stack.callback(talker.close)
        yield [
            _case("order", ORDERS_OF_ALL_KINDS, ORDERS.json_schema(), agent.take),
            _case("errand", ERRANDS, Errand.model_json_schema(), updater.take),
            _case("news", NEWS_OF_ALL_KINDS, NEWS.json_schema(), talker.take),
        ]


def _case(
    name: str, valid: Sequence[Any], schema: dict[str, Any], take: Callable[[bytes], Verdict]
) -> Case:
    seeds = [each.model_dump_json().encode() for each in valid]
    return Case(name=name, seeds=seeds, differs=refused_by(schema), take=take)


class Peer:
    """A connection to one of our sockets."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(WAIT_S)
        self._socket.connect(str(path))
        self.lines = self._socket.makefile("rb")

    def send(self, raw: bytes) -> int:
        """Send an input, which may hold ends of lines; return how many lines it is."""
        assert len(raw) <= MAX_LINE_BYTES
        self._socket.sendall(raw + b"\n")
        return raw.count(b"\n") + 1

    def leave(self) -> None:
        self.lines.close()
        self._socket.close()


class AgentEnd:
    """The agent's socket up to where its main thread finds orders."""

    def __init__(self, path: Path) -> None:
        self._handled: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._intake = Intake(lambda: None)
        self._server = LineServer(
            path,
            uids=frozenset({os.geteuid()}),
            max_bytes=MAX_LINE_BYTES,
            busy=BUSY,
            sink=self._take,
            room=self._intake.room,
        )
        self._peer = Peer(path)

    def _take(self, what: Opened | Line) -> None:
        """As the agent's own sink; what it raises would end the socket's thread."""
        try:
            self._intake.take(what)
        except Exception as err:  # noqa: BLE001 -- it is what is counted
            self._handled.put(err)
        else:
            if isinstance(what, Line):
                self._handled.put(None)

    def take(self, raw: bytes) -> Verdict:
        intake, faults, orders = self._intake, list[Exception](), 0
        for _ in range(self._peer.send(raw)):
            if (fault := self._handled.get(timeout=WAIT_S)) is not None:
                faults.append(fault)
            # Whoever comes is noted there, too.
            orders += sum(order is not None for _, order in intake.orders)
            faults += [err for _, err in intake.wrong]
            intake.orders.clear()
            intake.wrong.clear()
            self._server.wake()
        for fault in faults:
            if not orders:
                raise fault
        return "accepted"

    def close(self) -> None:
        self._peer.leave()
        self._server.stop(b"")


class UpdaterEnd:
    """The updater's door, and what it answers."""

    def __init__(self, folder: Path) -> None:
        self._came = threading.Semaphore(0)
        self._door = Door(folder, self._came.release)
        self._peer = Peer(folder / SOCKET)

    def take(self, raw: bytes) -> Verdict:
        codes: list[str | None] = []
        for _ in range(self._peer.send(raw)):
            assert self._came.acquire(timeout=WAIT_S), "it was not heard"
            errands = list(self._door.errands(STATE))
            codes += [None] * len(errands)
            if not errands:
                answer = Answer.model_validate_json(self._peer.lines.readline())
                codes.append(answer.errors[0]["code"] if answer.errors else None)
        return "refused" if set(codes) == {ErrandInvalidError.code} else "accepted"

    def close(self) -> None:
        self._peer.leave()
        self._door.close()


class Talker:
    """Says to the updater's end of the agent's socket what a test gives, and leaves."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._raw = b""
        self._control = Control(path)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                if not self._raw:
                    return
                connection.sendall(self._raw)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass

    def take(self, raw: bytes) -> Verdict:
        """Ask how things are, and order something: neither may believe the line."""
        self._raw = raw + b"\n"
        control = self._control
        asks = (control.report, lambda: control.order(Recheck(model="m"), timeout_s=WAIT_S))
        for ask in asks:
            control.left = False
            try:
                ask()
            except (AgentAwayError, AgentTooNewError) as err:
                refused = err
            except OrderFailedError:
                return "accepted"
            else:
                return "accepted"
            finally:
                control.close()
            if control.left:
                return "accepted"
        raise refused

    def close(self) -> None:
        self._raw = b""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(self._listener.getsockname())
            self._thread.join(WAIT_S)
        self._listener.close()
