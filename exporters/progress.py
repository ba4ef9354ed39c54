"""What an export does now, on standard error: bars on a terminal, and lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:  # it takes a while to import
    from exporters.heads.base import Advance

EVERY_S: Final = 30.0
"""Between two lines about how far a stage has come."""


class Shown(Protocol):
    """Shows stages, as `exporters.workbench.Stage`, and notes.

    Attributes:
        told: notes that were shown already.
    """

    told: list[str]

    def __call__(self, name: str, total: int | None) -> AbstractContextManager[Advance]: ...

    def tell(self, note: str) -> None:
        """Show a note, unless it was shown already."""


@contextmanager
def progress() -> Iterator[Shown]:
    """Show the stages of what is done inside."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars)


class _Bars:
    """Implements `Shown` with a bar for each stage."""

    def __init__(self, bars: Progress) -> None:
        self.told: list[str] = []
        self._bars = bars

    def tell(self, note: str) -> None:
        if note not in self.told:
            self.told.append(note)
            # Above the bars, which the console draws anew; never wrapped, since it may be read
            # by a program.
            self._bars.console.print(
                f"edgeslm-export: note: {note}", markup=False, highlight=False, soft_wrap=True
            )

    @contextmanager
    def __call__(self, name: str, total: int | None) -> Iterator[Advance]:
        bar = self._bars.add_task(name, total=total)
        yield lambda steps: self._bars.advance(bar, steps)
        done = total if total is not None else 1
        self._bars.update(bar, total=done, completed=done)


class Lines:
    """Implements `Shown` for logs: a line as a stage begins, and now and then how far it has come.

    A stage of a name that was there before is announced once only: a search has hundreds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.told: list[str] = []
        self._clock = clock
        self._begun: set[str] = set()

    def tell(self, note: str) -> None:
        if note not in self.told:
            self.told.append(note)
            _say(f"note: {note}")

    @contextmanager
    def __call__(self, name: str, total: int | None) -> Iterator[Advance]:
        if name not in self._begun:
            self._begun.add(name)
            _say(f"stage: {name}")
        said, done = self._clock(), 0

        def advance(steps: int) -> None:
            nonlocal said, done
            done += steps
            if total is not None and (now := self._clock()) - said >= EVERY_S:
                said = now
                _say(f"stage: {name}: {done} of {total}")

        yield advance


def _say(what: str) -> None:
    sys.stderr.write(f"edgeslm-export: {what}\n")
    sys.stderr.flush()
