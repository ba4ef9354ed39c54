"""Windows and sessions as they are fitted: what the exporter scores is what a device scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from edgeslm.core import calibration
from edgeslm.core.learnt import SessionsParameters, WindowsParameters
from edgeslm.core.overlay import Lesson
from edgeslm.core.series import Series
from edgeslm.core.sessions import Sessions
from edgeslm.ports import Answer, Memory, Request
from edgeslm.tasks.anomaly import Anomaly, load
from exporters.data import Row
from exporters.heads import anomaly, sessions, windows
from exporters.heads.anomaly import UNTIMED
from exporters.heads.tally import Why, Without
from exporters.heads.windows import Lengths, Reading, WindowsError
from tests.exporters.test_anomaly_head import embed

NONE = asdict(calibration.tail([0.0]))
RNG = np.random.default_rng(7)


def walk(n: int, *, start: float = 0.0) -> list[Row]:
    """A pump whose pressure follows its speed."""
    speed = 1500 + 30 * np.sin(np.arange(n) / 9) + RNG.normal(size=n)
    pressure = speed / 300 + RNG.normal(size=n) / 100
    return [
        Row(f"speed={a:.1f} rpm pressure={b:.3f} bar", source="p1", time=start + i)
        for i, (a, b) in enumerate(zip(speed, pressure, strict=True))
    ]


def fitted(rows: Sequence[Row], **options: str) -> Anomaly:
    head = anomaly.fit(
        rows, embed, alarm_budget=0.01, seed=0, advance=lambda _: None, options=options
    )
    return load(head.parameters)


def ask(task: Anomaly, request: Request, memory: Memory) -> Answer:
    outputs = {"distance": np.array(0.4, np.float32)}
    return task.finish(task.prepare(request), outputs, truncated=False, memory=memory)


def answers(task: Anomaly, rows: Sequence[Row]) -> list[Any]:
    memory = task.memory()
    return [ask(task, Request(r.text, r.source, r.time, r.key), memory) for r in rows]


def test_slots_that_no_longer_move_together_are_an_alarm_that_says_where() -> None:
    task = fitted(walk(600))
    fine = answers(task, walk(300, start=1000))
    assert np.mean([one.label == "anomaly" for one in fine]) < 0.05
    stuck = [
        Row(f"{row.text.partition(' pressure')[0]} pressure=5.050 bar", source="p1", time=row.time)
        for row in walk(120, start=1000)
    ]
    found = answers(task, stuck)[30:]
    assert np.mean([one.label == "anomaly" for one in found]) > 0.5
    causes = [one.explanation[0] for one in found if one.label == "anomaly"]
    assert {cause["channel"] for cause in causes} == {"window"}
    assert all({"slot", "value", "expected", "readings"} <= cause.keys() for cause in causes)
    plain = fitted(walk(600), windows="none")
    memory = plain.memory()
    assert memory.series is None
    assert memory.sessions is None
    assert np.mean([one.label == "anomaly" for one in answers(plain, stuck)]) < 0.1


def test_a_wild_reading_is_an_alarm_and_blames_none_after_it() -> None:
    task = fitted(walk(600))
    rows = walk(60, start=1000)
    rows[40] = Row("speed=99999.0 rpm pressure=5.000 bar", source="p1", time=1040)
    found = answers(task, rows)
    assert found[40].label == "anomaly"
    mean, reading = found[40].explanation[:2]
    assert (mean["channel"], reading["channel"]) == ("window", "number")
    assert (reading["slot"], reading["value"]) == (0, "99999.0")
    assert [one.label for one in found[41:]].count("anomaly") <= 1


def test_the_exporter_and_a_device_see_the_same_distances() -> None:
    rows = walk(300)
    readings = [
        Reading("p1", 0, row.text.replace("=", " ").split()[1::3], row.time) for row in rows
    ]
    found, _ = windows.fit(readings, Lengths(readings=(5, 12)))
    assert found is not None
    raw = json.dumps({**found.parameters, "channel": NONE})
    parameters = WindowsParameters.model_validate_json(raw)
    series = Series(parameters.gauges(), [view.tail() for view in parameters.views])
    seen = [series.score("p1", 0, [float(v) for v in one.slots], one.time) for one in readings]
    assert (
        [s is None for s in seen] == [s is None for s in found.scores] == [True] * 4 + [False] * 296
    )
    unseen = [s for s in found.scores if s is not None]
    fit = [s for s in seen if s is not None]
    assert np.median(fit) == pytest.approx(np.median(unseen), abs=0.5)
    assert np.corrcoef(fit, unseen)[0, 1] > 0.7
    assert np.mean(unseen) > np.mean(fit), "what was held out looks odder than what was fitted"


def test_windows_of_time_are_readings_at_each_series_own_pace() -> None:
    readings = [
        Reading(s, 0, [str(i % 17)], i * pace)
        for i in range(200)
        for s, pace in (("a", 2), ("b", 5))
    ]
    found, tally = windows.fit(readings, Lengths(seconds=(20.0, 60.0)))
    assert found is not None
    longest = {one["source"]: one["views"][-1]["windows"] for one in found.parameters["series"]}
    assert longest == {"a": (1, 10, 30), "b": (1, 4, 12)}
    assert tally.lengths == {(10, 30): 1, (4, 12): 1}


@pytest.mark.parametrize(
    ("readings", "lengths", "why", "needed"),
    [
        ([("5", i) for i in range(500)], (10, 30), Why.FIXED, 0),
        ([(i % 9, i) for i in range(149)], (10, 30), Why.FEW, 150),
        ([(i % 9, i) for i in range(99)], (5,), Why.FEW, 100),
        ([(i % 9, None) for i in range(500)], (), Why.UNTIMED, 0),
        ([(i % 9, i + 100 * (i // 8)) for i in range(500)], (10, 30), Why.PAUSES, 0),
    ],
)
def test_a_series_that_says_too_little_gets_no_windows_and_is_told(
    readings: list[tuple[object, float | None]], lengths: tuple[int, ...], why: Why, needed: int
) -> None:
    read = [Reading("a", 0, [str(value)], time) for value, time in readings]
    asked = Lengths(readings=lengths) if lengths else Lengths(seconds=(60.0,))
    found, tally = windows.fit(read, asked)
    assert found is None
    assert tally.without == [Without(why, "a", 0, len(read), needed)]


def test_series_beyond_those_that_a_bundle_holds_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MAX_SERIES", 1)
    read = [Reading(s, 0, [str(i % 9)], float(i)) for i in range(150) for s in "ab"]
    _, tally = windows.fit(read, Lengths(readings=(10, 30)))
    assert tally.lengths == {(10, 30): 1}
    assert tally.without == [Without(Why.MANY, "b", 0, 150)]


def test_an_export_says_which_series_got_windows_and_which_did_not() -> None:
    def notes(rows: Sequence[Row], lengths: str = "10,30") -> list[str]:
        head = anomaly.fit(
            rows, embed, alarm_budget=0.01, seed=0, advance=lambda _: None,
            options={anomaly.WINDOWS: lengths},
        )  # fmt: skip
        return [note for note in head.notes if note.startswith("windows: ")]

    few = [Row(f"{what} at {i} C", source="oven") for what in ("low", "high") for i in range(90)]
    few += [Row(f"{what} at 5 C", source="oven") for what in ("a", "b", "c", "d") for _ in range(8)]
    [note] = notes([*walk(300), *few])
    assert note == (
        "windows: 1 of 7 series (what one source says in one template) have them, over 10 and 30 "
        "readings; 6 with too few readings ('low at ¤ C' of oven: 90 of 150, 'high at ¤ C' "
        "of oven: 90 of 150, 'a at ¤ C' of oven: 8 of 150, ...)"
    )
    [note] = notes(walk(100))
    assert note.startswith("windows: none of 1 series (what one source says in one template) has")
    assert notes(walk(300), "none") == notes([Row("fine")] * 200) == []


@pytest.mark.parametrize(
    "text", ["", "0", "1,5", "10,9999", "10,20,30", "nan s", "infs", "x", "-5s"]
)
def test_lengths_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(WindowsError, match="windows"):
        windows.parse(text)


@pytest.mark.parametrize("text", ["10,10", "60s, 60.0s"])
def test_a_length_that_is_given_twice_is_refused(text: str) -> None:
    with pytest.raises(WindowsError, match="the same length twice"):
        windows.parse(text)


def test_lengths_are_read() -> None:
    assert windows.parse("30,10") == Lengths(readings=(10, 30))
    assert windows.parse("60s, 600s") == Lengths(seconds=(60.0, 600.0))
    assert windows.parse("none") is None


def orders(n: int, *, skip: bool = False) -> list[Row]:
    lines = ("order opened", "part milled", "part checked", "order closed")
    return [
        Row(text, source="cell", key=f"order {i}", time=float(10 * i + k))
        for i in range(n)
        for k, text in enumerate(lines)
        if not (skip and k == 2)
    ]


def test_a_step_left_out_is_an_alarm_though_each_line_is_usual() -> None:
    task = fitted(orders(400))
    fine = answers(task, orders(60))
    assert not any(one.label == "anomaly" for one in fine)
    found = answers(task, orders(60, skip=True))
    assert [one.label for one in found[:3]] == ["normal", "normal", "anomaly"]
    (cause,) = found[2].explanation
    assert (cause["channel"], cause["token"]) == ("session", "order closed")
    assert cause["after"] == "part milled"


def test_a_session_that_ends_early_says_so_on_its_last_line() -> None:
    task = fitted(orders(400))
    found = answers(task, orders(1)[:2])
    assert [one.label for one in found] == ["normal", "normal"]
    assert found[-1].channels["session_end"] < 0.01
    assert answers(task, orders(1))[-1].channels["session_end"] == 1
    assert "session" not in answers(task, [Row("order opened")])[0].channels


def test_an_early_end_is_an_alarm_where_the_line_is_said_to_be_the_last() -> None:
    task = fitted(orders(400))

    def ended(count: int, memory: Memory) -> Answer:
        *lines, last = [Request(r.text, r.source, key=r.key) for r in orders(1)[:count]]
        for line in lines:
            ask(task, line, memory)
        return ask(task, last._replace(last=True), memory)

    memory = task.memory()
    early = ended(2, memory)
    assert early.label == "anomaly"
    assert early.p_value == early.channels["session_end"]
    (cause,) = early.explanation
    assert (cause["channel"], cause["token"]) == ("session_end", "part milled")
    assert ended(4, memory).label == "normal", "the key's next session"
    memory.overlay.learn(Lesson(1, "normal", "part milled", channel="session_end"))
    silenced = ended(2, memory)
    assert (silenced.label, silenced.lesson) == ("normal", 1)


def test_a_line_that_comes_again_is_no_step_of_training() -> None:
    twice = [0, 1, 1, 2]
    found = sessions.fit(
        [f"k{i}" for i in range(100) for _ in twice],
        twice * 100,
        [float(10 * i + step) for i in range(100) for step in twice],
        twice * 100,
    )
    assert found is not None
    assert found.parameters["most"] == {0: 1, 1: 1, 2: 1}
    assert [score is None for score in found.scores[:4]] == [False, False, True, False]


def learnt(said: Sequence[tuple[str, int, float]]) -> sessions.Fitted:
    """What sessions learn of lines of a key, a template and a time each."""
    ordered = sorted(said, key=lambda line: line[2])
    keys, templates, times = zip(*ordered, strict=True)
    found = sessions.fit(keys, templates, times, templates)
    assert found is not None
    return found


def test_a_key_that_comes_again_is_another_session_in_training_as_on_a_device() -> None:
    cycles = [
        (f"tray {tray}", step, 1000.0 * cycle + 7 * tray + 2 * step)
        for tray in range(10)
        for cycle in range(20)
        for step in range(4)
    ]
    found = learnt(cycles[2:])  # one is cut by the beginning of the file
    assert found.parameters["pause_s"] == sessions.PAUSE * 2
    assert found.parameters["most"] == dict.fromkeys(range(4), 1)
    assert found.parameters["ends"] == [(2, 3)]
    raw = json.dumps({**found.parameters, "channel": NONE})
    device = Sessions(SessionsParameters.model_validate_json(raw).habits())
    assert not any(device.score(key, step, time).line for key, step, time in sorted(
        cycles, key=lambda line: line[2]
    ))  # fmt: skip
    assert device.counts["sessions_expired"] == 10 * 19


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([0, 1, 0, 1, 0, 1, 2], "what goes before the pause ends no session"),
        ([0, 2, 1, 2, 1, 2, 2], "what comes after the pause begins none"),
    ],
)
def test_a_session_that_pauses_goes_on(steps: list[int], why: str) -> None:
    at = [0.0, 1.0, 600.0, 601.0, 1200.0, 1201.0, 1202.0]
    found = learnt([
        (f"order {order}", step, 2000.0 * order + time)
        for order in range(60)
        for step, time in zip(steps, at, strict=True)
    ])  # fmt: skip
    assert found.parameters["pause_s"] == sessions.PAUSE * 599, why
    assert sum(found.parameters["most"].values()) == len(steps)


def test_few_keys_that_come_again_are_no_reason_to_part_all() -> None:
    said = [(f"order {i}", step, 10.0 * i + step) for i in range(100) for step in range(3)]
    again = [(f"order {i}", step, 9000.0 + 10 * i + step) for i in range(40) for step in range(3)]
    assert learnt([*said, *again]).parameters["pause_s"] == sessions.PAUSE * 8998


def test_a_session_that_the_end_of_the_data_cuts_teaches_no_end() -> None:
    said = [
        (f"order {i}", step, 10.0 * i + 30 * step)  # several at once
        for i in range(100)
        for step in range(4)
    ]
    cut = [line for line in said if line[2] < 900]
    assert learnt(cut).parameters["ends"] == [(2, 3)]
    assert learnt(cut).parameters["triples"] == learnt(said).parameters["triples"]
    hasty = [(f"order {i}", step, i + 30.0 * step) for i in range(100) for step in range(4)]
    ends = learnt([line for line in hasty if line[2] < 100]).parameters["ends"]
    assert {(-1, 0), (0, 1)} < set(ends), "all were open lately: none can be told"


@pytest.mark.parametrize("told", ["by its publisher", "by the broker"])
def test_a_text_that_comes_again_gets_its_answer_again_and_changes_nothing(told: str) -> None:
    task = fitted(walk(300) + orders(100))

    def request(row: Row, number: int) -> Request:
        own = f"line {number}" if told == "by its publisher" else None
        given = number if own is None else None
        return Request(row.text, row.source, None, row.key, own, given)

    asked = [request(row, i) for i, row in enumerate([*walk(40), *orders(3)])]
    memory, other = task.memory(), task.memory()
    once = [ask(task, one, memory) for one in asked]
    twice = [[ask(task, one, other) for one in (one, one)] for one in asked]
    assert twice == [[answer, answer] for answer in once]
    assert other.counts() == memory.counts() | {"texts_repeated": len(asked)}
    late = ask(task, asked[0], other)
    assert late == once[0]


def test_windows_of_lines_without_times_are_told() -> None:
    def notes(rows: Sequence[Row]) -> tuple[str, ...]:
        return anomaly.fit(rows, embed, alarm_budget=0.01, seed=0, advance=lambda _: None).notes

    rows = walk(300)
    assert UNTIMED not in notes(rows)
    assert UNTIMED in notes([replace(row, time=None) for row in rows])


def test_sessions_too_few_to_learn_from_are_told() -> None:
    def notes(rows: Sequence[Row], switch: str = anomaly.ON) -> list[str]:
        head = anomaly.fit(
            rows, embed, alarm_budget=0.01, seed=0, advance=lambda _: None,
            options={anomaly.SESSIONS: switch},
        )  # fmt: skip
        return [note for note in head.notes if "`key` is not heeded" in note]

    few, lines = orders(sessions.FEWEST - 1), walk(300)
    [note] = notes([*few, *lines])
    assert note.startswith(f"49 keys of {len(few)} lines make too few sessions")
    assert notes([*few, *lines], anomaly.OFF) == []
    assert notes(lines) == notes(orders(100)) == []


def test_few_keys_and_keys_of_one_line_are_no_sessions() -> None:
    assert sessions.fit(["a", "b"] * 50, [0, 0] * 50, [None] * 100, [""] * 100) is None
    assert sessions.fit([str(i) for i in range(100)], [0] * 100, [None] * 100, [""] * 100) is None


def test_parameters_of_both_come_back_as_they_were() -> None:
    found = sessions.fit(
        [f"k{i // 3}" for i in range(300)],
        [i % 3 for i in range(300)],
        [None] * 300,
        [""] * 300,
    )
    assert found is not None
    raw = json.dumps({**found.parameters, "channel": NONE})
    habits = SessionsParameters.model_validate_json(raw).habits()
    assert (-1, 0, 1) in habits.triples
    assert habits.ends == {(1, 2)}
    assert habits.most == {0: 1, 1: 1, 2: 1}


def test_counts_name_what_is_remembered() -> None:
    task = fitted(walk(300) + orders(100))
    memory = task.memory()
    assert memory.counts() == {
        "lessons": 0, "sources_learning": 0, "sources_unlearnt": 0, "sources_refused": 0,
        "sources_dropped": 0, "sources_unkept": 0, "numbers_refused": 0, "new_templates": 0,
        "texts_repeated": 0, "series": 0, "late": 0, "repeated": 0, "wild": 0, "gaps": 0,
        "series_dropped": 0,
        "sessions": 0, "sessions_dropped": 0, "sessions_expired": 0,
        "lines_late": 0, "lines_repeated": 0,
    }  # fmt: skip
