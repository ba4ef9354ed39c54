"""Recipes: how examples are divided, what is measured, and what counts as lost."""

from __future__ import annotations

import pkgutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgeslm.contract.manifest import Tolerance
from edgeslm.core.calibration import BudgetError
from edgeslm.ports import Answer
from edgeslm.tasks.intent import IntentParameters
from exporters import inspection, recipes
from exporters.data import DataError, Row
from exporters.recipes import anomaly, intent
from tests.exporters.conftest import write_lines


def test_every_recipe_is_a_task() -> None:
    from edgeslm import tasks  # noqa: PLC0415 -- beside `exporters.recipes`, its mirror

    assert recipes.names() == ["anomaly", "intent"]
    assert set(recipes.names()) <= set(tasks.names())
    inspected = {info.name for info in pkgutil.iter_modules(inspection.__path__)}
    assert set(recipes.names()) <= inspected


def lines(file: Path, *rows: tuple[str, str | None, str]) -> Path:
    return write_lines(file, [{"text": t, "label": label, "source": s} for t, label, s in rows])


def test_intents_hold_out_a_fifth_of_each_label(tmp_path: Path) -> None:
    data = lines(
        tmp_path / "data.jsonl",
        *((f"{label} {i}", label, "") for label in ("x", "y", "oos") for i in range(20)),
        ("rare 1", "rare", ""),
        ("rare 2", "rare", ""),
    )
    split = intent.split(data, None, share=0.5, seed=0)
    assert Counter(row.label for row in split.held_out) == {"x": 4, "y": 4, "oos": 4}
    assert not {r.text for r in split.held_out} & {r.text for r in split.train}
    assert len(split.train) + len(split.held_out) == 62
    assert (
        intent.split(data, None, share=0.5, seed=0)
        == split
        != intent.split(data, None, share=0.5, seed=1)
    )


def test_what_operators_taught_of_intents_judges_nothing(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": f"{label} {i}", "label": label} for label in "xy" for i in range(20)
    ]
    before = intent.split(write_lines(tmp_path / "a.jsonl", rows), None, share=0.5, seed=0)
    held = {row.text for row in before.held_out}
    lessons = [{**row, "lesson": i} for i, row in enumerate(rows) if row["text"] in held][1:]
    after = intent.split(write_lines(tmp_path / "b.jsonl", rows + lessons), None, share=0.5, seed=0)
    assert len(after.held_out) == 1
    assert {each["text"] for each in lessons} <= {row.text for row in after.train}


def test_intents_judge_by_what_the_user_gives(tmp_path: Path) -> None:
    data = lines(tmp_path / "a.jsonl", *((f"{n} {i}", n, "") for n in "xy" for i in range(3)))
    judge = lines(tmp_path / "b.jsonl", ("z", "x", ""))
    split = intent.split(data, judge, share=0.5, seed=0)
    assert (len(split.train), len(split.held_out)) == (6, 1)


def test_anomalies_hold_out_the_end_of_each_source_and_never_teach(tmp_path: Path) -> None:
    rows: list[tuple[str, str | None, str]] = [(f"a {i}", "normal", "a") for i in range(10)]
    rows += [(f"b {i}", None, "b") for i in range(5)]
    rows.insert(3, ("bang", "anomaly", "a"))
    split = anomaly.split(lines(tmp_path / "data.jsonl", *rows), None, share=0.5, seed=0)
    assert [row.text for row in split.held_out] == ["a 8", "a 9", "b 4", "bang"]
    assert [row.text for row in split.train][:8] == [f"a {i}" for i in range(8)]


def test_anomalies_in_the_training_file_judge_beside_those_given(tmp_path: Path) -> None:
    data = lines(tmp_path / "a.jsonl", ("a", None, ""), ("b", None, ""), ("bang", "anomaly", ""))
    judge = lines(tmp_path / "b.jsonl", ("c", "normal", ""))
    split = anomaly.split(data, judge, share=0.5, seed=0)
    assert [row.text for row in split.train] == ["a", "b"]
    assert [row.text for row in split.held_out] == ["c", "bang"]


