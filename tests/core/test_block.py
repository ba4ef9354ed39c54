"""A block travels with enough to tell it from any other bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.fleet import BLOCK_BYTES, MAX_BLOB_BYTES
from edgeslm.core.block import HEAD_BYTES, count_of, length_of, pack, unpack


@given(st.integers(1, 5 * BLOCK_BYTES), st.data())
def test_what_was_packed_comes_out(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, count_of(size) - 1))
    content = bytes(length_of(index, size))
    block = unpack(pack(index, size, content))
    assert block is not None
    assert (block.number, block.size, bytes(block.data)) == (index, size, content)


@given(st.integers(1, MAX_BLOB_BYTES))
def test_the_blocks_of_a_blob_are_all_of_it(size: int) -> None:
    count = count_of(size)
    assert sum(length_of(index, size) for index in (0, count - 1)) >= min(size, BLOCK_BYTES)
    assert (count - 1) * BLOCK_BYTES + length_of(count - 1, size) == size
    assert length_of(count, size) < 1


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"eb1\0",
        pack(0, 5, b"12345")[:-1],
        pack(0, 5, b"12345") + b"6",
        pack(1, 5, b"12345"),
        pack(0, 0, b""),
        b"EB1\0" + pack(0, 5, b"12345")[4:],
        pack(2**32 - 1, 2**64 - 1, b"1"),
    ],
)
def test_anything_else_is_no_block(payload: bytes) -> None:
    assert unpack(payload) is None


@given(st.binary(max_size=40))
def test_any_bytes_are_a_block_or_none(payload: bytes) -> None:
    block = unpack(payload)
    assert block is None or len(block.data) == len(payload) - HEAD_BYTES
