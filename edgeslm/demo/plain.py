"""The demo where no terminal is: lines of text, or nothing but the summary."""

from __future__ import annotations

from typing import Final, TextIO

from edgeslm.demo.factory import Message
from edgeslm.demo.show import Vitals
from edgeslm.demo.tally import Outcome, Tally
from edgeslm.demo.words import cause_of, progress_line, truth_of

_EVERY_S: Final = 5.0
_STRIKING: Final = {"missed", "false alarm"}


class PlainView:
    """Stages, a progress line every five seconds, and what went wrong in between.

    Args:
        stages: takes the lines about what is being put up.
        lines: takes the lines of the play; None: they are not wanted.
    """

    def __init__(self, stages: TextIO, lines: TextIO | None) -> None:
        self._stages, self._lines = stages, lines
        self._tally, self._vitals = Tally(), Vitals()
        self._next_s = _EVERY_S

    def stage(self, what: str, how: str) -> None:
        self._stages.write(f"{what}: {how}\n")
        self._stages.flush()

    def begin(self, tally: Tally, vitals: Vitals) -> None:
        self._tally, self._vitals = tally, vitals

    def sent(self, message: Message) -> None:
        del message

    def outcome(self, outcome: Outcome) -> None:
        if self._lines and outcome.verdict in _STRIKING:
            message = outcome.message
            why = truth_of(outcome) or cause_of(outcome.result, outcome.message.text)
            self._lines.write(f"{outcome.verdict}: {message.source}: {message.text} ({why})\n")

    def refresh(self) -> None:
        if self._lines and self._vitals.elapsed_s >= self._next_s:
            self._next_s += _EVERY_S
            self._lines.write(progress_line(self._tally, self._vitals.elapsed_s) + "\n")
            self._lines.flush()

    def end(self) -> None:
        return
