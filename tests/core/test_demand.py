"""A block that many want is sent once, and nobody who listens is left without it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.core.block_window import Window
from edgeslm.core.demand import (
    FORGET_S,
    FRESH_S,
    LISTENS_S,
    MAX_ASKED,
    MAX_BLOBS,
    MAX_DEVICES,
    TOGETHER_S,
    Demand,
)

A, B = "a" * 64, "b" * 64


def ask(
    demand: Demand, device: str, *blocks: int, at: float, again: bool = False, blob: str = A
) -> str | None:
    ranges = [(block, block) for block in blocks]
    return demand.want(blob, count=100, device=device, ranges=ranges, again=again, now=at)


def sent(demand: Demand, at: float) -> list[int]:
    """All that waits, sent at once."""
    blocks = []
    while (taken := demand.take(at)) is not None:
        blocks.append(taken[1])
    return blocks


def test_what_many_ask_for_at_once_is_sent_once_in_order() -> None:
    demand = Demand()
    for i in range(20):
        assert ask(demand, f"d{i}", 5, 3, 4, at=0.001 * i) is None
    assert sent(demand, 0.1) == [5, 3, 4]
    assert demand.merged == 19 * 3
    assert len(demand) == 0


def test_what_went_while_they_listened_is_not_sent_again_unless_it_did_not_come() -> None:
    demand = Demand()
    ask(demand, "fast", 0, at=0.0)
    ask(demand, "slow", 0, at=0.0)
    sent(demand, 0.0)
    ask(demand, "fast", 1, at=0.1)
    assert sent(demand, 0.1) == [1]
    ask(demand, "slow", 1, at=2.0)
    assert sent(demand, 2.0) == []
    ask(demand, "slow", 1, at=2.5, again=True)
    assert sent(demand, 2.5) == [1]


def test_what_went_before_they_asked_first_is_sent_for_them() -> None:
    demand = Demand()
    ask(demand, "first", 0, 1, at=0.0)
    assert sent(demand, 0.0) == [0, 1]
    ask(demand, "listening", 0, 1, at=LISTENS_S / 2)
    assert sent(demand, LISTENS_S / 2) == []
    ask(demand, "late", 0, 1, at=2 * LISTENS_S)
    assert sent(demand, 2 * LISTENS_S) == [0, 1]


def test_what_went_long_ago_is_sent_again() -> None:
    demand = Demand()
    ask(demand, "d", 0, at=0.0)
    sent(demand, 0.0)
    ask(demand, "d", 0, at=FRESH_S + 0.1)
    assert sent(demand, FRESH_S + 0.1) == [0]


def test_those_who_miss_the_same_block_get_it_together() -> None:
    demand = Demand()
    for i in range(20):
        ask(demand, f"d{i}", 7, at=0.0)
    assert sent(demand, 0.0) == [7]
    repeats = []
    for i in range(20):
        at = 0.1 + 0.01 * i
        ask(demand, f"d{i}", 7, at=at, again=True)
        repeats += sent(demand, at)
    assert repeats == [7]
    ask(demand, "d3", 7, at=0.6, again=True)  # nor did it come this time
    assert sent(demand, 0.6) == [7]
    ask(demand, "d4", 7, at=0.7, again=True)
    assert sent(demand, 0.7) == []
    ask(demand, "d4", 7, at=0.7 + TOGETHER_S, again=True)
    assert sent(demand, 0.7 + TOGETHER_S) == [7]


def test_blobs_take_turns() -> None:
    demand = Demand()
    ask(demand, "d", *range(10), at=0.0)
    demand.want(B, count=2, device="e", ranges=[(0, 1)], again=False, now=0.0)
    order = [demand.take(0.0) for _ in range(4)]
    assert order == [(A, 0), (B, 0), (A, 1), (B, 1)]


@pytest.mark.parametrize(
    ("ranges", "why"),
    [
        ([(0, 100)], "out_of_range"),
        ([(5, 4)], "out_of_range"),
        ([(100, 100)], "out_of_range"),
        ([(0, 99), (0, 99)], "too_much"),
        ([(0, 2**40)], "out_of_range"),
    ],
)
def test_what_cannot_be_meant_is_refused_as_a_whole(
    ranges: list[tuple[int, int]], why: str
) -> None:
    demand = Demand()
    asked = demand.want(A, count=100, device="d", ranges=ranges, again=True, now=0.0)
    assert asked == why
    assert demand.take(0.0) is None
    assert demand.blobs == frozenset()


def test_as_many_as_a_window_may_have_are_taken() -> None:
    asked = Demand().want(
        A, count=MAX_ASKED, device="d", ranges=[(0, MAX_ASKED - 1)], again=False, now=0.0
    )
    assert asked is None


def test_blobs_without_end_are_refused_until_others_are_idle() -> None:
    demand = Demand()
    for i in range(MAX_BLOBS):
        assert ask(demand, "d", 0, at=0.0, blob=f"{i:064}") is None
    assert ask(demand, "d", 0, at=1.0) == "busy"
    sent(demand, 1.0)
    assert ask(demand, "d", 0, at=2.0) == "busy"
    assert ask(demand, "d", 0, at=FORGET_S + 1.0) is None
    assert demand.blobs == {A}


def test_devices_without_end_are_forgotten() -> None:
    demand = Demand()
    for i in range(MAX_DEVICES + 10):
        ask(demand, f"d{i}", 0, at=0.0)
    assert sent(demand, 0.0) == [0]


def test_a_blob_can_be_dropped_and_all_forgotten() -> None:
    demand = Demand()
    ask(demand, "d", 0, at=0.0)
    ask(demand, "d", 0, at=0.0, blob=B)
    demand.drop(A)
    demand.drop(A)
    assert demand.take(0.0) == (B, 0)
    assert demand.take(0.0) is None
    ask(demand, "d", 0, at=0.0)
    demand.clear()
    assert demand.take(0.0) is None


class Listener:
    """A device with a window of its own, which begins, and hears what is sent, after a lag."""

    def __init__(self, name: str, count: int, limit: int, lag_s: float) -> None:
        self.name = name
        self.window = Window(count, limit=limit)
        self.begins_at = lag_s / 10
        self._lag_s = lag_s / 2
        self._coming: list[tuple[float, int]] = []

    def hear(self, block: int, now: float) -> None:
        if now >= self.begins_at:
            self._coming.append((now + self._lag_s, block))

    def go_on(self, demand: Demand, count: int, now: float) -> None:
        if now < self.begins_at:
            return
        while self._coming and self._coming[0][0] <= now:
            _, block = self._coming.pop(0)
            if self.window.lacks(block):
                self.window.arrived(block, now)
        for request in self.window.ask(now):
            ranges, again = request.ranges, request.again
            asked = demand.want(
                A, count=count, device=self.name, ranges=ranges, again=again, now=now
            )
            assert asked is None


@given(st.lists(st.floats(0, 0.3), min_size=1, max_size=20), st.integers(1, 99), st.integers(1, 16))
@settings(max_examples=40, deadline=None)
def test_devices_with_windows_of_their_own_get_all_and_little_is_sent_twice(
    lags: list[float], count: int, limit: int
) -> None:
    demand = Demand()
    listeners = [Listener(f"d{i}", count, limit, lag_s) for i, lag_s in enumerate(lags)]
    tick_s, a_tick, now, number = 0.002, 4, 0.0, 0
    while any(each.window.missing for each in listeners):
        assert now < 60
        for each in listeners:
            each.go_on(demand, count, now)
        for _ in range(a_tick):
            if (taken := demand.take(now)) is not None:
                number += 1
                for each in listeners:
                    each.hear(taken[1], now)
        now += tick_s
    missed_at_first = max(each.begins_at for each in listeners) / tick_s * a_tick
    assert number <= count + missed_at_first + 2 * limit + 8
