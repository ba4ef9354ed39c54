"""Devices find the newest metadata, in an order in which nothing that is named is missing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.fleet import Index
from edgeslm.fleet.publisher import KEEP_S, MAX_SEEN, Publications, Publisher
from edgeslm.ports import Letter

META = "r/_fleet/meta/"


def publications(version: int, roots: int = 1, **assignments: bytes) -> Publications:
    names = [
        *(f"{n}.root.json" for n in range(1, roots + 1)),
        f"{version}.model-a.json",
        f"{version}.targets.json",
        f"{version}.snapshot.json",
        "timestamp.json",
    ]
    files = {name: f"{name} {version}".encode() for name in names}
    for n in range(1, roots + 1):
        files[f"{n}.root.json"] = b"root"
    return Publications(files, Index(schema=1, root=roots, files=tuple(files)), assignments)


def topics(letters: list[Letter]) -> list[str]:
    assert all(letter.retain and letter.qos == 1 for letter in letters)
    return [letter.topic.removeprefix("r/") for letter in letters]


def test_all_is_published_in_order_and_the_timestamp_last() -> None:
    letters = Publisher("r").letters(publications(1, roots=2, dev=b"signed"), 0.0)
    assert topics(letters) == [
        "_fleet/meta/1.root.json",
        "_fleet/meta/2.root.json",
        "_fleet/meta/1.model-a.json",
        "_fleet/meta/1.targets.json",
        "_fleet/meta/1.snapshot.json",
        "_fleet/index",
        "_fleet/meta/timestamp.json",
        "dev/assignment",
    ]
    assert Index.model_validate_json(letters[5].payload).root == 2


def test_only_what_has_changed_is_published_again() -> None:
    publisher = Publisher("r")
    publisher.letters(publications(1, dev=b"1"), 0.0)
    assert publisher.letters(publications(1, dev=b"1"), 1.0) == []
    assert topics(publisher.letters(publications(1, dev=b"2", more=b"1"), 2.0)) == [
        "dev/assignment",
        "more/assignment",
    ]
    assert topics(publisher.letters(publications(2, dev=b"2", more=b"1"), 3.0)) == [
        "_fleet/meta/2.model-a.json",
        "_fleet/meta/2.targets.json",
        "_fleet/meta/2.snapshot.json",
        "_fleet/index",
        "_fleet/meta/timestamp.json",
    ]


def test_after_a_reconnection_all_is_published_again() -> None:
    publisher = Publisher("r")
    first = publisher.letters(publications(1, dev=b"1"), 0.0)
    publisher.connected()
    again = publisher.letters(publications(1, dev=b"1"), 1.0)
    assert topics(again) == topics(first)


def test_an_assignment_that_was_removed_is_taken_off_the_broker() -> None:
    publisher = Publisher("r")
    publisher.letters(publications(1, dev=b"1"), 0.0)
    [letter] = publisher.letters(publications(1), 1.0)
    assert (letter.topic, letter.payload, letter.retain) == ("r/dev/assignment", b"", True)
    assert publisher.letters(publications(1), 2.0) == []


def test_versions_that_were_replaced_go_after_a_while_and_roots_never() -> None:
    publisher = Publisher("r")
    publisher.letters(publications(1, roots=1), 0.0)
    publisher.letters(publications(2, roots=2), 10.0)
    assert publisher.cleared(10.0 + KEEP_S / 2) == []
    letters = publisher.cleared(10.0 + KEEP_S)
    assert sorted(topics(letters)) == [
        "_fleet/meta/1.model-a.json",
        "_fleet/meta/1.snapshot.json",
        "_fleet/meta/1.targets.json",
    ]
    assert {letter.payload for letter in letters} == {b""}
    assert publisher.cleared(10_000.0) == []


def test_versions_of_an_earlier_life_go_too_and_those_of_a_newer_server_stay() -> None:
    publisher = Publisher("r")
    for file in ("3.snapshot.json", "9.snapshot.json", "1.root.json", "timestamp.json", "7.x.json"):
        publisher.heard(META + file, b"retained", 0.0)
    publisher.heard("r/_fleet/meta/noise", b"retained", 0.0)
    publisher.heard("elsewhere", b"retained", 0.0)
    publisher.letters(publications(5), 1.0)
    assert topics(publisher.cleared(KEEP_S + 1)) == ["_fleet/meta/3.snapshot.json"]


def test_files_without_end_on_the_broker_are_not_all_remembered() -> None:
    publisher = Publisher("r")
    for i in range(2 * MAX_SEEN):
        publisher.heard(f"{META}1.x{i}.json", b"retained", 0.0)
    assert len(publisher._seen) == MAX_SEEN  # noqa: SLF001 -- what it would be about
    publisher.letters(publications(5), 1.0)
    assert publisher.cleared(KEEP_S + 10) == []


def test_what_somebody_else_cleared_is_not_cleared_again() -> None:
    publisher = Publisher("r")
    publisher.heard(META + "3.snapshot.json", b"retained", 0.0)
    publisher.letters(publications(5), 1.0)
    publisher.heard(META + "3.snapshot.json", b"", 2.0)
    assert publisher.cleared(KEEP_S + 10) == []


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.lists(st.booleans(), min_size=6))
def test_whoever_sees_a_timestamp_finds_all_that_it_leads_to(
    steps: list[int], cuts: list[bool]
) -> None:
    """A broker that takes every letter in order, and loses all at a cut, is never ahead of us."""
    publisher = Publisher("r")
    broker: dict[str, bytes] = {}
    version, now = 0, 0.0
    for step, cut in zip(steps, cuts, strict=False):
        version += step
        now += 100.0
        if cut:
            broker.clear()
            publisher.connected()
        wanted = publications(version)
        for letter in [*publisher.letters(wanted, now), *publisher.cleared(now)]:
            broker[letter.topic] = letter.payload
            if (seen := broker.get(f"{META}timestamp.json")) is not None:
                named = seen.decode().rpartition(" ")[2]
                for role in ("model-a", "targets", "snapshot"):
                    assert broker.get(f"{META}{named}.{role}.json")
        assert {t: p for t, p in broker.items() if t.startswith(META)}.items() >= {
            (META + file, data) for file, data in wanted.files.items()
        }
