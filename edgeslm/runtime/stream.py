"""Lines from a file descriptor through threads and out again: in order, in bounded memory."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

T = TypeVar("T")
_READ_BYTES: Final = 65_536
_GROUP: Final = 16  # lines; a hand-over between threads costs as much as a few cached answers
_AHEAD: Final = 4  # groups read ahead for each thread


@dataclass(frozen=True, slots=True)
class Line:
    """One line, without its end.

    Args:
        number: from 1.
        data: its bytes; of a line that is too long, the first.
        too_long: longer than allowed; the rest was skipped.
    """

    number: int
    data: bytes
    too_long: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Lines that were read together.

    Args:
        lines: at least one.
        time: when, seconds since 1970.
        monotonic: when, by the monotonic clock, in seconds.
    """

    lines: list[Line]
    time: float
    monotonic: float


def split_lines(chunks: Iterator[bytes], *, max_bytes: int) -> Iterator[list[Line]]:
    """Yield the lines that end in each chunk, then the last one if it has no end.

    A line ends at a line feed, with a carriage return before it or not. Memory stays below
    `max_bytes` and a chunk, however long a line is.
    """
    number, pending, skipping = 0, b"", False
    for chunk in chunks:
        done: list[Line] = []
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            number += 1
            done.append(_line(number, pending + part, max_bytes, cut=skipping))
            pending, skipping = b"", False
        if not skipping:
            pending += rest
            # One byte more may be the carriage return of a line that just fits.
            if len(pending) > max_bytes + 1:
                pending, skipping = pending[: max_bytes + 1], True
        if done:
            yield done
    if pending:
        yield [_line(number + 1, pending, max_bytes, cut=skipping)]


def read_groups(fd: int, *, max_bytes: int) -> Iterator[Group]:
    """Yield the lines of `fd` as soon as they are there, a few at a time."""
    # Not a buffered reader: a thread that waits in one cannot be left behind at exit.
    chunks = iter(lambda: os.read(fd, _READ_BYTES), b"")
    for lines in split_lines(chunks, max_bytes=max_bytes):
        wall, monotonic = time.time(), time.monotonic()
        for start in range(0, len(lines), _GROUP):
            yield Group(lines[start : start + _GROUP], wall, monotonic)


def map_in_order(
    groups: Iterator[Group], handle: Callable[[Group], T], *, threads: int
) -> Generator[T, None, None]:
    """Yield `handle` of each group, in order, each as soon as it and those before it are done.

    Groups are read on a thread of their own, so that what is done need not wait for the next.

    Raises:
        Whatever reading or `handle` raises, in its place.
    """
    done: queue.Queue[Future[T] | BaseException | None] = queue.Queue(threads * _AHEAD)
    stopped = threading.Event()
    with_threads = ThreadPoolExecutor(threads, thread_name_prefix="infer")

    def read() -> None:
        try:
            for group in groups:
                if stopped.is_set():
                    return
                done.put(with_threads.submit(handle, group))
        except BaseException as err:  # noqa: BLE001 -- raised again by the consumer
            done.put(err)
        else:
            done.put(None)

    threading.Thread(target=read, daemon=True, name="read").start()
    try:
        while (item := done.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item.result()
    finally:
        stopped.set()
        with_threads.shutdown(wait=False, cancel_futures=True)


def _line(number: int, data: bytes, max_bytes: int, *, cut: bool) -> Line:
    if cut:
        return Line(number, data[:max_bytes], too_long=True)
    data = data.removesuffix(b"\r")
    return Line(number, data[:max_bytes], too_long=len(data) > max_bytes)
