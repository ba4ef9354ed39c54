"""The demo on a terminal: one screen that fits 80x24 and uses what more there is."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from edgeslm.demo.factory import Message
from edgeslm.demo.faults import TITLES
from edgeslm.demo.machines import MACHINES
from edgeslm.demo.show import Vitals
from edgeslm.demo.tally import Outcome, Tally, Verdict, percentile
from edgeslm.demo.words import cache_share, cause_of, share, truth_of

_RECENT: Final = 500  # answers over which rate and latencies are shown
_LIT_S: Final = 2.5  # how long a machine stays lit after its alarm
_WIDE: Final = 110
_MIN_ALARMS: Final = 4
_TRUTH_WIDTH: Final = max(map(len, TITLES.values())) + 2
# Head, figures (names and values), the order's line, and two rules.
_FIXED_ROWS: Final = 1 + 2 + 1 + 2
_LOOK: Final[dict[Verdict, tuple[str, str]]] = {
    "caught": ("✔", "bold green"),
    "missed": ("✘", "bold red"),
    "false alarm": ("!", "bold yellow"),
    "alarm": ("!", "bold yellow"),
}


def on_terminal() -> LiveView:
    """The live view on standard error, which leaves standard output to the summary."""
    return LiveView(Console(stderr=True))


class LiveView:
    """Draws on `console`, a terminal, until `end`; then the screen is as it was."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._tally, self._vitals = Tally(), Vitals()
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)  # (at, latency_s)
        self._said: dict[str, str] = {m.name: "" for m in MACHINES}
        # What alarmed stays on show a moment; source: (style, text, until).
        self._lit: dict[str, tuple[str, str, float]] = {}
        self._alarms: deque[Outcome] = deque(maxlen=100)  # newest first
        self._order: Outcome | None = None

    def stage(self, what: str, how: str) -> None:
        self._console.print(Text.assemble((f" {what:<8}", "bold cyan"), how))

    def begin(self, tally: Tally, vitals: Vitals) -> None:
        self.attach(tally, vitals)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._live.start()
        self.refresh()

    def attach(self, tally: Tally, vitals: Vitals) -> None:
        """Take the figures from `tally` and `vitals` from now on; draws nothing."""
        self._tally, self._vitals = tally, vitals
        if not tally.truth_known:  # a replay has sources of its own
            self._said.clear()

    def sent(self, message: Message) -> None:
        if message.order:
            return
        if not self._tally.truth_known:
            self._said.pop(message.source, None)  # the latest at the end
        self._said[message.source] = message.text

    def outcome(self, outcome: Outcome) -> None:
        now = time.monotonic()
        self._recent.append((now, outcome.latency_s))
        if outcome.message.order:
            self._order = outcome
        elif outcome.verdict in _LOOK:
            self._alarms.appendleft(outcome)
            style, message = _LOOK[outcome.verdict][1], outcome.message
            self._lit[message.source] = (style, message.text, now + _LIT_S)

    def refresh(self) -> None:
        if self._live:
            self._live.update(self.screen(*self._console.size), refresh=True)

    def end(self) -> None:
        if self._live:
            self._live.stop()

    def screen(self, width: int, height: int) -> RenderableType:
        """The whole screen, `height` rows of `width` columns."""
        rows = max(height - _FIXED_ROWS, 2)
        sources = list(self._said)[-max(rows - _MIN_ALARMS, 1) :]
        return Group(
            self._head(),
            self._figures(wide=width >= _WIDE),
            _rule("last words of each machine"),
            self._machines(sources),
            self._order_line(),
            _rule("alarms and what caused them"),
            self._alarm_rows(rows - len(sources), wide=width >= _WIDE),
        )

    def _head(self) -> RenderableType:
        head = Table.grid(expand=True, padding=(0, 1))
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(total=1.0, completed=self._vitals.progress, complete_style="cyan")
        head.add_row(
            Text(" edgeslm demo", "bold cyan"), bar, Text(f"{self._vitals.elapsed_s:.0f} s ")
        )
        return head

    def _figures(self, *, wide: bool) -> Table:
        t, v = self._tally, self._vitals
        figures = [
            ("answered", f"{t.answered:,} of {t.sent:,}", "white"),
            ("per s", f"{self._rate():.0f}", "white"),
            ("p50 / p99 ms", self._latencies(), "white"),
        ]
        if t.truth_known:
            told = t.faults_caught + t.faults_missed
            figures += [
                ("faults caught", f"{t.faults_caught} of {told}", "green"),
                (
                    "false alarms",
                    f"{t.false_alarms} = {share(t.false_alarms, t.normal, 1)}",
                    "yellow",
                ),
                ("orders", share(t.intents_right, t.intents), "magenta"),
            ]
        else:
            figures.append(("alarms", f"{t.alarms} = {share(t.alarms, t.answered, 1)}", "yellow"))
        figures.append(("memory", f"{v.pss_mb:.0f} MB" if v.pss_mb else "-", "white"))
        if wide:
            saved = cache_share(v.models)
            figures.append(("from cache", "-" if saved is None else f"{saved:.0%}", "white"))
        table = Table.grid(expand=True, padding=(0, 0, 0, 1))
        for _ in figures:
            table.add_column(no_wrap=True, overflow="crop")
        table.add_row(*(Text(name, "dim") for name, _, _ in figures))
        table.add_row(*(Text(value, f"bold {style}") for _, value, style in figures))
        return table

    def _rate(self) -> float:
        """Answers a second over the recent ones."""
        if len(self._recent) < 2:  # noqa: PLR2004 -- a rate needs an interval
            return 0.0
        return (len(self._recent) - 1) / max(time.monotonic() - self._recent[0][0], 1e-3)

    def _latencies(self) -> str:
        recent = [latency_s for _, latency_s in self._recent]
        p50, p99 = percentile(recent, 0.5), percentile(recent, 0.99)
        return "-" if p50 is None or p99 is None else f"{p50 * 1000:.1f} / {p99 * 1000:.1f}"

    def _machines(self, sources: list[str]) -> Table:
        now = time.monotonic()
        table = _grid()
        for source in sources:
            style, text, until = self._lit.get(source, ("", "", 0.0))
            if now >= until:
                style, text = "", self._said[source]
            table.add_row(
                Text("●", style or "green dim"), Text(source, style or "cyan"), Text(text, style)
            )
        return table

    def _order_line(self) -> Table:
        table = _grid()
        if self._order is None:
            table.add_row(" ", "", "")
            return table
        result, order = self._order.result, self._order.message
        label = result.get("label", "error") if result.get("accepted", True) else "none of ours"
        style = "magenta" if self._order.verdict == "understood" else "yellow"
        said = Text.assemble(f'"{order.text}" ', (f"→ {label}", f"bold {style}"))
        table.add_row(Text("✎", style), Text(order.source, style), said)
        return table

    def _alarm_rows(self, rows: int, *, wide: bool) -> RenderableType:
        if not self._alarms:
            return Text(" none yet", "dim")
        table = _grid()
        if wide:
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=2)
        for outcome in list(self._alarms)[:rows]:
            mark, style = _LOOK[outcome.verdict]
            truth = truth_of(outcome)
            why = (
                cause_of(outcome.result, outcome.message.text)
                if outcome.verdict != "missed"
                else "no alarm"
            )
            cells: list[RenderableType] = [
                Text(mark, style),
                Text(outcome.message.source, "cyan"),
                Text(f"{truth or outcome.verdict:<{_TRUTH_WIDTH}}", style).append(why, "default"),
            ]
            if wide:
                cells.append(Text(outcome.message.text, "dim"))
            table.add_row(*cells)
        return table


def _grid() -> Table:
    """Mark, source and the rest, aligned alike on the whole screen."""
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(width=2, justify="right")
    table.add_column(width=13, no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
    return table


def _rule(title: str) -> Rule:
    return Rule(Text(title, "dim"), align="left", style="dim")
