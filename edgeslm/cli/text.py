"""How commands read what people type, and write for them."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole(lowest: int, highest: int) -> Callable[[str], int]:
    """Return what reads a whole number in [lowest, highest], for argparse."""

    def whole_number(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            msg = f"{text!r} is not a whole number"
            raise argparse.ArgumentTypeError(msg) from None
        if not lowest <= number <= highest:
            msg = f"{number} is not in [{lowest}, {highest}]"
            raise argparse.ArgumentTypeError(msg)
        return number

    return whole_number


def duration(text: str) -> float:
    """Read seconds, above 0 and at most an hour, for argparse."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:  # noqa: PLR2004 -- an hour; NaN is refused too
        msg = f"{text!r} is not a number of seconds above 0 and at most 3600"
        raise argparse.ArgumentTypeError(msg)
    return seconds


def printable(text: str) -> str:
    """Return `text` without what a terminal would obey: files and brokers are not to be trusted."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def megabytes(size: int) -> str:
    """Return a size in bytes as decimal megabytes."""
    return f"{size / 1e6:.1f} MB"
