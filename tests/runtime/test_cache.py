"""Outputs are kept within bounds, computed once however many ask, and counted truly."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.runtime.cache import Cache


def test_keeps_those_asked_for_last() -> None:
    cache: Cache[str] = Cache(2)
    for text in ("a", "b", "a", "c"):
        cache.get(text, str.upper)
    assert (cache.hits, cache.misses, len(cache)) == (1, 3, 2)
    cache.get("a", pytest.fail)
    cache.get("b", str.upper)
    assert cache.misses == 4


@given(st.lists(st.sampled_from("abcdef"), max_size=60), st.integers(1, 4))
def test_is_an_lru_of_its_capacity(asked: list[str], capacity: int) -> None:
    cache: Cache[str] = Cache(capacity)
    kept: list[str] = []  # oldest first
    misses = 0
    for text in asked:
        if text in kept:
            kept.remove(text)
        else:
            misses += 1
        kept = [*kept, text][-capacity:]
        assert cache.get(text, str.upper) == text.upper()
    assert (cache.misses, cache.hits) == (misses, len(asked) - misses)
    assert len(cache) == len(kept)


@given(st.lists(st.sampled_from("abcdef") | st.integers(0, 4), max_size=60), st.integers(0, 4))
def test_another_capacity_keeps_the_newest_of_what_there_is(
    steps: list[str | int], capacity: int
) -> None:
    cache: Cache[str] = Cache(capacity)
    kept: list[str] = []
    for step in steps:
        if isinstance(step, int):
            cache.resize(capacity := step)
        else:
            kept = [*(text for text in kept if text != step), step]
            assert cache.get(step, str.upper) == step.upper()
        kept = kept[-capacity:] if capacity else []
        assert len(cache) == len(kept)
    misses = cache.misses
    for text in kept:
        cache.get(text, pytest.fail)
    assert cache.misses == misses


def test_resizing_disturbs_nobody_who_computes() -> None:
    cache: Cache[str] = Cache(8)
    texts = [f"{i % 12}" for i in range(2000)]

    def ask(text: str) -> str:
        return cache.get(text, lambda text: text * 2)

    with ThreadPoolExecutor(4) as threads:
        answers = threads.map(ask, texts)
        for i in range(300):
            cache.resize(i % 5)
        assert list(answers) == [text * 2 for text in texts]
    assert len(cache) <= 4


def test_without_capacity_every_call_computes() -> None:
    cache: Cache[str] = Cache(0)
    assert [cache.get("a", str.upper) for _ in range(3)] == ["A"] * 3
    assert (cache.hits, cache.misses, len(cache)) == (0, 3, 0)


def test_two_who_ask_for_the_same_new_text_share_one_computation() -> None:
    cache: Cache[str] = Cache(4)
    begun, go = threading.Event(), threading.Event()

    def compute(text: str) -> str:
        begun.set()
        assert go.wait(10)
        return text.upper()

    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(cache.get, "a", compute)
        assert begun.wait(10)
        others = [threads.submit(cache.get, "a", pytest.fail) for _ in range(7)]
        assert cache.get("b", str.upper) == "B", "others are not held up"
        go.set()
        assert {first.result(10), *(other.result(10) for other in others)} == {"A"}
    assert (cache.misses, cache.hits) == (2, 7)


def test_who_waited_for_a_failure_tries_alone() -> None:
    cache: Cache[str] = Cache(4)
    begun, go = threading.Event(), threading.Event()

    def fail(_text: str) -> str:
        begun.set()
        assert go.wait(10)
        msg = "spoilt"
        raise OSError(msg)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.get, "a", fail)
        assert begun.wait(10)
        second = threads.submit(cache.get, "a", str.upper)
        go.set()
        with pytest.raises(OSError, match="spoilt"):
            first.result(10)
        assert second.result(10) == "A"
    assert (cache.misses, cache.hits) == (2, 0)


def test_counts_add_up_under_many_threads() -> None:
    cache: Cache[str] = Cache(16)
    computed: list[str] = []

    def compute(text: str) -> str:
        computed.append(text)
        return text.upper()

    asked = [str(i * 7 % 40) for i in range(4000)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda t: cache.get(t, compute), asked)) == asked
    assert cache.misses == len(computed)
    assert cache.hits + cache.misses == len(asked)
    assert len(cache) == 16


def test_long_texts_are_told_apart_and_kept_small() -> None:
    cache: Cache[int] = Cache(4)
    long = "x" * 100_000
    assert cache.get(long + "a", hash) != cache.get(long + "b", hash)
    assert cache.get(long + "\ud800", len) == len(long) + 1, "a lone surrogate is a key too"
    assert cache.misses == 3
    assert max(len(key) for key in cache._kept) < 100  # noqa: SLF001


def test_forgets() -> None:
    cache: Cache[str] = Cache(4)
    cache.get("a", str.upper)
    cache.clear()
    assert (cache.hits, cache.misses, len(cache)) == (0, 0, 0)
