"""What the command line takes in more than one place, read or refused in argparse's own way."""

from __future__ import annotations

import argparse
from datetime import date


def day(text: str) -> str:
    """Return a day as ISO 8601 writes it."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        msg = f"{text!r} is not a day, such as 2031-12-31"
        raise argparse.ArgumentTypeError(msg) from None


def positive(text: str) -> int:
    """Return a whole number of 1 or more."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        msg = f"{text!r} is not a whole number of 1 or more"
        raise argparse.ArgumentTypeError(msg)
    return value


def share(text: str) -> float:
    """Return a number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        msg = f"{text!r} is not a number between 0 and 1"
        raise argparse.ArgumentTypeError(msg)
    return value
