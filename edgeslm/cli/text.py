"""How commands read what people type, and write for them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final


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


def positive(most: float, unit: str) -> Callable[[str], float]:
    """Return what reads a number of a unit, above 0 and at most `most`, for argparse."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value <= most:  # NaN is refused too
            msg = f"{text!r} is not a number of {unit} above 0 and at most {most:g}"
            raise argparse.ArgumentTypeError(msg)
        return value

    return number


duration: Final = positive(3600, "seconds")
"""Reads seconds, at most an hour."""


def printable(text: str) -> str:
    """Return `text` without what a terminal would obey: files and brokers are not to be trusted."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def megabytes(size: int) -> str:
    """Return a size in bytes as decimal megabytes."""
    return f"{size / 1e6:.1f} MB"
