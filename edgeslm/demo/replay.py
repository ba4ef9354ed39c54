"""Any log file as a source of messages: its first part trains, the rest is played."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeslm.demo.errors import ReplayError
from edgeslm.demo.factory import Message

_TRAIN_SHARE: Final = 0.6
_MIN_LINES: Final = 400
_MAX_LINES: Final = 50_000
_MAX_BYTES: Final = 64 * 1024 * 1024
_MAX_LINE: Final = 4_000
# Time stamps would make every line new. Those that logs begin with, host and program behind them:
#   Nov 22 06:02:26 host program[123]: text    2026-11-22T06:02:26.123Z host program: text
_STAMP: Final = (
    r"(?:<\d{1,3}>)?(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d"
    r"|\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?)"
)
_SYSLOG: Final = re.compile(
    rf"{_STAMP} (?:[\w.:-]{{1,64}} )?([A-Za-z][\w./()-]{{0,63}})(?:\[\d{{1,10}}\])?: (.+)"
)
_STAMPED: Final = re.compile(rf"\[?{_STAMP}\]?[ :]+(.+)")


@dataclass(frozen=True, slots=True)
class Replay:
    """A log file, split in the order it was written."""

    train: tuple[Message, ...]
    play: tuple[Message, ...]


def read_line(line: str) -> tuple[str | None, str]:
    """Return who said it (None where the line does not tell) and what, without its time stamp."""
    if match := _SYSLOG.fullmatch(line):
        return match[1], match[2]
    if match := _STAMPED.fullmatch(line):
        return None, match[1]
    return None, line


def read(path: Path) -> Replay:
    """Return the log file `path`, ready to train and play; blank lines do not count.

    Raises:
        ReplayError: not a readable file, or it has too few lines.
    """
    remedy = f"Give a text file of at least {_MIN_LINES} lines."
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES)
    except OSError as err:
        raise ReplayError(str(path), [("", err.strerror or str(err))], remedy=remedy) from None
    lines = [s for line in raw.decode("utf-8", "replace").splitlines() if (s := line.strip())]
    lines = lines[:_MAX_LINES]
    if len(lines) < _MIN_LINES:
        what = f"only {len(lines)} lines that say anything"
        raise ReplayError(str(path), [("", what)], remedy=remedy)
    messages = []
    for number, line in enumerate(lines, start=1):
        source, text = read_line(line[:_MAX_LINE])
        messages.append(Message(f"line-{number}", source or path.name, text, float(number)))
    cut = int(len(messages) * _TRAIN_SHARE)
    return Replay(tuple(messages[:cut]), tuple(messages[cut:]))