def test_nothing_normal_is_nothing_to_learn(tmp_path: Path) -> None:
    data = lines(tmp_path / "a.jsonl", ("bang", "anomaly", ""))
    with pytest.raises(DataError, match="every line is an anomaly"):
        anomaly.split(data, None, share=0.5, seed=0)


def test_too_few_lines_for_the_budget_are_refused_before_any_work(tmp_path: Path) -> None:
    data = lines(tmp_path / "a.jsonl", *((f"line {i}", None, "") for i in range(110)))
    fewer = r"a\.jsonl: .* at least 100 .* there are 88.* with --eval all of them"
    with pytest.raises(BudgetError, match=fewer):
        anomaly.split(data, None, share=0.01, seed=0)
    assert len(anomaly.split(data, data, share=0.01, seed=0).train) == 110
    with pytest.raises(BudgetError, match=r"a\.jsonl: .* at least 1000 .* there are 110"):
        anomaly.split(data, data, share=0.001, seed=0)


def said(label: str, *, accepted: bool = True, score: float = 0.0, sure: float = 1.0) -> Answer:
    return Answer(label, sure, score, accepted=accepted)


def test_intent_metrics_are_those_of_their_names() -> None:
    rows = [Row("1", "x"), Row("2", "x"), Row("3", "y"), Row("4", "y"), Row("5", "oos")]
    answers = [
        said("x", score=-5, sure=0.8),
        said("x", score=-1, sure=0.6, accepted=False),
        said("y", score=-4, sure=0.9),
        said("x", score=-3, sure=0.7),
        said("y", score=-2, accepted=False),
    ]
    got = intent.measure(rows, answers, share=0.05)
    assert got["accuracy"] == 75.0
    assert got["rejected_in_scope"] == 25.0
    assert got["accuracy_with_rejection"] == 50.0
    assert got["oos_recall"] == 100.0
    assert got["oos_auroc"] == 0.75  # three of four in-scope texts score below it
    # F1 of x: 2 * 2 / (3 + 2); of y: 2 * 1 / (1 + 2).
    assert got["macro_f1"] == pytest.approx(100 * (0.8 + 2 / 3) / 2)
    assert got["calibration_error"] == pytest.approx((0.2 + 0.4 + 0.1 + 0.7) / 4)
    assert intent.measure(rows[:4], answers[:4], share=0.05)["oos_auroc"] is None


def test_intents_lose_accuracy() -> None:
    rows = [Row(str(i), "x") for i in range(4)]
    good = [said("x")] * 4
    worse = [*good[:3], said("y")]
    pair = (
        (intent.measure(rows, good, share=0.05), good),
        (intent.measure(rows, worse, share=0.05), worse),
    )
    assert intent.losses(*pair) == {"accuracy": 25.0}
    assert intent.losses(*reversed(pair)) == {"accuracy": -25.0}


def test_intents_out_of_scope_count_for_the_gate_too() -> None:
    rows = [Row("1", "x"), Row("2", "x"), Row("3", "oos"), Row("4", "oos")]
    good = [said("x", score=s) for s in (-3, -2, 1, 2)]
    worse = [said("x", score=s) for s in (-3, 1.5, 1, 2)]
    few, many = (
        [(intent.measure(rows * n, a * n, share=0.05), a * n) for a in (good, worse)]
        for n in (99, 100)
    )
    assert intent.losses(*many) == {"accuracy": 0.0, "oos_auroc": 25.0}
    assert intent.losses(*few) == {"accuracy": 0.0}  # too few to tell loss from chance
    assert any("oos" in caution for caution in intent.cautions(few[1][0], limit=0.5))
    assert not any("oos" in caution for caution in intent.cautions(many[1][0], limit=0.5))


@pytest.mark.parametrize(("rows", "limit", "cautioned"), [(199, 0.5, True), (200, 0.5, False)])
def test_rows_too_few_to_see_the_limit_are_cautioned(
    rows: int, limit: float, *, cautioned: bool
) -> None:
    texts = [Row(str(i), "x") for i in range(rows)]
    metrics = intent.measure(texts, [said("x")] * rows, share=0.05)
    assert bool(intent.cautions(metrics, limit=limit)) is cautioned
    lines = [Row(str(i)) for i in range(rows)]
    metrics = anomaly.measure(lines, [alarm(-1)] * rows, share=0.05)
    assert bool(anomaly.cautions(metrics, limit=limit)) is cautioned


