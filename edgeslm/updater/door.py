"""Where commands on the device reach its updater: `edgeslm status`, `edgeslm update`."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from edgeslm.adapters.unix_socket import Line, LineServer, Opened
from edgeslm.contract.control import MAX_LINE_BYTES, Answer, Errand
from edgeslm.contract.messages import ErrorInfo, UpdateState
from edgeslm.errors import EdgeSLMError, RejectedError, UnavailableError
from edgeslm.updater.control import status_of

SOCKET: Final = "updater.sock"
MAX_WAITING: Final = 4
REPLY_S: Final = 10.0


class UpdaterAwayError(UnavailableError):
    """No updater runs on this directory, or it went away."""

    code = "updater.away"


class UpdaterBusyError(UnavailableError):
    """The updater hears another command."""

    code = "updater.busy"


class ErrandInvalidError(RejectedError):
    """What came over the updater's socket is no errand of this version."""

    code = "control.malformed"


def _encode(answer: Answer) -> bytes:
    return answer.model_dump_json(exclude_none=True).encode() + b"\n"


_BUSY: Final = _encode(
    Answer(
        over=True,
        errors=({"code": UpdaterBusyError.code, "message": "it hears another; try again"},),
        exit_status=UpdaterBusyError.exit_status,
    )
)


class Door:
    """The updater's end. A thread of its own reads; `wake` tells the loop that there is something.

    Args:
        directory: of the updater.
        wake: called from that thread.

    Raises:
        SocketUnavailableError: see there.
    """

    def __init__(self, directory: Path, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._waiting: deque[tuple[int, bytes | None]] = deque()
        self._server = LineServer(
            directory / SOCKET,
            uids=frozenset({0, os.geteuid()}),
            max_bytes=MAX_LINE_BYTES,
            busy=_BUSY,
            sink=self._take,
            room=lambda: len(self._waiting) < MAX_WAITING,
        )

    def errands(self, state: UpdateState) -> Iterator[tuple[int, Errand]]:
        """Answer what can be answered at once; yield who wants what changed."""
        for _ in range(len(self._waiting)):  # more may come meanwhile, without end
            peer, line = self._waiting.popleft()
            self._server.wake()
            try:
                errand = Errand.model_validate_json(line or b"")
            except ValidationError:
                error: ErrorInfo = {
                    "code": ErrandInvalidError.code,
                    "message": "not an errand of this updater",
                }
                # One whose line was too long is heard no more: it makes room for another.
                self.say(peer, Answer(over=True, errors=(error,)), last=line is None)
                continue
            if errand.do == "forget" or (errand.do == "take" and errand.path is not None):
                yield peer, errand
            else:
                self.say(peer, Answer(state=state, over=True))

    def over(self, peer: int, state: UpdateState, failed: Sequence[EdgeSLMError]) -> None:
        """Say how an errand ended."""
        errors: list[ErrorInfo] = [{"code": err.code, "message": str(err)} for err in failed]
        status = status_of(failed)
        self.say(peer, Answer(state=state, over=True, errors=tuple(errors), exit_status=status))

    def say(self, peer: int, answer: Answer, *, last: bool = False) -> None:
        self._server.send(peer, _encode(answer), last=last)

    def close(self) -> None:
        self._server.stop(b"")

    def _take(self, came: Opened | Line) -> None:
        if isinstance(came, Line):
            self._waiting.append((came.peer, came.data))
            self._wake()


def ask(directory: Path, errand: Errand, *, timeout_s: float = REPLY_S) -> Iterator[Answer]:
    """Yield what the updater of a directory answers, until it is over.

    Args:
        directory: of the updater.
        errand: what for.
        timeout_s: for it to say something, again and again.

    Raises:
        UpdaterAwayError: see there.
    """
    path = directory / SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        opened.settimeout(timeout_s)
        try:
            opened.connect(str(path))
            with contextlib.suppress(BrokenPipeError):  # why it does not listen it has said
                opened.sendall(errand.model_dump_json().encode() + b"\n")
            with opened.makefile("rb") as lines:
                while line := lines.readline(MAX_LINE_BYTES):
                    answer = Answer.model_validate_json(line)
                    yield answer
                    if answer.over:
                        return
        except (OSError, ValueError, json.JSONDecodeError) as err:
            why = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
            msg = f"{path}: {why}"
            raise UpdaterAwayError(msg) from None
    msg = f"{path}: it went away"
    raise UpdaterAwayError(msg)
