"""Whatever is read first, it is judged in its turn, and what fails stops nobody."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.agent.sequencer import Sequencer


@given(st.permutations(range(12)), st.sets(st.integers(0, 11)))
def test_what_is_brought_in_any_order_is_judged_in_that_of_the_turns(
    order: Sequence[int], skipped: set[int]
) -> None:
    sequencer: Sequencer[int] = Sequencer()
    turns = [sequencer.turn() for _ in order]
    assert turns == list(range(12))
    judged: list[int] = []
    brought: set[int] = set()
    for turn in order:
        if turn in skipped:
            sequencer.skip(turn, judged.append)
        else:
            sequencer.bring(turn, turn, judged.append)
        brought.add(turn)
        first = next((t for t in range(12) if t not in brought), 12)
        assert judged == [t for t in range(first) if t not in skipped], "nobody waits for nothing"
    assert sequencer.waiting == 0


def test_threads_judge_one_at_a_time_and_lose_none() -> None:
    sequencer: Sequencer[int] = Sequencer()
    count, judged, inside = 4000, list[int](), threading.Lock()
    order = [sequencer.turn() for _ in range(count)]
    random.Random(7).shuffle(order)  # noqa: S311 -- a test

    def judge(turn: int) -> None:
        assert inside.acquire(blocking=False), "two at a time"
        judged.append(turn)
        inside.release()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda turn: sequencer.bring(turn, turn, judge), order))
    assert judged == list(range(count))


def test_one_whose_judging_raises_does_not_stop_those_behind() -> None:
    sequencer: Sequencer[int] = Sequencer()
    first, second, third = (sequencer.turn() for _ in range(3))
    judged: list[int] = []

    def fail(turn: int) -> None:
        raise ValueError(turn)

    sequencer.bring(second, second, judged.append)
    with pytest.raises(ValueError, match="0"):
        sequencer.bring(first, first, fail)
    sequencer.bring(third, third, judged.append)
    assert judged == [second, third]
