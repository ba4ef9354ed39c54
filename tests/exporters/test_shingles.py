"""Texts that are nearly alike are found without holding each against each."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.inspection.shingles import near

TEXT = "pump valve oven crane motor belt press drive hall gate lamp fan tank pipe cable fuse"
WORDS = TEXT.split()


def similarity(one: str, other: str) -> float:
    a, b = (
        {padded[i : i + 4] for i in range(len(padded) - 3)}
        for padded in (f" {text} ".ljust(4) for text in (one, other))
    )
    return len(a & b) / len(a | b)


def sentences(count: int, seed: int) -> list[str]:
    """Of ten words each; every second one is the one before with a word exchanged."""
    random_ = random.Random(seed)  # noqa: S311 -- no secret
    found: list[str] = []
    for n in range(count):
        words = found[-1].split() if n % 2 else [random_.choice(WORDS) for _ in range(10)]
        if n % 2:
            words[random_.randrange(10)] = random_.choice(WORDS)
        found.append(" ".join(words))
    return found


def test_nearly_every_pair_that_is_alike_is_found_and_no_other() -> None:
    texts = sentences(400, 1)
    groups = [str(n % 3) for n in range(len(texts))]
    found, whole = near(texts, groups, at_least=0.75)
    assert whole
    wanted = {
        (i, j)
        for i in range(len(texts))
        for j in range(i + 1, len(texts))
        if groups[i] != groups[j] and similarity(texts[i], texts[j]) >= 0.75
    }
    assert len(wanted) > 60  # else it would prove nothing
    got = {(pair.one, pair.other) for pair in found}
    assert got <= wanted
    assert len(got) >= 0.97 * len(wanted)
    for pair in found:
        assert pair.similarity == pytest.approx(similarity(texts[pair.one], texts[pair.other]))
    assert found == sorted(found, key=lambda pair: -pair.similarity)


def test_texts_of_one_group_are_no_pair() -> None:
    assert near(["stop the pump", "stop the pump!"], ["a", "a"], at_least=0.6) == ([], True)
    [pair], _ = near(["stop the pump", "stop the pump!"], ["a", "b"], at_least=0.6)
    assert (pair.one, pair.other) == (0, 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=12), max_size=12), st.integers(1, 3))
def test_any_texts_will_do(texts: list[str], groups: int) -> None:
    found, whole = near(texts, [str(n % groups) for n in range(len(texts))], at_least=0.75)
    assert whole
    for pair in found:
        assert pair.one < pair.other
        assert pair.similarity >= 0.75


def test_thousands_of_texts_that_are_all_alike_take_no_time_without_end() -> None:
    """Each would be held against each: it is said that not all were."""
    texts = [f"please look at the pump of hall {n}" for n in range(1500)]
    began = time.thread_time()
    found, whole = near(texts, [str(n % 50) for n in range(1500)], at_least=0.75)
    assert not whole
    assert found
    assert time.thread_time() - began < 10
