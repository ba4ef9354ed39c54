"""What is said of examples before anything is learnt from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgeslm.ports import Answer
from exporters.data import Row, Split
from exporters.heads.intent import Opinions, fit
from exporters.inspection import anomaly, inspect, intent
from exporters.inspection.findings import WORST, Finding, Inspection
from exporters.inspection.suspects import suspects
from exporters.tune.lock import Train
from tests.exporters.test_intent_head import LABELS, Clusters


def examples(*texts: tuple[str, str | None], file: str = "a.jsonl", source: str = "") -> list[Row]:
    return [Row(t, label, source, line=n, file=file) for n, (t, label) in enumerate(texts, 1)]


def plenty(*labels: str, each: int = 10) -> list[tuple[str, str | None]]:
    """Texts that share no more than a word or two."""
    words = "abcdefghijklmnopqrstuvwxyz"
    return [
        (f"{words[n] * 5} {words[-n - 1] * 4} {label} {n * 7919}", label)
        for label in labels
        for n in range(each)
    ]


def found(inspection: Inspection) -> dict[str, Finding]:
    return {finding.kind: finding for finding in inspection.findings}


def looked(train: list[Row], held_out: list[Row]) -> dict[str, Finding]:
    return found(intent.inspect(Split(train, held_out), None))


def test_good_examples_give_no_finding() -> None:
    train = examples(*plenty("x", "y"))
    judged = examples(("quite another", "x"), ("something else", "y"), ("z", "oos"), file="b")
    inspection = intent.inspect(Split(train, judged), None)
    assert inspection.findings == []
    assert inspection.counts == {
        "x": {"train": 10, "held_out": 1},
        "y": {"train": 10, "held_out": 1},
        "oos": {"train": 0, "held_out": 1},
    }
    assert inspection.cautions() == [
        "without a model, mislabelled lines were not looked for; give --model"
    ]


def test_three_examples_of_a_label_are_told_with_their_place() -> None:
    """Texts that a reader takes for the same count once."""
    rows = [*plenty("x", "y"), ("one", "z"), ("two", "z"), ("three", "z"), ("Three ", "z")]
    judged = examples(("x", "x"), ("y", "y"), ("z", "z"), file="b.jsonl")
    few = looked(examples(*rows), judged)["few"]
    assert few.count == 1
    assert few.worst == [{"label": "z", "texts": 3, "file": "a.jsonl", "line": 21}]
    assert few.caution().startswith(
        "labels with fewer than 8 different texts: 1 ('z' 3, a.jsonl:21). Expect them"
    )


def test_what_a_label_has_is_counted_with_what_is_held_out_of_it() -> None:
    rows = examples(*plenty("x", "y", each=8))
    train, judged = rows[1:], rows[:1]
    assert "few" not in looked(train, judged)
    assert "few" in looked(train, [replace(row, file="b.jsonl") for row in judged])


@pytest.mark.parametrize(
    ("train", "told"), [(None, True), ("head", True), ("few", False), ("student", False)]
)
def test_a_way_for_few_is_named_to_whoever_could_take_it(
    train: Train | None, *, told: bool
) -> None:
    rows = examples(*plenty("x", "y", each=4))
    few = found(intent.inspect(Split(rows, []), None, train))["few"]
    assert ("--train few" in few.caution()) is told


def test_where_a_teacher_has_learnt_the_examples_no_option_is_named_that_is_not_there() -> None:
    rows = examples(*plenty("x", "y"))
    [note] = intent.inspect(Split(rows, examples(*plenty("x", "y"))), None, "student").notes
    assert "give --model" not in note
    assert "`edgeslm-export data --model SOURCE`" in note


@pytest.mark.parametrize(("most", "told"), [(190, False), (200, True)])
def test_a_label_with_a_twentieth_of_anothers_texts_is_told(most: int, *, told: bool) -> None:
    rows = [*plenty("rare"), *((f"{n} {n * 7} often", "often") for n in range(most))]
    got = looked(examples(*rows), [])
    assert ("imbalance" in got) is told
    if told:
        assert got["imbalance"].what == ("labels with a 20th of the texts of 'often' (200) or less")


def test_labels_that_nothing_held_out_has_are_named() -> None:
    rows = examples(*plenty("x", "y", "z"), ("none of it", "oos"))
    got = looked(rows, examples(("another", "y"), file="b.jsonl"))["unjudged"]
    assert got.count == 2
    assert got.caution().startswith("labels without a held-out text: 2 ('x'; 'z'). No figure")


def test_a_text_under_several_labels_is_told_across_files_and_spellings() -> None:
    train = examples(*plenty("x", "y"), ("stop it", "x"), ("Stop  it", "y"))
    judged = examples(("STOP IT", "z"), ("w", "x"), ("w", "y"), file="b.jsonl")
    got = looked(train, judged)["contradiction"]
    assert got.count == 2
    assert got.shown[0] == "a.jsonl:21 'x', a.jsonl:22 'y', b.jsonl:1 'z'"
    assert [(row["line"], row["other_line"]) for row in got.worst] == [
        (21, 22), (21, 1), (22, 1), (2, 3)
    ]  # fmt: skip


def test_lines_that_are_learnt_and_judged_by_are_told() -> None:
    train = examples(*plenty("x", "y"), ("stop it", "x"))
    judged = examples(("new", "x"), ("Stop it", "x"), ("newer", "y"), file="b.jsonl")
    leak = looked(train, judged)["leak"]
    assert leak.caution().startswith(
        "of 3 lines to judge by, those that are learnt from too: 1 (b.jsonl:2 is a.jsonl:21). They"
    )


def test_near_duplicates_under_other_labels_are_told_and_equal_ones_are_not() -> None:
    train = examples(
        *plenty("x", "y"),
        ("how long does the transfer of my money take", "x"),
        ("how long does the transfer of the money take?", "y"),
        ("how long does the transfer of my money take!", "x"),
    )
    near = looked(train, examples(("v", "x"), ("w", "y")))["near_duplicate"]
    assert near.count == 2
    assert len(near.worst) == 1, "each line is listed once"
    assert near.worst[0]["line"] == 21
    assert near.worst[0]["other_line"] == 22
    assert 0.75 <= float(near.worst[0]["alike"]) < 1


def test_lists_are_bounded_and_counts_are_whole() -> None:
    rows = [(f"{chr(97 + n % 26) * 9} {n}", label) for n in range(300) for label in ("x", "y")]
    inspection = intent.inspect(Split(examples(*rows), examples(("v", "x"), ("w", "y"))), None)
    got = found(inspection)["contradiction"]
    assert (got.count, len(got.worst)) == (300, WORST)
    assert len(got.caution()) < 300
    assert len(inspection.to_bytes()) < 30_000


def test_long_texts_are_quoted_in_part() -> None:
    rows = examples(*plenty("x", "y"), ("long " * 10_000, "x"), ("long " * 10_000, "y"))
    assert len(intent.inspect(Split(rows, []), None).to_bytes()) < 6_000


def test_lines_under_a_foreign_label_are_found_and_no_others() -> None:
    clusters = Clusters(noise=0.5)
    rows = clusters.rows(40)
    wrong = [Row(row.text, LABELS[(LABELS.index(str(row.label)) + 1) % 4]) for row in rows[::20]]
    rows = [*wrong, *(row for n, row in enumerate(rows) if n % 20)]
    head = fit(rows, clusters.embed, reject_share=0.05, seed=0, advance=lambda _: None)
    assert head.opinions is not None
    got = suspects(head.opinions, [], [])
    assert {(one.row.text, one.label) for one in got} == {
        (row.text, row.text.split("/")[0]) for row in wrong
    }
    assert sorted(got, key=lambda one: -one.sure) == got


def test_what_is_held_out_is_doubted_by_the_same_measure() -> None:
    """As sure as lines of the other label usually are, or more; a line out of scope is not."""
    known = [Row("a", "x"), Row("b", "x"), Row("c", "y"), Row("d", "y")]
    usual = np.array([0.9, 0.7, 0.6, 0.6])
    opinions = Opinions(known, ["x", "x", "y", "y"], usual, usual)
    held = [Row("e", "y"), Row("f", "y"), Row("g", "oos"), Row("h", "x"), Row("i", "x")]
    said = [("x", 0.81), ("x", 0.79), ("x", 0.99), ("y", 0.61), ("x", 0.99)]
    answers = [Answer(label, sure, 0.0, accepted=True) for label, sure in said]
    assert [one.row.text for one in suspects(opinions, held, answers)] == ["e", "h"]


LINES: list[tuple[str, list[Row], list[Row], str, str]] = [
    (
        "an anomaly that the same source says as normal",
        [Row("ok", None, "a", line=1, file="t"), Row("ok", None, "b", line=2, file="t")] * 20,
        [Row("ok", "anomaly", "b", line=9, file="t"), Row("ok", "anomaly", "c", line=8, file="t")],
        "contradiction",
        "of 2 anomalies, those whose text the same source says as normal: 1 (t:9 is t:2). By",
    ),
    (
        "a line that is judged both ways",
        [Row("fine", None, "a", line=n, file="t") for n in range(30)],
        [Row("x", "anomaly", "a", line=1, file="e"), Row("x", "normal", "a", line=2, file="e")],
        "contradiction",
        "as normal: 1 (e:1 is e:2).",
    ),
    (
        "a source with a few lines",
        [Row("a", None, "a", line=n, file="t") for n in range(30)]
        + [Row("b", None, "b", line=31 + n, file="t") for n in range(19)],
        [],
        "few",
        "sources with fewer than 20 lines to learn from: 1 ('b' 19, t:31). Their",
    ),
    (
        "a source that nothing is learnt of",
        [Row("a", None, "a", line=n, file="t") for n in range(30)],
        [Row("b", None, "new", line=7, file="e")],
        "unheard",
        "sources to judge by that nothing is learnt of: 1 ('new', e:7). The",
    ),
]


@pytest.mark.parametrize(
    ("train", "held", "kind", "what"), [c[1:] for c in LINES], ids=[c[0] for c in LINES]
)
def test_lines_of_machines(train: list[Row], held: list[Row], kind: str, what: str) -> None:
    inspection = inspect("anomaly", Split(train, held), None)
    assert what in found(inspection)[kind].caution()


def test_lines_are_counted_by_source() -> None:
    train = [Row(str(n), None, "a") for n in range(25)] + [Row("x")] * 20
    held = [Row("y", None, "a"), Row("z", "anomaly", "a")]
    assert anomaly.inspect(Split(train, held), None).counts == {
        "a": {"train": 25, "held_out": 1, "anomalies": 1},
        "(no source)": {"train": 20, "held_out": 0, "anomalies": 0},
    }


def test_the_same_examples_give_the_same_bytes() -> None:
    make: Callable[[], bytes] = lambda: intent.inspect(  # noqa: E731
        Split(examples(*plenty("x", "y"), ("stop", "x"), ("stop", "y")), []), None
    ).to_bytes()
    assert make() == make()
    said = json.loads(make())
    assert said["task"] == "intent"
    assert said["findings"][-1]["caution"].startswith("texts under several labels: 1")
    assert "shown" not in said["findings"][0]
