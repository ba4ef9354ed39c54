"""How commands read what people type, and write for them."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole(lowest: int, highest: int) -> Callable[[str], int]:
    """Return what reads a whole number in [lowest, highest], for argparse."""

    def whole_number(text: str) -> int:
        number = int(text)
        if not lowest <= number <= highest:
            msg = f"{number} is not in [{lowest}, {highest}]"
            raise argparse.ArgumentTypeError(msg)
        return number

    return whole_number


def printable(text: str) -> str:
    """Return `text` without what a terminal would obey: files and brokers are not to be trusted."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def megabytes(size: int) -> str:
    """Return a size in bytes as decimal megabytes."""
    return f"{size / 1e6:.1f} MB"
