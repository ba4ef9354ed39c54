"""Whatever a device's counters do, what is counted is what it answered."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.core.counters import Counts, Tally, same_start, tally

small = st.integers(0, 50)
counts = st.builds(Counts, small, small, small)


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[bool, int | None, Counts]]:
    """What happens between messages: whether it began anew, its version, what it answered."""
    return [
        (draw(st.booleans()), draw(st.sampled_from([None, 1, 1, 2, 3])), draw(counts))
        for _ in range(draw(st.integers(1, 30)))
    ]


def told(life: list[tuple[bool, int | None, Counts]]) -> list[tuple[bool, int | None, Counts]]:
    """The messages of a life: the counters as they stand."""
    shown, found = Counts(), []
    for restarted, version, answered in life:
        shown = answered if restarted else shown + answered
        found.append((restarted, version, shown))
    return found


@given(lives())
def test_nothing_is_lost_and_nothing_counted_twice(
    life: list[tuple[bool, int | None, Counts]],
) -> None:
    known: Tally | None = None
    total = Counts()
    for restarted, version, seen in told(life):
        known, new = tally(known, version, seen, None, restarted=restarted)
        total += new
    assert total == sum((answered for _, _, answered in life[1:]), Counts())


@given(lives())
def test_counts_are_of_the_version_that_answers(
    life: list[tuple[bool, int | None, Counts]],
) -> None:
    known: Tally | None = None
    since, of = Counts(), None
    for (_, version, answered), (restarted, _, seen) in zip(life, told(life), strict=True):
        known, _ = tally(known, version, seen, None, restarted=restarted)
        if version is not None and of is not None and version != of:
            assert (known.before_version, known.before) == (of, since)
            since = Counts()
        since, of = since + answered, version if version is not None else of
        assert (known.counts, known.version) == (since, of)


@given(counts, counts)
def test_a_counter_that_is_lower_began_anew(before: Counts, seen: Counts) -> None:
    known = Tally(version=1, counts=before, seen=before)
    _, new = tally(known, 1, seen, None)
    lower = any(
        getattr(seen, name) < getattr(before, name) for name in ("answers", "errors", "alarms")
    )
    assert new == (
        seen
        if lower
        else Counts(
            seen.answers - before.answers, seen.errors - before.errors, seen.alarms - before.alarms
        )
    )


def test_a_latency_stays_where_there_is_no_newer_one_and_is_its_versions() -> None:
    known, _ = tally(None, 1, Counts(), 5.0)
    for version in (1, None):
        known, _ = tally(known, version, Counts(), None)
        assert known.p99_ms == 5.0
    known, _ = tally(known, 2, Counts(), None)
    assert (known.p99_ms, known.before_p99_ms) == (None, 5.0)


def test_what_an_agent_counted_before_it_was_seen_is_not_new() -> None:
    known, new = tally(None, 3, Counts(100, 1, 2), 5.0)
    assert new == Counts()
    assert known == Tally(3, Counts(100, 1, 2), Counts(100, 1, 2), 5.0)
    assert replace(known, seen=Counts()) != known


def test_a_clock_that_was_set_a_little_is_no_start() -> None:
    assert same_start(1000.0, 1004.0)
    assert not same_start(1000.0, 1006.0)
