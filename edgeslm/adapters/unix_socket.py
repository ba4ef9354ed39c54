"""Lines over a Unix socket, from one peer at a time, whose user the kernel vouches for."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeslm.errors import UnavailableError
from edgeslm.logs import Log

log = Log(__name__)
MODE: Final = 0o660
BACKLOG: Final = 4
READ_BYTES: Final = 65_536
MAX_UNSENT_BYTES: Final = 1024 * 1024  # of a peer that does not read
STUCK_S: Final = 10.0  # it takes nothing for so long: it is let go
MAX_LINES: Final = 64  # that are taken at once
PAUSE_S: Final = 0.05  # after so many, and after one who is not heard: a flood costs little
COMPLAIN_S: Final = 60.0  # between two log lines about strangers
FAREWELL_S: Final = 0.3  # for what was said last to leave
_UCRED: Final = struct.Struct("=iII")  # process, user, group
_XUCRED: Final = struct.Struct("=II")  # version, user; macOS has the groups behind them


class SocketUnavailableError(UnavailableError):
    """The control socket cannot be made."""

    code = "control.unavailable"


@dataclass(frozen=True, slots=True)
class Opened:
    """A peer has come; any before it is gone."""

    peer: int


@dataclass(frozen=True, slots=True)
class Line:
    """It sent a line, here without its end; None in place of one that is too long.

    After such a one it is not heard any more: send it a last word.
    """

    peer: int
    data: bytes | None


LineSink = Callable[[Opened | Line], None]


class _Peer:
    def __init__(self, connection: socket.socket, number: int) -> None:
        self.socket = connection
        self.number = number
        self.received = bytearray()
        self.searched = 0  # bytes of `received` that hold no end of a line
        self.ended = False  # it sends no more
        self.deaf = False  # it is not heard any more
        self.unsent = bytearray()
        self.leaving = False  # it is let go when it has taken `unsent`
        self.stuck_at: float | None = None


class LineServer:
    """A thread of its own does all I/O and calls the sink, which must not block.

    Args:
        path: of the socket; what a killed process left there is replaced.
        uids: users whose processes are heard.
        max_bytes: of a line, without its end.
        busy: said to whoever comes while another is heard.
        sink: takes what comes.
        room: whether the owner takes another line now; where not, `wake` says when it does.

    Raises:
        SocketUnavailableError: see there.
    """

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        path: Path,
        *,
        uids: frozenset[int],
        max_bytes: int,
        busy: bytes,
        sink: LineSink,
        room: Callable[[], bool],
    ) -> None:
        self._path = path
        self._uids = uids
        self._max_bytes = max_bytes
        self._busy = busy
        self._sink = sink
        self._room = room
        self._lock = threading.Lock()  # for what `send` and `stop` change
        self._peer: _Peer | None = None
        self._number = 0
        self._end_at: float | None = None
        self._listen_at = 0.0
        self._hear_at = 0.0
        self._complain_at = 0.0
        self._listener = _listen(path)
        self._ear, self._bell = socket.socketpair()
        self._ear.settimeout(0)
        self._bell.settimeout(0)
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def send(self, peer: int, data: bytes, *, last: bool = False) -> None:
        """Send a peer these bytes, unless it is gone; `last`: then let it go."""
        with self._lock:
            found = self._peer
            if found is not None and found.number == peer and not found.leaving:
                found.unsent += data
                found.leaving = last
        self.wake()

    def wake(self) -> None:
        """There is room again, or something to send."""
        with contextlib.suppress(OSError):  # full: it wakes anyway; or it has ended
            self._bell.send(b"\0")

    def stop(self, last: bytes) -> None:
        """Say `last` to the peer, and end; waits for that."""
        with self._lock:
            if self._peer is not None:
                self._peer.unsent += last
                self._peer.leaving = True
            self._end_at = time.monotonic() + FAREWELL_S
        self.wake()
        self._thread.join(2 * FAREWELL_S)

    def _run(self) -> None:
        try:
            while self._end_at is None or (self._peer is not None and self._left_s() > 0):
                self._turn()
        finally:
            self._path.unlink(missing_ok=True)
            self._drop()
            for each in (self._listener, self._ear, self._bell):
                each.close()

    def _left_s(self) -> float:
        return 0.0 if self._end_at is None else self._end_at - time.monotonic()

    def _turn(self) -> None:
        peer = self._peer
        now = time.monotonic()
        moments = []
        with selectors.PollSelector() as selector:
            selector.register(self._ear, selectors.EVENT_READ)
            if self._end_at is not None:
                moments.append(self._end_at)
            elif now >= self._listen_at:
                selector.register(self._listener, selectors.EVENT_READ)
            else:
                moments.append(self._listen_at)
            if peer is not None:
                read = selectors.EVENT_READ if self._hears(peer) else 0
                write = selectors.EVENT_WRITE if peer.unsent else 0
                if read | write:
                    selector.register(peer.socket, read | write)
                if peer.stuck_at is not None:
                    moments.append(peer.stuck_at + STUCK_S)
                if now < self._hear_at:
                    moments.append(self._hear_at)
            wait_s = max(0.0, min(moments) - now) if moments else None
            ready = {key.fileobj: events for key, events in selector.select(wait_s)}
        if self._ear in ready:
            with contextlib.suppress(BlockingIOError):
                self._ear.recv(READ_BYTES)
        if peer is not None:
            self._serve(peer, ready.get(peer.socket, 0))
        if self._listener in ready:
            self._accept()

    def _hears(self, peer: _Peer) -> bool:
        return not peer.ended and self._takes(peer)

    def _takes(self, peer: _Peer) -> bool:
        return (
            not peer.leaving
            and not peer.deaf
            and time.monotonic() >= self._hear_at
            and self._room()
        )

    def _serve(self, peer: _Peer, events: int) -> None:
        try:
            if events & selectors.EVENT_READ and self._hears(peer):
                data = peer.socket.recv(READ_BYTES)
                peer.received += data
                peer.ended = not data
            self._split(peer)
            self._flush(peer)
        except BlockingIOError:
            pass
        except OSError:  # it is gone
            self._drop()
            return
        now = time.monotonic()
        unsent = len(peer.unsent)
        stuck = peer.stuck_at is not None and now >= peer.stuck_at + STUCK_S
        done = peer.ended and b"\n" not in peer.received
        if (peer.leaving and not unsent) or done or stuck or unsent > MAX_UNSENT_BYTES:
            self._drop()

    def _split(self, peer: _Peer) -> None:
        """Give whole lines to the owner, as long as it takes them."""
        received, count = peer.received, 0
        while self._takes(peer):
            end = received.find(b"\n", peer.searched)
            if (len(received) if end < 0 else end) > self._max_bytes:
                peer.deaf = True  # where its next line begins nobody knows
                received.clear()
                self._sink(Line(peer.number, None))
                return
            if end < 0:
                peer.searched = len(received)
                return
            line = bytes(received[:end])
            del received[: end + 1]
            peer.searched = 0
            self._sink(Line(peer.number, line))
            count += 1
            if count == MAX_LINES:
                self._hear_at = time.monotonic() + PAUSE_S

    def _flush(self, peer: _Peer) -> None:
        with self._lock:
            if not peer.unsent:
                return
            peer.stuck_at = peer.stuck_at or time.monotonic()
            sent = peer.socket.send(peer.unsent)
            del peer.unsent[:sent]
            peer.stuck_at = time.monotonic() if peer.unsent else None

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has gone already, or we have no descriptor left
            self._listen_at = time.monotonic() + PAUSE_S
            return
        connection.settimeout(0)
        uid = peer_uid(connection)
        if uid not in self._uids:
            self._refuse(connection, b"")
            now = time.monotonic()
            if now >= self._complain_at:
                self._complain_at = now + COMPLAIN_S
                log.warning("control_refused", uid=uid)
        elif self._peer is not None and _is_there(self._peer.socket):
            self._refuse(connection, self._busy)
        else:
            self._drop()
            self._number += 1
            with self._lock:
                self._peer = _Peer(connection, self._number)
            self._sink(Opened(self._number))

    def _refuse(self, connection: socket.socket, why: bytes) -> None:
        self._listen_at = time.monotonic() + PAUSE_S
        with connection, contextlib.suppress(OSError):
            connection.send(why)

    def _drop(self) -> None:
        with self._lock:
            if self._peer is not None:
                self._peer.socket.close()
                self._peer = None


def peer_uid(connection: socket.socket) -> int | None:
    """Return whose process is at the other end; None where the system does not say."""
    if sys.platform == "linux":
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        uid: int = _UCRED.unpack(found)[1]
    elif sys.platform == "darwin":
        uid = _XUCRED.unpack_from(connection.getsockopt(0, 1, 76))[1]
    else:
        return None
    return uid


def _listen(path: Path) -> socket.socket:
    """Return a listening socket at `path`, for its owner and group."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(MODE)
        listener.listen(BACKLOG)
    except OSError as err:
        listener.close()
        msg = f"{path}: {err.strerror or err}; the updater cannot reach this agent"
        raise SocketUnavailableError(msg) from None
    listener.settimeout(0)
    return listener


def _is_there(connection: socket.socket) -> bool:
    """Whether the peer has not closed its end."""
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
