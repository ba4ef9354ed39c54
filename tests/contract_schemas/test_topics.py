"""Topic filters, against the definition: a filter is the set of topics that it matches."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.topics import Topics, covers, filter_problem, matches, overlap, widest

# Short and from a small alphabet, so that everything about them can be enumerated.
WORDS = ("", "a", "b", "$s")
TOPICS = [
    "/".join(levels)
    for depth in range(1, 5)
    for levels in itertools.product(WORDS, repeat=depth)
    if levels != ("",)
]
levels = st.sampled_from([*WORDS, "+"])
filters = st.builds(
    lambda parts, tail: "/".join([*parts, *tail]),
    st.lists(levels, max_size=3),
    st.sampled_from([(), ("#",)]),
).filter(lambda f: f != "")


def by_regex(topic_filter: str, topic: str) -> bool:
    """Say the same as `matches`, another way: MQTT 5, 4.7.1 and 4.7.2."""
    if topic.startswith("$") and topic_filter[0] in "#+":
        return False
    if topic_filter == "#":
        return True
    head, hash_, _ = topic_filter.partition("/#")
    pattern = "/".join("[^/]*" if level == "+" else re.escape(level) for level in head.split("/"))
    return re.fullmatch(pattern + ("(/.*)?" if hash_ else ""), topic) is not None


@given(filters, st.sampled_from(TOPICS))
def test_matches_as_the_specification_says(topic_filter: str, topic: str) -> None:
    assert matches(topic_filter, topic) is by_regex(topic_filter, topic)


@given(filters, filters)
def test_two_filters_overlap_if_a_topic_matches_both(first: str, second: str) -> None:
    both = any(matches(first, t) and matches(second, t) for t in TOPICS)
    assert overlap(first, second) is both
    assert overlap(second, first) is both


@given(filters, st.sampled_from(TOPICS))
def test_a_shared_subscription_matches_what_its_filter_does(topic_filter: str, topic: str) -> None:
    assert matches(f"$share/group/{topic_filter}", topic) is matches(topic_filter, topic)


@given(filters)
def test_a_well_formed_filter_has_no_problem(topic_filter: str) -> None:
    assert filter_problem(topic_filter) is None


@pytest.mark.parametrize(
    "bad",
    [
        *("", "a\0b", "a/#/b", "a#", "#a", "a/b#", "a+/b", "+a", "a/++", "x" * 65_536),
        *("$share", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/#"),
    ],
)
def test_a_malformed_filter_is_named_as_such(bad: str) -> None:
    assert filter_problem(bad)


@given(st.text())
def test_any_text_gives_a_verdict(topic_filter: str) -> None:
    filter_problem(topic_filter)


def test_a_devices_topics_lie_under_its_root() -> None:
    topics = Topics("edgeslm/v1", "d1")
    assert topics.results("m") == "edgeslm/v1/d1/results/m"
    assert {topics.status, topics.state, topics.events} == {
        "edgeslm/v1/d1/status",
        "edgeslm/v1/d1/state",
        "edgeslm/v1/d1/events",
    }


_LEVELS = st.lists(st.sampled_from(["a", "b", "+", "$x"]), min_size=1, max_size=3)
_FILTERS = st.builds(
    lambda levels, end: "/".join(levels + end), _LEVELS, st.sampled_from([[], ["#"]])
)
_TOPICS = st.lists(st.sampled_from(["a", "b", "$x"]), min_size=1, max_size=4).map("/".join)


@given(_FILTERS, _FILTERS, _TOPICS)
def test_what_a_covered_filter_matches_its_cover_matches(a: str, b: str, topic: str) -> None:
    if covers(a, b):
        assert matches(a, topic) or not matches(b, topic)


@given(st.lists(_FILTERS), _TOPICS)
def test_the_widest_filters_match_what_all_match(filters: list[str], topic: str) -> None:
    assert any(matches(f, topic) for f in widest(filters)) is any(
        matches(f, topic) for f in filters
    )


def test_a_shared_filter_covers_nothing_but_itself() -> None:
    assert not covers("$share/g/a/#", "a/b")
    assert covers("a/#", "$share/g/a/b")
    assert widest(["$share/g/a"]) == {"$share/g/a"}
