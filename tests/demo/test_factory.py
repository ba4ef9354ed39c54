"""The generator: determinism, and properties that its ground truth must have."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.demo.factory import Factory, Message, count, play
from edgeslm.demo.faults import FAR_SPREADS, KINDS, reading, readings
from edgeslm.demo.machines import MACHINES, UNSEEN, Machine, Reading
from edgeslm.demo.machines import Counter as Stepping
from edgeslm.demo.orders import OUT_OF_SCOPE, PHRASES, training_orders

START = 1_700_000_000.0
BY_NAME = {m.name: m for m in MACHINES}


def said(seed: str, n: int, *, faults: float = 0.03, orders: float = 0.1) -> list[Message]:
    factory = Factory(seed, fault_share=faults, order_share=orders)
    return list(islice(play(factory, START), n))


@cache
def normal(n: int) -> list[Message]:
    return said("t", n, faults=0, orders=0)


@cache
def texts(seed: str, n: int) -> list[Message]:
    return [m for m in said(seed, n) if m.order is None]


def words(text: str) -> str:
    """The line without its numbers."""
    return re.sub(r"[-+]?\d+(?:\.\d+)?", "#", text)


def test_the_same_seed_says_the_same() -> None:
    assert said("a", 500) == said("a", 500)


def test_another_seed_says_something_else() -> None:
    assert [m.text for m in said("a", 50)] != [m.text for m in said("b", 50)]


def test_a_longer_play_begins_like_a_shorter_one() -> None:
    assert said("a", 300)[:100] == said("a", 100)


def test_ids_are_unique_and_time_goes_on() -> None:
    messages = said("a", 2000)
    assert len({m.id for m in messages}) == 2000
    assert all(a.time < b.time for a, b in pairwise(messages))


def test_training_holds_no_fault_and_no_order() -> None:
    assert all(m.fault is None and m.order is None for m in normal(20_000))


def test_every_machine_says_every_line_in_training() -> None:
    messages = normal(20_000)
    counts = Counter((m.source, words(m.text)) for m in messages)
    for machine in MACHINES:
        patterns = {key for key in counts if key[0] == machine.name}
        assert len(patterns) >= len(machine.lines)
    assert min(counts.values()) >= 5


def test_every_kind_of_fault_comes_about_equally_often() -> None:
    counts = Counter(m.fault.kind for m in texts("a", 8000) if m.fault)
    assert set(counts) == set(KINDS)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_the_share_of_faults_is_what_was_asked() -> None:
    messages = said("a", 5000, faults=0.2, orders=0)
    assert 0.17 < sum(m.fault is not None for m in messages) / 5000 < 0.23


def test_words_of_word_faults_are_never_normal() -> None:
    """A text that is called a fault must not be what the same machine says in normal operation."""
    ever_said = {(m.source, words(m.text)) for m in normal(20_000)}
    for m in texts("a", 8000):
        if m.fault and m.fault.kind in {"polarity", "unseen", "unit"}:
            assert (m.source, words(m.text)) not in ever_said


def test_numbers_of_number_faults_are_outside_what_the_machine_ever_says() -> None:
    """A faulty line differs from every normal one in a number far outside that number's range."""
    ranges: dict[tuple[str, str, int], tuple[float, float]] = {}
    for m in normal(20_000):
        for slot, value in enumerate(numbers(m.text)):
            low, high = ranges.get((m.source, words(m.text), slot), (value, value))
            ranges[m.source, words(m.text), slot] = min(low, value), max(high, value)
    for m in texts("a", 8000):
        if m.fault and m.fault.kind in {"jump", "sign", "swapped", "twin"}:
            outside = [
                not ranges[m.source, words(m.text), slot][0]
                <= value
                <= ranges[m.source, words(m.text), slot][1]
                for slot, value in enumerate(numbers(m.text))
                if (m.source, words(m.text), slot) in ranges
            ]
            assert any(outside), m


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"[-+]?\d+(?:\.\d+)?", text)]


def test_dead_sensors_print_what_no_sensor_measures() -> None:
    faults = [m.fault for m in texts("a", 8000) if m.fault and m.fault.kind == "dead"]
    assert faults
    dead = ("nan", "NaN", "inf", "1e308", "-999.9", "65535", "####", "---")
    assert all(any(word in f.text for word in dead) for f in faults)


def test_twins_say_the_same_lines_at_levels_of_their_own() -> None:
    for machine in MACHINES:
        if machine.twin is None:
            continue
        twin = BY_NAME[machine.twin]
        assert twin.twin == machine.name
        assert twin.lines == machine.lines
        told_apart = [
            name
            for name, field in machine.fields.items()
            if isinstance(field, Reading)
            and abs(field.level - reading(twin, name).level) > FAR_SPREADS * field.spread
        ]
        assert told_apart


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)
def test_lines_and_fields_of_a_machine_fit(machine: Machine) -> None:
    used = {n for line in machine.lines for n in re.findall(r"\{(\w+)\}", line.text)}
    assert used == set(machine.fields)
    for line in machine.lines:
        assert set(re.findall(r"\{(\w+)\}", line.opposite or "")) <= used
        assert set(readings(machine, line)) <= used


def test_unknown_messages_are_unknown() -> None:
    assert not {m.text for m in normal(20_000)} & set(UNSEEN)


@given(st.integers(0, 1000), st.integers(0, 1000), st.floats(1, 1000), st.floats(0, 1e9))
def test_a_counter_stays_between_its_ends(
    first: int, last: int, every_s: float, now: float
) -> None:
    shown = count(Stepping(first, last, every_s), now)
    assert min(first, last) <= shown <= max(first, last)


@settings(max_examples=30)
@given(st.text(max_size=8), st.lists(st.floats(0, 3600), max_size=30))
def test_any_gaps_between_messages_are_fine(seed: str, gaps: list[float]) -> None:
    factory, now = Factory(seed, fault_share=0.5), START
    for gap in gaps:
        now += gap
        message = factory.message(now)
        assert message.text
        assert message.time == now


def test_training_orders_are_distinct_and_hold_every_intent() -> None:
    orders = training_orders("t", per_intent=40)
    assert len({o.text for o in orders}) == len(orders)
    counts = Counter(o.intent for o in orders)
    assert OUT_OF_SCOPE in counts
    assert all(n >= 15 for n in counts.values())


def test_play_asks_what_training_never_showed() -> None:
    """Otherwise recognising intents would be looking them up."""
    shown = {o.text for o in training_orders("t", per_intent=200)}
    trained = [
        re.compile(re.sub(r"\\\{\w+\\\}", ".+", re.escape(phrase)))
        for phrases, _ in PHRASES.values()
        for phrase in phrases
    ]
    played = [m.order for m in said("a", 4000) if m.order]
    assert not {o.text for o in played if o.intent == OUT_OF_SCOPE} & shown
    new = [o for o in played if not any(phrase.fullmatch(o.text) for phrase in trained)]
    assert 0.2 * len(played) < len([o for o in new if o.intent != OUT_OF_SCOPE]) < 0.4 * len(played)
