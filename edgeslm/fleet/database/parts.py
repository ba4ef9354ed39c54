"""Long lists for SQL, in parts: databases take so many values in one statement and no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

PART: Final = 1000

T = TypeVar("T")


def parts(items: Iterable[T], size: int = PART) -> Iterator[list[T]]:
    """Yield the items in lists of at most `size`."""
    left = iter(items)
    while part := list(islice(left, size)):
        yield part
