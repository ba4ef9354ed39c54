"""Draws what changes, at a terminal, in place."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text


def watch(look: Callable[[], tuple[bool, list[str]]], *, pause_s: float) -> None:
    """Show the lines that `look` returns, until it says that this is the end."""
    with Live(console=Console(), auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            ended, lines = look()
            # As text: what devices said holds no markup of ours.
            live.update(Text("\n".join(lines)), refresh=True)
            if ended:
                return
            time.sleep(pause_s)
