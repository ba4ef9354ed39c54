"""People are told once of what is alike, and of each new template once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeslm.agent.notices import KEPT, TOGETHER, Notices, Seen
from edgeslm.agent.recent import MAX_CHARS, Recent, Said
from edgeslm.contract.feedback import MAX_FEEDBACK_CHARS
from edgeslm.contract.routes import Share
from edgeslm.ports import Answer, Request

DAY_S = 86_400.0
PER_MINUTE = 60


class People:
    """Who is told."""

    def __init__(self, *shown: str) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.notices = Notices(self._tell, lambda _: shown)
        self._now = 0.0

    def _tell(self, event: str, model: str, detail: Mapping[str, str | float]) -> None:
        assert model == "m"
        self.told.append((event, dict(detail)))

    def see(  # noqa: PLR0913 -- by name
        self,
        text: str,
        source: str = "a",
        *,
        alarm: bool = True,
        channel: str = "text",
        new: bool = False,
        review: bool = False,
        after_s: float = 1.0,
        share: Share = "none",
        near: Sequence[str] = (),
    ) -> list[str]:
        """Return the events that a result makes."""
        self._now += after_s
        before = len(self.told)
        cause: Any = ({"channel": channel, "token": "stuck", "near": near},) if alarm else ()
        label = "anomaly" if alarm else "normal"
        answer = Answer(label, 1.0, 1.0, p_value=0.001, explanation=cause, new=new)
        seen = Seen("m", "r", self._now, alarm, share, review, DAY_S, PER_MINUTE)
        self.notices.take(seen, answer, Request(text, source))
        return [event for event, _ in self.told[before:]]


def test_the_first_is_told_then_the_tenth_then_the_hundredth() -> None:
    people = People()
    events = [people.see(f"valve {i} stuck", f"s{i}") for i in range(150)]
    assert [i for i, each in enumerate(events, 1) if each] == [1, 10, 100]
    assert [detail["count"] for _, detail in people.told] == [1, 10, 100]
    assert {event for event, _ in people.told} == {"alarm_raised", "alarm_repeated"}
    assert len({detail["notice"] for _, detail in people.told}) == 1


def test_where_numbers_are_the_cause_each_source_is_told_of() -> None:
    people = People()
    assert people.see("temp=99", "a", channel="number") == ["alarm_raised"]
    assert people.see("temp=98", "b", channel="number") == ["alarm_raised"]
    assert people.see("temp=97", "a", channel="number") == []


def test_what_still_comes_after_it_was_judged_is_told_anew() -> None:
    people = People()
    people.see("temp=99", "a", channel="number")
    people.notices.judged("m", "temp=99", "a")
    assert people.see("temp=120", "a", channel="number") == ["alarm_raised"]


def test_after_a_day_of_quiet_it_is_told_as_a_new_one() -> None:
    people = People()
    assert people.see("valve stuck") == ["alarm_raised"]
    assert people.see("valve stuck", after_s=DAY_S - 1) == []
    assert people.see("valve stuck", after_s=DAY_S - 1) == []  # it was not quiet
    assert people.see("valve stuck", after_s=DAY_S) == ["alarm_raised"]


def test_a_new_template_is_shown_once_though_it_is_no_alarm() -> None:
    people = People()
    assert people.see("pump 1 hums", alarm=False, new=True) == []
    assert people.see("pump 1 hums", alarm=False, new=True, review=True) == ["template_shown"]
    assert people.see("Pump 2 hums", alarm=False, new=True, review=True) == []
    # One that is an alarm, too, has one event.
    assert people.see("valve stuck", new=True, review=True) == ["alarm_raised"]
    assert people.told[-1][1]["review"] is True
    assert people.see("valve stuck", new=True, review=True) == []


def test_what_was_shown_is_saved_and_not_shown_by_the_next_agent() -> None:
    people = People()
    people.see("pump hums", alarm=False, new=True, review=True)
    saved = people.notices.unsaved(1.0)
    assert len(saved["m"]) == 1
    assert people.notices.unsaved(100.0) == {}
    later = People(*saved["m"])
    assert later.see("pump hums", alarm=False, new=True, review=True) == []


def test_texts_are_told_as_far_as_the_route_shares_them() -> None:
    shares: tuple[tuple[Share, set[str]], ...] = (
        ("none", set()),
        ("explanation", {"token"}),
        ("text", {"token", "text"}),
    )
    for share, fields in shares:
        people = People()
        people.see("valve stuck", share=share)
        assert people.told[0][1].keys() & {"token", "text"} == fields
        assert "stuck" not in str(people.told[0][1]) or fields


def test_a_notice_names_the_number_that_is_odd_before_the_mean_of_a_window() -> None:
    people = People()
    causes: Any = ({"channel": "window", "value": "71.1"}, {"channel": "number", "value": "99.5"})
    answer = Answer("anomaly", 1.0, 1.0, p_value=0.001, explanation=causes)
    kind: tuple[bool, Share, bool] = (True, "explanation", False)
    people.notices.take(
        Seen("m", "r", 1.0, *kind, DAY_S, PER_MINUTE), answer, Request("ram 99.5 C", "a")
    )
    assert people.told[0][1]["value"] == "99.5"


def test_what_is_remembered_is_bounded() -> None:
    people = People()
    words = [f"{a}{b}{c}" for a in "abcdefghij" for b in "klmnopqrst" for c in "uvwxyzabcdef"]
    for i in range(KEPT + 10):
        people.see(f"{words[i % 1200]} {words[(i * 7) % 1199]} {words[i // 4]}", after_s=2.0)
    assert len(people.notices._alike) <= KEPT  # noqa: SLF001
    assert len(people.told) > 1000


def test_a_flood_of_ever_new_words_is_told_so_often_and_how_many_more_there_were() -> None:
    people = People()
    words = [f"user {a}{b}{c}" for a in "abcdefghij" for b in "klmnopqrst" for c in "uvwxyzabcd"]
    told = sum(len(people.see(word, after_s=0.01)) for word in words)
    assert told == PER_MINUTE
    # Who else has an alarm is heard all the same.
    assert people.see("valve stuck", "b") == ["alarm_raised"]
    more = people.told[-1][1]["more"]
    people.see("user zzz")
    people.notices.tend(61.0)
    assert people.told[-1] == ("notices_withheld", {"more": 1})
    assert told + more == len(words)
    people.notices.tend(200.0)
    assert people.told[-1][0] == "notices_withheld"
    # What was not told yet is told when it comes again.
    assert people.see("user zzz", after_s=61.0) == ["alarm_raised"]
    assert people.told[-1][1]["count"] == 2
    assert people.see("user zzz") == []


def test_sources_are_bounded_together_and_new_templates_with_alarms() -> None:
    people = People()
    told = [
        people.see(f"user {'x' * (i % 50)}", f"s{i}", alarm=False, new=True, review=True)
        for i in range(5)
    ]
    assert all(told)
    for i in range(2000):
        people.see("temp=99", f"s{i}", channel="number", after_s=0.0)
    assert len(people.told) <= TOGETHER * PER_MINUTE
    assert people.see("pump hums", alarm=False, new=True, review=True) == []
    assert people.see("pump hums", after_s=61.0, alarm=False, new=True, review=True)


def test_lists_are_joined() -> None:
    people = People()
    people.see("valve stuck", share="explanation", near=["valve open", "valve shut"])
    assert people.told[0][1]["near"] == "valve open, valve shut"


def test_results_are_found_by_their_ids_alerts_longest() -> None:
    recent = Recent(2)
    recent.add("m", Said("alarm", "x", "a", "anomaly", alert=True, channel="text"))
    for i in range(5):
        recent.add("m", Said(f"r{i}", "x", "a", "normal", alert=False, channel=""))
    assert [model for model, _ in recent.find("alarm", None)] == ["m"]
    assert recent.find("r3", "m")
    assert not recent.find("r2", "m")
    assert not recent.find("r3", "other")
    recent.forget(set())
    assert not recent.find("alarm", None)


def test_their_texts_are_bounded() -> None:
    recent = Recent(10**6)
    for i in range(200):
        recent.add("m", Said(f"r{i}", "x" * 16_000, "a", "normal", alert=False, channel=""))
    recent.add("m", Said("long", "x" * 17_000, "a", "normal", alert=False, channel=""))
    found = [i for i in range(200) if recent.find(f"r{i}", None)]
    assert len(found) == (MAX_CHARS - MAX_FEEDBACK_CHARS) // 16_000
    assert found[-1] == 199
    ((_, long),) = recent.find("long", None)
    assert (long.text, long.cut) == ("x" * MAX_FEEDBACK_CHARS, True)
