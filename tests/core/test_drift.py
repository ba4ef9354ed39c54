"""Drift: what is betted is fair, false reports are as rare as promised, and changes are seen."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.core import drift
from edgeslm.core.drift import (
    BLOCK,
    LEVELS,
    MARGIN,
    MOST,
    RECENT,
    STAKES,
    Bets,
    Drift,
    Sighting,
    Trained,
    bound,
)

shares = st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), max_size=20)
ALL = [1.0] * len(LEVELS)
NONE = [0.0] * len(LEVELS)
PLANT = Trained({"text": 1.0, "number": 1.0}, 0.0)


@settings(max_examples=60, deadline=None)
@given(shares, st.floats(0.01, 1))
def test_whatever_came_before_nothing_is_won_by_chance(past: list[float], high: float) -> None:
    """Of a share that is `high` as often as may be, the expected evidence grows by one."""

    def evidence(last: list[float]) -> float:
        bets = Bets()
        for share in past:
            bets.on_change([share] * len(LEVELS))
        return bets.on_change(last)

    before = Bets()
    for share in past:
        before.on_change([share] * len(LEVELS))
    often = min(1.0, bound(LEVELS[0]) / high)  # the strictest level: it is fair to that, and lower
    expected = often * evidence([high] * len(LEVELS)) + (1 - often) * evidence(NONE)
    assert expected <= (before.evidence + 1) * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(shares)
def test_evidence_is_finite_and_never_below_nothing(past: list[float]) -> None:
    bets = Bets()
    for share in past * 8:
        assert 0 <= bets.on_change([share] * len(LEVELS)) < math.inf
        assert 0 <= bets.on_return([share] * len(LEVELS)) < math.inf


def stream(small: Iterator[bool], *, channel: str = "number") -> Iterator[Sighting]:
    """Of one machine that says one thing: a p-value in the lowest level, or 1."""
    for one in small:
        yield Sighting(("s", "t"), {channel: LEVELS[0] if one else 1.0})


def first_report(
    found: Iterator[Sighting], *, false_rate: float = 1e-5, trained: Trained = PLANT
) -> int | None:
    test = Drift(false_rate, trained)
    for number, sighting in enumerate(found, 1):
        if test.take(sighting):
            return number
    return None


@pytest.mark.parametrize("run", [1, BLOCK])
def test_false_reports_are_as_rare_as_promised(run: int) -> None:
    """Where as many are unusual as may be at most, singly or in blocks, whatever came before."""
    random = np.random.default_rng(run)
    rate, messages, rounds = 2e-4, 1000, 100
    assert len(PLANT.worth) / (rate * BLOCK) == Drift(rate, PLANT).limit
    reports = 0
    for _ in range(rounds):
        runs = random.uniform(size=messages // run + 1) < bound(LEVELS[0])
        small = np.repeat(runs, run)[:messages]
        reports += first_report(stream(iter(small.tolist())), false_rate=rate) is not None
    chance = messages * rate
    assert reports / rounds <= chance + 3 * math.sqrt(chance * (1 - chance) / rounds)


def test_a_bound_that_is_passed_is_reported() -> None:
    """Else the tests above prove nothing."""
    random = np.random.default_rng(0)
    found = [
        first_report(stream(iter((random.uniform(size=1000) < 0.5).tolist())), false_rate=2e-4)
        for _ in range(20)
    ]
    assert all(found)


@pytest.mark.parametrize("quiet", [0, 30_000])
def test_half_of_the_messages_unusual_are_noticed_soon(quiet: int) -> None:
    """However long all was well before: nothing is lost by waiting."""
    random = np.random.default_rng(4)
    calm = iter((random.uniform(size=quiet) < 0.01).tolist())
    wild = iter((random.uniform(size=400) < 0.5).tolist())
    number = first_report(stream(iter([*calm, *wild])), false_rate=1e-5)
    assert number is not None
    assert quiet < number <= quiet + 200


def test_what_one_machine_of_many_repeats_is_no_drift_and_what_all_say_is() -> None:
    def plant(flooding: set[int]) -> Iterator[Sighting]:
        random = np.random.default_rng(5)
        for i in range(3000):
            m = i % 10
            odd = m in flooding or random.uniform() < 0.01
            yield Sighting((f"m{m}", "odd" if odd else "usual"), {"text": 0.001 if odd else 1.0})

    assert first_report(plant({3}), false_rate=1e-5) is None
    number = first_report(plant(set(range(5))), false_rate=1e-5)
    assert number is not None
    assert number < 200


def test_a_moment_of_anything_is_no_drift() -> None:
    """A reboot: forty lines, all of them new."""
    lines = [Sighting(("s", f"boot {i}"), {"text": 0.001}) for i in range(40)]
    usual = [Sighting(("s", "usual"), {"text": 1.0})] * 400
    assert first_report(iter([*usual, *lines, *usual, *lines, *usual]), false_rate=1e-5) is None


def test_it_is_over_when_all_is_as_before() -> None:
    test = Drift(1e-5, PLANT)
    odd, usual = Sighting(("s", "t"), {"text": 0.01}), Sighting(("s", "u"), {"text": 1.0})
    changes = [number for number in range(1, 200) if test.take(odd)]
    assert len(changes) == 1
    assert test.suspected == {"text"}
    assert test.evidence < 10, "spent: there is nothing to be suspected beyond that"
    back = [number for number in range(1, 2000) if test.take(usual)]
    assert len(back) == 1
    assert BLOCK * 10 < back[0] < 1000, "not at the first good moment"
    assert not test.suspected
    assert any(test.take(odd) for _ in range(200)), "and it may come again"


def test_each_channel_is_suspected_for_itself() -> None:
    test = Drift(1e-5, PLANT)
    for _ in range(300):
        test.take(Sighting(("s", "t"), {"text": 1.0, "number": 0.01}))
    assert test.suspected == {"number"}
    other = Drift(1e-5, PLANT)
    for _ in range(300):
        other.take(Sighting(("s", "t"), {"text": 1.0, "window": 0.01}))
    assert not other.suspected, "a window holds the same readings again and again"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=3 * RECENT))
def test_rates_are_of_the_last_messages(new: list[bool]) -> None:
    test = Drift(1e-9, PLANT)
    for one in new:
        test.take(Sighting(("s", "t"), {"text": 0.5 if one else 1.0}))
    assert test.new_rate == pytest.approx(np.mean(new[-RECENT:]))


sightings = st.lists(
    st.builds(
        Sighting,
        st.tuples(st.sampled_from("ab"), st.sampled_from("tuv")),
        st.fixed_dictionaries(
            {"text": st.sampled_from([0.01, 0.1, 0.9, 1.0]), "number": st.sampled_from([0.03, 1.0])}
        ),
    ),
    max_size=6 * BLOCK,
)


def shares_of(block: list[tuple[Sighting, bool]], channel: str, *, with_fresh: bool) -> list[float]:
    """By definition: of messages, or the mean of that of each kind, where that is less."""

    def share(small: list[bool]) -> float:
        kinds = defaultdict(list)
        for (one, _), is_small in zip(block, small, strict=True):
            kinds[one.kind].append(is_small)
        return float(min(np.mean(small), np.mean([np.mean(found) for found in kinds.values()])))

    shares = [share([one.channels[channel] <= level for one, _ in block]) for level in LEVELS]
    return [*shares, share([fresh for _, fresh in block])] if with_fresh else shares


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(sightings, st.integers(1, 9)), max_size=3), st.sampled_from([1e-3, 0.05]))
def test_what_is_suspected_is_as_defined(
    phases: list[tuple[list[Sighting], int]], false_rate: float
) -> None:
    """Block by block, from all that was heard."""
    test = Drift(false_rate, Trained({"text": 1.0, "number": 0.5}, 0.02))
    lengths = {"text": BLOCK, "number": 2 * BLOCK}
    bets = {"text": Bets((*drift.BOUNDS, 0.02 + MARGIN)), "number": Bets()}
    heard: list[tuple[Sighting, bool]] = []
    news: dict[Hashable, int] = {}  # when each was heard last
    suspected: set[str] = set()
    for sighting in (one for phase, times in phases for one in phase * times):
        new = sighting.channels["text"] < 1
        since = len(heard) - news.get(sighting.kind, -RECENT)
        heard.append((sighting, new and since >= RECENT))
        if new:
            news[sighting.kind] = len(heard) - 1
        test.take(sighting)
        for channel, length in lengths.items():
            if len(heard) % length:
                continue
            shares = shares_of(heard[-length:], channel, with_fresh=channel == "text")
            there = channel in suspected
            won = (bets[channel].on_return if there else bets[channel].on_change)(shares)
            if won >= test.limit:
                suspected ^= {channel}
                bets[channel].forget()
        assert test.suspected == suspected
        assert test.evidence == pytest.approx(max(one.evidence for one in bets.values()))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=2), max_size=40))
def test_each_stake_wins_by_its_share(blocks: list[list[float]]) -> None:
    bounds, bets = (0.1, 0.3), Bets((0.1, 0.3))
    sums = [0.0] * (len(bounds) * len(STAKES))
    for shares in blocks:
        by = [
            1.0 + stake * (MOST - 1) / (1 - q) * (share - q)
            for share, q in zip(shares, bounds, strict=True)
            for stake in STAKES
        ]
        sums = [(won + 1.0) * one for won, one in zip(sums, by, strict=True)]
        assert bets.on_change(shares) == sum(sums) / len(sums)


def test_what_is_kept_is_bounded() -> None:
    test = Drift(1e-9, PLANT)
    for i in range(2000):
        test.take(Sighting(("s", f"t{i}"), {"text": 0.01, "number": 0.01}))
    unusual = list(test.unusual())
    assert len(vars(test)["_last"]) <= RECENT
    assert len(unusual) <= RECENT
    assert unusual[-1].kind == ("s", "t1999")


def test_what_is_worth_a_tenth_is_bet_on_in_blocks_of_ten_times_the_length() -> None:
    def noticed(worth: float) -> int:
        odd = Sighting(("s", "t"), {"number": 0.01})
        number = first_report(iter([odd] * 2000), trained=Trained({"number": worth}))
        assert number is not None
        return number

    assert noticed(0.1) == 10 * noticed(1.0)


def test_nothing_is_bet_on_what_training_was_too_short_for() -> None:
    trained = Trained({"text": 1.0, "number": 0.0}, 0.0)
    odd = Sighting(("s", "t"), {"text": 1.0, "number": 0.01})
    assert trained.untested == ["number"]
    assert first_report(iter([odd] * 5000), trained=trained) is None
    odd = odd._replace(channels={"text": 0.01, "number": 0.01})
    assert first_report(iter([odd] * 5000), trained=trained) is not None


def test_slow_numbers_leave_the_rate_of_new_templates_as_it_is() -> None:
    """Lines with numbers count as much as others there, however few readings they are worth."""
    random = np.random.default_rng(6)
    plant = (
        Sighting(("s", f"new {i}" if odd else "temp"), {"text": 0.04 if odd else 1.0})
        for i, odd in enumerate((random.uniform(size=20_000) < 0.04).tolist())
    )
    assert first_report(plant, trained=Trained({"text": 1.0, "number": 0.001}, 0.0)) is None


def rate_of_new(rate: float, *, trained: float) -> int | None:
    random = np.random.default_rng(7)
    found = (
        Sighting(("s", f"new {i}" if odd else "usual"), {"text": 0.001 if odd else 1.0})
        for i, odd in enumerate((random.uniform(size=20_000) < rate).tolist())
    )
    return first_report(found, trained=Trained({"text": 1.0}, trained))


@pytest.mark.parametrize("trained", [0.0, 0.03])
def test_more_new_templates_than_in_training_are_told(trained: float) -> None:
    assert rate_of_new(trained, trained=trained) is None
    assert rate_of_new(trained + MARGIN - 0.01, trained=trained) is None
    number = rate_of_new(trained + MARGIN + 0.04, trained=trained)
    assert number is not None
    assert number < 5000


def test_a_training_of_nothing_but_new_templates_says_nothing_of_their_rate() -> None:
    assert rate_of_new(0.05, trained=1.0) is None
    assert rate_of_new(1.0, trained=1.0) is not None, "by their p-values still"


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 1), st.integers(1, 400))
def test_memory_of_a_block_is_bounded(worth: float, sources: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drift, "KINDS", 7)
        test = Drift(1e-9, Trained({"number": worth}))
        for i in range(500):
            test.take(Sighting((f"s{i % sources}", "t"), {"number": 0.01}))
            for channel in vars(test)["_channels"].values():
                assert len(channel.counts) <= 8
