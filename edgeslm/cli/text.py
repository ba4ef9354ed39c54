"""How commands write for people."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return `text` without what a terminal would obey: files and brokers are not to be trusted."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def megabytes(size: int) -> str:
    """Return a size in bytes as decimal megabytes."""
    return f"{size / 1e6:.1f} MB"