@pytest.mark.parametrize(("alarms", "cautioned"), [(10, False), (15, False), (20, True)])
def test_a_budget_missed_by_more_than_chance_is_cautioned(alarms: int, *, cautioned: bool) -> None:
    rows = [Row(str(i)) for i in range(1000)]
    answers = [alarm(1 if i < alarms else -1) for i in range(1000)]
    metrics = anomaly.measure(rows, answers, share=0.01)
    assert (metrics["alarm_budget"], metrics["false_alarm_rate"]) == (1.0, alarms / 10)
    found = anomaly.cautions(metrics, limit=0.5)
    assert bool(found) is cautioned
    if cautioned:
        assert "2 % of the held-out normal lines raise an alarm, and the budget is 1 %" in found[0]


def alarm(score: float) -> Answer:
    return Answer("anomaly" if score > 0 else "normal", 0.5, score)


def test_anomaly_metrics_are_those_of_their_names() -> None:
    rows = [Row(str(i), "normal") for i in range(4)] + [Row("5", "anomaly"), Row("6", "anomaly")]
    answers = [alarm(s) for s in (-3, -2, -1, 2, 3, -1.5)]
    got = anomaly.measure(rows, answers, share=0.05)
    assert (got["normal"], got["anomalies"], got["alarms"]) == (4, 2, 2)
    assert got["false_alarm_rate"] == 25.0
    assert got["recall"] == 50.0
    assert got["precision"] == 50.0
    assert got["f1"] == 50.0
    assert got["auroc"] == 75.0  # 4 + 2 of 8 pairs are in order
    assert anomaly.measure(rows[4:], answers[4:], share=0.05)["false_alarm_rate"] is None
    assert anomaly.measure(rows[:4], answers[:4], share=0.05)["recall"] is None


def test_labelled_anomalies_lose_auroc() -> None:
    rows = [Row("1"), Row("2"), Row("3", "anomaly")]
    good, worse = [alarm(s) for s in (-2, -1, 3)], [alarm(s) for s in (-2, 4, 3)]
    pair = (
        (anomaly.measure(rows, good, share=0.05), good),
        (anomaly.measure(rows, worse, share=0.05), worse),
    )
    assert anomaly.losses(*pair) == {"auroc": 50.0}


def test_without_labels_verdicts_that_differ_and_alarms_gained_are_lost() -> None:
    rows = [Row(str(i)) for i in range(4)]
    before, after = [alarm(s) for s in (1, -1, -1, -1)], [alarm(s) for s in (-1, 1, 1, -1)]
    pair = (
        (anomaly.measure(rows, before, share=0.05), before),
        (anomaly.measure(rows, after, share=0.05), after),
    )
    assert anomaly.losses(*pair) == {"agreement": 75.0, "false_alarm_rate": 25.0}


ALLOWED = Tolerance(score=0.5, confidence=0.1, verified="measured")


@pytest.mark.parametrize(
    ("score", "confidence", "sure"),
    [(-3.0, 0.9, True), (1.0, 0.9, True), (-0.4, 0.9, False), (0.4, 0.9, False), (-3, 0.55, False)],
)
def test_intents_near_threshold_or_another_label_are_unsure(
    score: float, confidence: float, *, sure: bool
) -> None:
    settings = IntentParameters(
        labels=("x", "y"), threshold=0.0, reject_share=0.1, temperature=1.0, calibration=(0.0,)
    )
    answer = said("x", score=score, sure=confidence)
    parameters = settings.model_dump_json().encode()
    assert (intent.surety(answer, parameters, ALLOWED) > 1) is sure


@pytest.mark.parametrize(("confidence", "sure"), [(0.9, True), (0.2, False), (0.0, False)])
def test_lines_at_the_alarm_line_are_unsure(confidence: float, *, sure: bool) -> None:
    assert (anomaly.surety(Answer("normal", confidence, 1.0), b"", ALLOWED) > 1) is sure
