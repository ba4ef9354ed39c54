"""A bad week, played fast: no alert is lost, and nothing comes twice that does not say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.groups.long import QUICK, play
from benchmarks.week import account

TEXTS = [f"start press {number}" for number in range(50)]
SENT = ["alarm/a", "in/a", "in/a", "in/a", "in/a"]


def single(number: int, id_: str | None = None, **more: Any) -> dict[str, Any]:
    topic = SENT[number]
    return {"id": id_ or str(number), "key": str(number), "topic": topic, **more}


def summary(first: int, last: int, count: int, *, redelivered: int = 0) -> dict[str, Any]:
    ends = {"first_id": str(first), "last_id": str(last)}
    said = {**ends, "count": count, "redelivered": redelivered}
    return {"id": str(last), "topic": "in/a", "summary": said}


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.timeout(1500)
def test_a_week_of_outages_kills_restarts_and_updates_loses_nothing(
    intent_bundle: Path, tmp_path: Path
) -> None:
    found, note = play(QUICK, intent_bundle, TEXTS, tmp_path, tell=lambda _: None)
    assert (found.alerts_lost, found.missing, found.unclear) == (0, 0, 0), note
    assert found.alerts > 50
    assert found.summarised > 100, "the long outage is thinned"


def test_all_is_well_where_each_text_is_answered_or_in_a_summary() -> None:
    found = account(SENT, set(), [single(0), single(1), summary(2, 4, 3)])
    assert (found.alerts, found.telemetry, found.summarised) == (1, 4, 3)
    assert (found.alerts_lost, found.missing, found.repeated, found.unclear) == (0, 0, 0, 0)


def test_what_came_again_under_its_id_is_recognised() -> None:
    twice = [single(0), single(1), summary(2, 4, 3)]
    found = account(SENT, set(), twice + [dict(one) for one in twice])
    assert (found.repeated, found.unclear, found.missing) == (3, 0, 0)


def test_what_is_lost_is_missed() -> None:
    found = account(SENT, set(), [single(1), single(2), single(0, error={"code": "x"})])
    assert (found.alerts_lost, found.missing) == (1, 2)
    found = account(SENT, set(), [single(0), single(1), summary(2, 4, 2)])
    assert found.missing == 1


@pytest.mark.parametrize(
    "results",
    [
        pytest.param([single(1), single(1, "another")], id="one text under two ids"),
        pytest.param([single(1, "x"), single(2, "x")], id="two texts under one id"),
        pytest.param([summary(1, 4, 5)], id="a summary that counts one twice"),
        pytest.param([single(2), summary(1, 4, 4)], id="answered, and summed up as well"),
        pytest.param([summary(1, 4, 4), summary(1, 4, 3)], id="two summaries under one id"),
    ],
)
def test_a_duplicate_that_nothing_tells_is_unclear(results: list[dict[str, Any]]) -> None:
    assert account(SENT, set(), results).unclear > 0


def test_a_summary_that_marks_what_was_redelivered_is_clear() -> None:
    assert account(SENT, set(), [summary(1, 4, 5, redelivered=1)]).unclear == 0


def test_what_its_source_published_again_is_not_the_device_s_duplicate() -> None:
    assert account(SENT, {3}, [summary(1, 4, 5)]).unclear == 0
