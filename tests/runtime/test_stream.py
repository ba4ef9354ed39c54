"""Lines come out in the order they went in, as soon as they can, in bounded memory."""

from __future__ import annotations

import os
import random
import threading
import time
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.runtime.stream import Group, Line, map_in_order, read_groups, split_lines


def lines_of(chunks: list[bytes], max_bytes: int = 100) -> list[Line]:
    return [line for lines in split_lines(iter(chunks), max_bytes=max_bytes) for line in lines]


@pytest.mark.parametrize(
    ("chunks", "data"),
    [
        ([], []),
        ([b"\n"], [b""]),
        ([b"a"], [b"a"]),
        ([b"a\nb\n"], [b"a", b"b"]),
        ([b"a\r\nb\r\r\n"], [b"a", b"b\r"]),
        ([b"a\r", b"\nb"], [b"a", b"b"]),
        ([b"a\n\nb"], [b"a", b"", b"b"]),
        ([b"a\x85\x0b\x0cb\n"], [b"a\x85\x0b\x0cb"]),
    ],
)
def test_a_line_ends_at_a_line_feed(chunks: list[bytes], data: list[bytes]) -> None:
    assert [line.data for line in lines_of(chunks)] == data


@pytest.mark.parametrize(
    ("raw", "too_long"),
    [
        (b"x" * 10, False),
        (b"x" * 10 + b"\r", False),
        (b"x" * 11, True),
        (b"x" * 11 + b"\r", True),
        (b"x" * 500, True),
        (b"x" * 10 + b"\ry", True),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_long_line_is_cut_and_the_next_is_whole(*, raw: bytes, too_long: bool, size: int) -> None:
    whole = raw + b"\nnext\n"
    chunks = [whole[i : i + size] for i in range(0, len(whole), size)]
    first, second = lines_of(chunks, max_bytes=10)
    assert (first.too_long, len(first.data)) == (too_long, 10)
    assert second == Line(2, b"next")


def test_a_line_without_end_takes_no_more_memory_than_its_start() -> None:
    chunk = b"x" * 65_536
    tracemalloc.start()
    try:
        [[line]] = split_lines((chunk for _ in range(1000)), max_bytes=1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (line.too_long, len(line.data)) == (True, 1000)
    assert peak < 10 * len(chunk)


@given(st.lists(st.sampled_from([b"a", b"bc\n", b"\n", b"\r\n", b"\xff" * 9])), st.data())
def test_where_chunks_are_cut_changes_nothing(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    edges = [0, *cuts, len(whole)]
    chunks = [whole[a:b] for a, b in pairwise(edges)]
    assert lines_of(chunks, max_bytes=8) == lines_of([whole], max_bytes=8)


@given(st.lists(st.binary(max_size=30).filter(lambda b: b"\n" not in b and not b.endswith(b"\r"))))
def test_gives_back_what_was_joined(data: list[bytes]) -> None:
    raw = b"".join(line + b"\n" for line in data)
    assert [line.data for line in lines_of([raw])] == data
    assert [line.number for line in lines_of([raw])] == list(range(1, len(data) + 1))


def group(number: int) -> Group:
    return Group([Line(number, b"")], 0.0, 0.0)


def test_keeps_order_whatever_takes_longest() -> None:
    rng = random.Random(3)  # noqa: S311
    pauses = [rng.random() / 500 for _ in range(200)]

    def handle(one: Group) -> int:
        number = one.lines[0].number
        time.sleep(pauses[number])
        return number

    done = map_in_order(map(group, range(200)), handle, threads=8)
    assert list(done) == list(range(200))


def test_a_result_does_not_wait_for_the_next_line() -> None:
    more = threading.Event()

    def groups() -> Iterator[Group]:
        yield group(0)
        assert more.wait(10)
        yield group(1)

    done = map_in_order(groups(), lambda one: one.lines[0].number, threads=2)
    assert next(done) == 0
    more.set()
    assert list(done) == [1]


def test_reads_ahead_within_bounds() -> None:
    read: list[int] = []
    begun = threading.Event()

    def groups() -> Iterator[Group]:
        for number in range(10_000):
            read.append(number)
            yield group(number)

    def handle(one: Group) -> int:
        begun.set()
        return one.lines[0].number

    done = map_in_order(groups(), handle, threads=2)
    for number in range(500):
        assert next(done) == number
        assert len(read) <= number + 2 * 4 + 3
    done.close()


def test_errors_of_either_side_reach_the_consumer() -> None:
    def groups() -> Iterator[Group]:
        yield group(0)
        msg = "unreadable"
        raise OSError(msg)

    done = map_in_order(groups(), lambda _: "fine", threads=1)
    assert next(done) == "fine"
    with pytest.raises(OSError, match="unreadable"):
        next(done)

    def fail(_one: Group) -> str:
        msg = "wrong"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="wrong"):
        list(map_in_order(map(group, range(3)), fail, threads=2))


def test_reads_a_descriptor_as_it_comes() -> None:
    reader, writer = os.pipe()
    groups = read_groups(reader, max_bytes=10)
    os.write(writer, b"one\n")
    assert [line.data for line in next(groups).lines] == [b"one"]
    os.write(writer, b"two\n" * 20)
    assert [len(next(groups).lines) for _ in range(2)] == [16, 4]
    os.write(writer, b"end")
    os.close(writer)
    assert [line.data for line in next(groups).lines] == [b"end"]
    assert next(groups, None) is None
    os.close(reader)
