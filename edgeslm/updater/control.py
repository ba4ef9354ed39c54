"""The updater's end of the socket to the agent: orders go out, what came of them comes back."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from edgeslm.contract.control import (
    MAX_LINE_BYTES,
    NEWS,
    Done,
    Failed,
    Leaving,
    News,
    Order,
    Query,
    Report,
)
from edgeslm.contract.messages import ErrorInfo
from edgeslm.errors import (
    EXIT_UNAVAILABLE,
    EdgeSLMError,
    RejectedError,
    UnavailableError,
    exit_status_of,
)

SOCKET: Final = "control.sock"
REPLY_S: Final = 10.0
BEAT_S: Final = 1.0  # between two calls of `progress`
_CHUNK: Final = 65_536
_LATE: Final = "it did not answer in time"
_GONE: Final = "it went away"
# Codes of what another time may not be so.
_PASSING: Final = ("control.", "memory.", "model.memory", "agent.")


class AgentAwayError(UnavailableError):
    """No agent listens, or it went away before it answered."""

    code = "agent.away"


class AgentTooNewError(RejectedError):
    """What the agent says is none of what this updater knows."""

    code = "agent.unintelligible"


class OrderFailedError(RejectedError):
    """The agent could not do what it was ordered to; what served before serves.

    Args:
        failed: what it said, with a code of its own.
    """

    code = "agent.order_failed"

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.error["message"])
        self.error = failed.error

    @property
    def at_fault(self) -> bool:
        """Whether what was to be tried is at fault, and not how things are just now."""
        return not self.error["code"].startswith(_PASSING)


def info_of(err: EdgeSLMError) -> ErrorInfo:
    """Return an error as it is told; of an order, what the agent said."""
    if isinstance(err, OrderFailedError):
        return err.error
    return {"code": err.code, "message": str(err)}


def passes(err: EdgeSLMError) -> bool:
    """Whether another time may succeed, so that it is tried again."""
    return isinstance(err, UnavailableError) or (
        isinstance(err, OrderFailedError) and not err.at_fault
    )


def status_of(failed: Collection[EdgeSLMError]) -> int:
    """Return the exit status of a command that ended with these."""
    passing = all(passes(err) for err in failed)
    return EXIT_UNAVAILABLE if failed and passing else exit_status_of(failed)


class Control:
    """A connection to the agent, made anew when it is needed.

    Args:
        path: of its socket.

    Attributes:
        left: the agent last heard of said that it was asked to stop.
        progress: called at least every second while it is waited for.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._buffer = b""
        self.left = False
        self.progress: Callable[[], None] = lambda: None

    def report(self, *, timeout_s: float = REPLY_S) -> Report:
        """Return how things are.

        Raises:
            AgentAwayError, AgentTooNewError: see there.
        """
        until = time.monotonic() + timeout_s
        if self._socket is None:
            self._connect(until)  # it reports by itself at the beginning
        else:
            self._send(Query())
        while not isinstance(news := self._next(until), Report):
            pass
        return news

    def order(self, order: Order, *, timeout_s: float) -> Done:
        """Have the agent do something; return when it is done.

        Raises:
            OrderFailedError: it could not.
            AgentAwayError, AgentTooNewError: see there.
        """
        until = time.monotonic() + timeout_s
        if self._socket is None:
            self._connect(until)
        self._send(order)
        while True:
            news = self._next(until)
            if isinstance(news, Done) and news.do == order.do:
                return news
            if isinstance(news, Failed) and news.do == order.do:
                raise OrderFailedError(news)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._buffer = b""

    def _connect(self, until: float) -> None:
        self.close()
        self.left = False
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.settimeout(max(0.1, min(REPLY_S, until - time.monotonic())))
        try:
            opened.connect(str(self._path))
        except OSError as err:
            opened.close()
            start = isinstance(err, FileNotFoundError | ConnectionRefusedError)
            remedy = ". Start the agent: `edgeslm run`" if start else ""
            msg = f"{self._path}: {err.strerror or err}{remedy}"
            raise AgentAwayError(msg) from None
        self._socket = opened

    def _send(self, order: Order) -> None:
        assert self._socket is not None  # noqa: S101 -- `_connect` came first
        try:
            self._socket.settimeout(REPLY_S)
            self._socket.sendall(order.model_dump_json().encode() + b"\n")
        except OSError as err:
            raise self._lost(err.strerror or str(err)) from None

    def _next(self, until: float) -> News:
        """Return what the agent says next."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE_BYTES:
                self.close()
                msg = f"{self._path}: a line longer than {MAX_LINE_BYTES} bytes"
                raise AgentTooNewError(msg)
            self._read(until)
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            news = NEWS.validate_json(line)
        except ValidationError as err:
            self.close()
            msg = (
                f"{self._path}: not a message that this updater knows ({err.error_count()} faults)"
            )
            raise AgentTooNewError(msg) from None
        if isinstance(news, Leaving):
            self.left = True
        return news

    def _read(self, until: float) -> None:
        """Take what comes, if anything does within a beat."""
        if self._socket is None:
            raise self._lost(_GONE)
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise self._lost(_LATE)
        self.progress()
        self._socket.settimeout(min(left_s, BEAT_S))
        try:
            data = self._socket.recv(_CHUNK)
        except TimeoutError:
            return
        except OSError as err:
            raise self._lost(err.strerror or str(err)) from None
        if not data:
            raise self._lost(_GONE)
        self._buffer += data

    def _lost(self, why: str) -> AgentAwayError:
        # What it said last may still say that it was asked to stop.
        with contextlib.suppress(ValidationError):
            for line in self._buffer.splitlines():
                self.left |= isinstance(NEWS.validate_json(line), Leaving)
        self.close()
        return AgentAwayError(f"{self._path}: {why}")
