"""A line on a terminal that says how a simulated fleet is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from edgeslm.simulate.simulation import Look


@contextmanager
def watched() -> Iterator[Callable[[Look], None]]:
    """Give what draws how things are, on standard error."""
    with Live(console=Console(stderr=True), refresh_per_second=5, transient=True) as live:
        yield lambda look: live.update(_drawn(look))


def _drawn(look: Look) -> Table:
    table = Table.grid(padding=(0, 2))
    if not look.known:
        table.add_row("waiting for the fleet's metadata: does `edgeslm fleet serve` run?")
        return table
    versions = ", ".join(f"{n} on {version}" for version, n in sorted(look.versions.items()))
    table.add_row(f"{look.connected} of {look.devices} connected", versions, f"{look.busy} at work")
    return table
