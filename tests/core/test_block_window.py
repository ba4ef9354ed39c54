"""Blocks come whatever is lost, and no more is asked for than that."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.contract.fleet import BLOCK_BYTES, MAX_RANGES, Want
from edgeslm.core.block_window import FIRST, LONGEST_S, SILENCE_S, Request, Window

HOUR_S = 3600.0


@dataclass
class Network:
    """A server that answers in order, behind a slow and lossy way.

    Args:
        lose: whether the reply of this number is lost.
        delay_s: of an answer, there and back.
        per_s: blocks a second.
        copies: how often each reply comes.
    """

    lose: Callable[[int], bool] = lambda _: False
    delay_s: float = 0.02
    per_s: float = 1000.0
    copies: int = 1
    sent: list[int] = field(default_factory=list)
    lost: int = 0
    _free_at: float = 0.0
    _coming: list[tuple[float, int, int]] = field(default_factory=list)

    def take(self, requests: Sequence[Request], now: float) -> None:
        for request in requests:
            assert 0 < len(request.ranges) <= MAX_RANGES
            Want(device="d", ranges=request.ranges, again=request.again)
            for first, last in request.ranges:
                for block in range(first, last + 1):
                    self.send(block, now)

    def send(self, block: int, now: float) -> None:
        number = len(self.sent)
        self.sent.append(block)
        self._free_at = max(now, self._free_at) + 1 / self.per_s
        if self.lose(number):
            self.lost += 1
            return
        for copy in range(self.copies):
            heapq.heappush(self._coming, (self._free_at + self.delay_s, number + copy, block))

    def next_at(self) -> float:
        return self._coming[0][0] if self._coming else float("inf")

    def arrive(self) -> int:
        return heapq.heappop(self._coming)[2]


def run(window: Window, network: Network, *, limit: int, until: float = HOUR_S) -> float:
    """Let it come to an end; return when that was."""
    now = 0.0
    for _ in range(200_000):
        network.take(window.ask(now), now)
        assert window.outstanding <= limit
        if not window.missing:
            return now
        due = window.due_at(now)
        following = min(network.next_at(), float("inf") if due is None else due)
        assert following < float("inf"), "waits for ever"
        now = max(now + 1e-9, following)
        if now > until:
            return now
        while network.next_at() <= now:
            block = network.arrive()
            if window.lacks(block):
                window.arrived(block, now)
    pytest.fail("no end")


counts = st.integers(1, 400)
limits = st.integers(1, 128)


@given(counts, limits, st.floats(0, 0.2), st.floats(50, 10_000))
@settings(max_examples=60, deadline=None)
def test_without_losses_each_block_is_asked_for_once(
    count: int, limit: int, delay_s: float, per_s: float
) -> None:
    window, network = Window(count, limit=limit), Network(delay_s=delay_s, per_s=per_s)
    run(window, network, limit=limit)
    assert sorted(network.sent) == list(range(count))
    assert window.asked == count


@given(counts, limits, st.lists(st.booleans(), min_size=1, max_size=40), st.floats(0, 0.2))
@settings(max_examples=150, deadline=None)
def test_whatever_is_lost_it_comes_and_only_what_was_lost_is_asked_for_again(
    count: int, limit: int, pattern: list[bool], delay_s: float
) -> None:
    pattern = [*pattern, False]  # all but all of it
    network = Network(lose=lambda n: pattern[n % len(pattern)], delay_s=delay_s)
    window = Window(count, limit=limit)
    run(window, network, limit=limit, until=100 * HOUR_S)
    assert window.missing == 0
    assert window.asked == count + network.lost
    assert window.repeats == 0


@given(counts, limits, st.floats(0, 20), st.floats(0.25, 50), st.sets(st.integers(0, 200)))
@settings(max_examples=100, deadline=None)
def test_a_slow_network_is_not_flooded(
    count: int, limit: int, delay_s: float, per_s: float, lost: set[int]
) -> None:
    """Answers may take longer than we wait at first: then little is asked for again in vain."""
    network = Network(lose=lost.__contains__, delay_s=delay_s, per_s=per_s)
    window = Window(count, limit=limit)
    run(window, network, limit=limit, until=1000 * HOUR_S)
    assert window.missing == 0
    assert window.asked <= count + network.lost + 2 * FIRST + 0.1 * count + 20


@given(counts, limits, st.sets(st.integers(0, 399)))
@settings(max_examples=60, deadline=None)
def test_what_is_here_is_never_asked_for(count: int, limit: int, here: set[int]) -> None:
    here = {block for block in here if block < count}
    window, network = Window(count, here, limit=limit), Network()
    assert window.missing == count - len(here)
    run(window, network, limit=limit)
    assert not here & set(network.sent)
    assert window.asked == count - len(here)


def test_what_comes_twice_changes_nothing() -> None:
    once, twice = Network(), Network(copies=2)
    for network in (once, twice):
        window = Window(300, limit=16)
        run(window, network, limit=16)
    assert twice.sent == once.sent
    assert window.repeats > 200


def test_a_lost_first_answer_is_asked_for_again_soon() -> None:
    network = Network(lose=lambda n: n == 0)
    window = Window(1, limit=16)
    assert run(window, network, limit=16) < 2 * SILENCE_S
    assert network.sent == [0, 0]


def test_a_server_that_is_away_is_asked_ever_more_rarely() -> None:
    network = Network(lose=lambda _: True)
    window = Window(1000, limit=16)
    run(window, network, limit=16)
    assert window.missing == 1000
    assert window.asked <= FIRST + 8 + HOUR_S / LONGEST_S
    assert window.silences > 50


def test_a_server_that_comes_back_is_asked_soon_once_that_is_known() -> None:
    window = Window(10, limit=16)
    now = 0.0
    for _ in range(20):
        window.ask(now)
        now = window.due_at(now) or 0.0
    last = now - LONGEST_S
    window.hurry()
    assert window.due_at(last + 1.0) == pytest.approx(last + SILENCE_S)


def test_on_a_slow_network_little_is_asked_for_ahead() -> None:
    """Two blocks a second: more than a few on the way would only wait for each other."""
    network, window = Network(per_s=2.0), Window(200, limit=64)
    widest, now = 0, 0.0
    while window.missing:
        network.take(window.ask(now), now)
        widest = max(widest, window.outstanding)
        now = network.next_at()
        window.arrived(network.arrive(), now)
    assert 3 <= widest <= 8
    assert now <= 110


def test_a_gap_is_repaired_before_the_silence_that_it_would_be() -> None:
    network = Network(lose=lambda n: n == 40)
    window = Window(200, limit=16)
    took_s = run(window, network, limit=16)
    assert network.sent.count(network.sent[40]) == 2
    assert took_s < SILENCE_S


def test_after_a_lost_connection_only_what_was_outstanding_is_asked_for_again() -> None:
    window = Window(100, limit=16)
    now, asked = 0.0, set[int]()
    for _ in range(10):
        for request in window.ask(now):
            for first, last in request.ranges:
                asked.update(range(first, last + 1))
        now += 0.01
        window.arrived(min(block for block in asked if window.lacks(block)), now)
    outstanding = {block for block in asked if window.lacks(block)}
    window.disconnected()
    assert window.outstanding == 0
    [request, *_] = window.ask(now)
    assert request.again
    again = {b for first, last in request.ranges for b in range(first, last + 1)}
    assert again <= outstanding
    assert len(again) == min(FIRST, len(outstanding))


def test_who_comes_late_goes_with_the_others_and_then_round() -> None:
    window = Window(100, limit=16)
    [first] = window.ask(0.0)
    assert first.ranges == ((0, 1),)
    for block in range(40, 60):
        window.arrived(block, 0.01)
    window.arrived(0, 0.02)
    asked = [r for request in window.ask(0.02) for r in request.ranges]
    assert asked[0][0] == 60
    network = Network()
    run(window, network, limit=16)
    assert not set(network.sent) & set(range(40, 60))
    assert network.sent.index(99 if 99 in network.sent else 98) < network.sent.index(20)


@given(st.integers(1, 20), st.integers(1, 99), limits)
@settings(max_examples=50, deadline=None)
def test_followers_cost_no_more_than_what_they_missed(
    devices: int, behind: int, limit: int
) -> None:
    """All hear all blocks; what one asks for while it is on its way is not sent again."""
    leader = Window(100, limit=limit)
    network, now, sent = Network(delay_s=0.001), 0.0, 0
    while 100 - leader.missing < behind:
        network.take(leader.ask(now), now)
        leader.arrived(network.arrive(), now)
        now += 0.001
    windows = [leader, *(Window(100, limit=limit) for _ in range(devices))]
    due: set[int] = set()
    while any(window.missing for window in windows):
        for window in windows:
            for request in window.ask(now):
                due |= {b for first, last in request.ranges for b in range(first, last + 1)}
        assert due
        block = min(due, key=lambda b: (b < behind, b))
        due.discard(block)
        sent += 1
        now += 0.001
        for window in windows:
            if window.lacks(block):
                window.arrived(block, now)
    assert sent <= 100 + limit + FIRST


@given(st.floats(1000, 5e6), st.integers(1, 40), limits)
@settings(max_examples=50, deadline=None)
def test_no_more_is_asked_for_than_the_rate_allows(rate: float, count: int, limit: int) -> None:
    window, network = Window(count, limit=limit, rate=rate), Network(per_s=1e6)
    took_s = run(window, network, limit=limit, until=1e7)
    assert window.missing == 0
    size = window.asked * BLOCK_BYTES
    assert size <= rate * took_s + 2 * max(rate, BLOCK_BYTES)
    assert took_s <= 1.1 * size / rate + 60


def test_who_may_take_little_leaves_while_others_take_much() -> None:
    window = Window(1000, limit=4, rate=BLOCK_BYTES)
    now, heard = 0.0, 0
    for block in range(100):
        if window.may_listen(now):
            heard += 1
            window.arrived(block, now)
        now += 0.01
    assert heard <= 4 + 3
    assert not window.may_listen(now)
    assert window.may_listen(now + 8.0)
    while window.missing and now < 4000:
        now += 1.0
        heard += window.may_listen(now)
        if window.may_listen(now):
            window.arrived(next(b for b in range(1000) if window.lacks(b)), now)
    assert heard <= now + 8


@pytest.mark.parametrize("block", [-1, 10, 2**32 - 1])
def test_a_block_that_cannot_be_is_of_no_use(block: int) -> None:
    assert not Window(10, limit=16).lacks(block)


def test_scattered_gaps_are_asked_for_in_as_many_ranges_as_a_request_takes() -> None:
    window = Window(1000, range(0, 1000, 2), limit=128)
    for _ in itertools.repeat(None, 100):
        for request in window.ask(0.0):
            assert len(request.ranges) <= MAX_RANGES
            for first, _ in request.ranges:
                window.arrived(first, 0.0)
    assert window.missing == 0
