"""Diagnoses that a fleet's manager asks for: programs of ours, each in a process of its own.

A command is heeded once, and answered once. The programs get what time and processor others leave,
an end by which they must be done, and so many bytes to say it in.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeslm.contract.fleet import MAX_OUTPUT_BYTES, Command, CommandReply
from edgeslm.contract.messages import ErrorInfo
from edgeslm.contract.topics import Topics
from edgeslm.core.allowance import Allowance
from edgeslm.core.trust import CommandForeignError, CommandStaleError, check_command
from edgeslm.errors import EdgeSLMError, RejectedError, UnavailableError
from edgeslm.logs import Log
from edgeslm.ports import Clock
from edgeslm.updater.voice import Send

MOST: Final = 6  # within an hour
HOUR_S: Final = 3600.0
DEADLINE_S: Final = 180.0
MAX_NONCES: Final = 256
NICE: Final = 19
_CHUNK: Final = 65_536

log = Log(__name__)


class CommandBusyError(UnavailableError):
    """The device is at another diagnosis, or at an update: ask again later."""

    code = "command.busy"


class CommandsTooManyError(UnavailableError):
    """The device has been asked for as many diagnoses as it makes in an hour."""

    code = "command.too_many"


class CommandOverdueError(UnavailableError):
    """A diagnosis was not done in time, and was ended."""

    code = "command.overdue"


class CommandModelError(RejectedError):
    """The device has no such model to measure; or several, and none was named."""

    code = "command.model"


@dataclass(slots=True)
class _Run:
    """A program that runs."""

    command: Command
    process: subprocess.Popen[bytes]
    begun: float
    output: bytearray
    cut: bool = False


class Diagnostics:
    """Owned by the updater's main thread.

    Args:
        topics: of the device.
        config: its settings, for the programs to read.
        bundle: finds the folder of a model's bundle; None: of the only one there is.
        clock: for ends.
        send: takes answers.

    Attributes:
        refused: what was not done, by reason.
    """

    def __init__(
        self,
        topics: Topics,
        *,
        config: Path,
        bundle: Callable[[str | None], Path],
        clock: Clock,
        send: Send,
    ) -> None:
        self.refused: Counter[str] = Counter()
        self._topics = topics
        self._config = config
        self._bundle = bundle
        self._clock = clock
        self._send = send
        self._allowance = Allowance(MOST, HOUR_S)
        self._heeded: OrderedDict[str, None] = OrderedDict()
        self._began = clock.monotonic()
        self._run: _Run | None = None

    @property
    def running(self) -> bool:
        return self._run is not None

    def take(self, command: Command, *, now: float, updating: bool) -> None:
        """Heed a command, or answer why not.

        Args:
            command: whose signature was verified.
            now: trusted time, seconds since 1970.
            updating: a change of this device is under way.
        """
        if command.nonce in self._heeded:
            self._count("replayed")
            return
        since = now - (self._clock.monotonic() - self._began)
        try:
            check_command(
                command,
                device=self._topics.device,
                now=now,
                since=since,
                reply=self._topics.reply(""),
            )
        except CommandForeignError as err:  # nobody here is to be answered
            self._count(err.code)
            return
        except CommandStaleError as err:
            self._heed(command)
            self._refuse(command, err)
            return
        self._heed(command)
        try:
            self._begin(command, updating=updating)
        except EdgeSLMError as err:
            self._refuse(command, err)

    def tend(self) -> None:
        """Take what the program says; answer once it is done."""
        run = self._run
        if run is None:
            return
        ended = run.process.poll() is not None  # before its last words are read
        self._read(run)
        took_s = self._clock.monotonic() - run.begun
        if ended or took_s >= DEADLINE_S:
            self._end(run)
            status = run.process.returncode if ended else None
            late = CommandOverdueError(f"it was not done in {DEADLINE_S:.0f} s")
            error = None if ended else _info(late)
            log.info("diagnosis_ended", do=run.command.do, status=status, seconds=round(took_s, 1))
            self._answer(run.command, status=status, error=error, run=run)

    def close(self) -> None:
        """End what runs."""
        if self._run is not None:
            self._end(self._run)

    def unverified(self, err: EdgeSLMError) -> None:
        """Count what is no command."""
        self._count(err.code)

    def _begin(self, command: Command, *, updating: bool) -> None:
        if self._run is not None:
            msg = "another diagnosis is under way"
            raise CommandBusyError(msg)
        if updating and command.do == "bench":
            msg = "an update is under way, whose trial it would disturb"
            raise CommandBusyError(msg)
        argv = self._argv(command)
        if not self._allowance.take(self._clock.monotonic()):
            wait_s = self._allowance.due_at() - self._clock.monotonic()
            msg = f"{MOST} in an hour; the next in {wait_s:.0f} s"
            raise CommandsTooManyError(msg)
        log.info("diagnosis_begun", do=command.do, model=command.model)
        try:
            process = subprocess.Popen(  # noqa: S603 -- our own programs, no shell
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
        except OSError as err:
            msg = f"it cannot be started: {err.strerror}"
            raise CommandBusyError(msg) from None
        with contextlib.suppress(OSError):  # where the service may not, it is nice itself
            os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
        assert process.stdout is not None  # noqa: S101 -- it is a pipe
        os.set_blocking(process.stdout.fileno(), False)
        self._run = _Run(command, process, self._clock.monotonic(), bytearray())

    def _argv(self, command: Command) -> list[str]:
        argv = [sys.executable, "-m", "edgeslm", command.do]
        if command.do == "doctor":
            return [*argv, "--config", str(self._config.absolute())]
        device = self._topics.device
        bundle = self._bundle(command.model)
        return [*argv, str(bundle), "--device", device, "--seconds", "1", "--print-only"]

    def _read(self, run: _Run) -> None:
        """Take what is there; what is more than travels is thrown away."""
        assert run.process.stdout is not None  # noqa: S101 -- it is a pipe
        fd = run.process.stdout.fileno()
        with contextlib.suppress(BlockingIOError):
            for _ in range(2 + MAX_OUTPUT_BYTES // _CHUNK):  # whoever shouts without end waits
                if not (data := os.read(fd, _CHUNK)):
                    return
                room = MAX_OUTPUT_BYTES - len(run.output)
                run.output += data[:room]
                run.cut |= len(data) > room

    def _end(self, run: _Run) -> None:
        with contextlib.suppress(ProcessLookupError):  # it and all it has started
            os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()
        if run.process.stdout is not None:
            run.process.stdout.close()
        self._run = None

    def _refuse(self, command: Command, err: EdgeSLMError) -> None:
        self._count(err.code)
        self._answer(command, status=None, error=_info(err), run=None)

    def _answer(
        self, command: Command, *, status: int | None, error: ErrorInfo | None, run: _Run | None
    ) -> None:
        output, cut = _text(run.output) if run is not None else ("", False)
        reply = CommandReply(
            schema=1,
            device=self._topics.device,
            nonce=command.nonce,
            do=command.do,
            status=status,
            error=error,
            output=output,
            cut=cut or (run is not None and run.cut),
            took_s=0.0 if run is None else max(0.0, self._clock.monotonic() - run.begun),
        )
        payload = reply.model_dump_json(by_alias=True, exclude_defaults=True).encode()
        self._send(command.reply, payload, False)  # noqa: FBT003 -- not retained

    def _heed(self, command: Command) -> None:
        self._heeded[command.nonce] = None
        if len(self._heeded) > MAX_NONCES:
            self._heeded.popitem(last=False)

    def _count(self, reason: str) -> None:
        self.refused[reason] += 1
        log.warning("command_refused", code=reason, count=self.refused[reason])


def _text(output: bytes | bytearray) -> tuple[str, bool]:
    """Return what a program said, so that it fits as JSON, and whether something was cut."""
    said = bytes(output).decode("utf-8", "replace")
    text = "".join(c if c.isprintable() or c in "\n\t" else "?" for c in said)
    shown = text
    while len(shown.encode()) + shown.count('"') + shown.count("\\") > MAX_OUTPUT_BYTES:
        shown = shown[: len(shown) * 9 // 10]
    return shown, len(shown) < len(text)


def _info(err: EdgeSLMError) -> ErrorInfo:
    return {"code": err.code, "message": str(err)}
