"""`report.html` and `coverage.json`: what they say, and that they say it alike each time."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from edgeslm.contract.manifest import (
    Artifact,
    BaseModelInfo,
    Coverage,
    Fallen,
    Manifest,
    Tolerance,
)
from edgeslm.ports import Answer
from edgeslm.runtime.profiles import load_profile
from exporters import recipes
from exporters.data import Row
from exporters.evaluation.confusion import REJECTED, confusions
from exporters.evaluation.measures import Metrics
from exporters.inspection.findings import Finding, Inspection, line
from exporters.report import examples, plots, write_reports
from exporters.report.content import Content, Judgement
from exporters.report.page import page

HOSTILE = '<script>alert("$x_1$")</script> & "co"'
FALLEN = Fallen(operator="Erf", count=3, why="not on its list <b>")


def intents(labels: list[str], *, shift: float = 0.0) -> tuple[list[Row], list[Answer]]:
    """Forty texts of each label, some rejected, some taken for the next; and texts of none."""
    random = np.random.default_rng(5)
    rows, answers = [], []
    for i, label in enumerate([*labels, "oos"]):
        for n in range(40):
            odd = label == "oos"
            said = labels[(i + (n % 13 == 0)) % len(labels)]
            score = float(random.normal(-3 if odd else -8, 1.5)) + shift
            sure = float(random.uniform(0.2, 0.6) if odd else random.uniform(0.5, 1))
            rows.append(Row(f"text {n}", label))
            answers.append(Answer(said, sure, score, accepted=score < -5, p_value=0.5))
    return rows, answers


def lines(*, shift: float = 0.0) -> tuple[list[Row], list[Answer]]:
    """Lines of a machine, one in ten an anomaly."""
    random = np.random.default_rng(6)
    rows, answers = [], []
    for n in range(300):
        odd = n % 10 == 0
        p = float(random.uniform()) ** (6 if odd else 1)
        label = "anomaly" if p < 0.01 else "normal"
        rows.append(Row(f"line {n}", "anomaly" if odd else None))
        answers.append(Answer(label, 0.5, -float(np.log(p)) + shift, p_value=p))
    return rows, answers


def content(task: str, labels: list[str] | None = None, **fields: Any) -> Content:
    """A variant that was judged, and one that was left out."""
    names = labels or ["start", "stop", "fault"]
    rows, before = intents(names) if task == "intent" else lines()
    _, after = intents(names, shift=0.4) if task == "intent" else lines(shift=0.1)
    recipe = recipes.load(task)
    fp32: Metrics = recipe.measure(rows, before, share=0.01)
    report = {
        "provider": "cpu", "precision": "int8-dynamic", "verified": "silicon",
        "rows": len(rows), "fp32": fp32, "artifact": recipe.measure(rows, after, share=0.01),
        "lost_points": {"accuracy": 0.25}, "allowed_points": 0.5, "passed": True, "notes": [],
    }  # fmt: skip
    emulated = {**report, "provider": "qnn", "rows": 200, "passed": False, "verified": "emulated"}
    quality = {
        "held_out": {"rows": len(rows), "given": True},
        "fp32": fp32,
        "variants": {"cpu-int8": report, "qnn-a16w8": emulated},
        "cautions": [f"a note {HOSTILE}"],
    }
    return Content(
        manifest(task, **fields),
        "0" * 64,
        load_profile("generic-x86_64"),
        quality,
        [Judgement("cpu-int8", rows, before, after)],
        reference_bytes=90_000_000,
        inspection=inspection(),
    )


def inspection(labels: int = 3) -> Inspection:
    """What was found in examples: a line of one, a pair, and a label."""
    row, other = Row(HOSTILE, "start", line=3, file="a.jsonl"), Row("x", HOSTILE, line=9)
    counts = {f"{HOSTILE} {n}": {"train": 9 - n % 9, "held_out": 2} for n in range(labels)}
    found = [
        Finding("mislabelled", "odd lines", 40, [line(row) | {"sure": 0.9}], ["a"], "Mend them."),
        Finding("contradiction", "pairs", 1, [line(row) | line(other, "other_")], ["b"], "Choose."),
        Finding("unjudged", "labels", 1, [{"label": HOSTILE, "texts": 2}], ["c"], "Give more."),
    ]
    return Inspection("intent", "label", counts, found, [f"a gap {HOSTILE}"])


def manifest(task: str, **fields: Any) -> Manifest:
    found = Coverage(
        nodes=10,
        nodes_taken=7,
        operations=2_000_000,
        operations_taken=1_900_000,
        partitions=2,
        fallen=(FALLEN,),
    )
    none = Tolerance(score=0, confidence=0, verified="none")

    def file(role: Any, path: str, **more: Any) -> Artifact:
        size = 22_000_000
        return Artifact(
            role=role, variant="cpu-int8", path=path, size=size, sha256="1" * 64, **more
        )

    return Manifest(
        name="orders",
        version=3,
        task=task,
        profiles=("generic-x86_64",),
        base_model=BaseModelInfo(source=HOSTILE, sha256="2" * 64),
        max_tokens=128,
        artifacts=(
            file("graph", "cpu-int8/model.onnx", provider="cpu", coverage=found, **fields),
            file("tokenizer", "tokenizer.json"),
            file("parameters", "cpu-int8/parameters.json"),
            file("golden", "cpu-int8/golden.jsonl", tolerance=none),
        ),
        exporter="1",
        pins={"onnx": "1.2"},
    )


def search() -> dict[str, Any]:
    """An entry of tune.json."""
    trials = [
        {
            "name": f"recipe-{n}", "precision": "int8", "problem": None, "fits": n != 2,
            "front": n < 2, "lost_points": {"accuracy": lost}, "latency_ms": ms,
            "messages_per_s": 1000 / ms, "size_bytes": size,
        }
        for n, (ms, lost, size) in enumerate(
            [(2.5, 0.4, 22_000_000), (6.0, 0.0, 90_000_000), (7.0, 1.5, 33_000_000)]
        )
    ]  # fmt: skip
    trials.append({"name": "broken", "precision": "int4", "problem": "no such kernel",
                   "fits": False, "front": False})  # fmt: skip
    groups = [("ffn_down", 0.2, True), ("qkv", 0.01, False), ("embeddings", -0.001, False)]
    return {
        "provider": "cpu", "cpu": "a chip", "whole": False, "picked": "recipe-0",
        "why": f"it is the fastest of those that fit {HOSTILE}", "trials": trials,
        "sensitivity": [
            {"recipe": "static", "group": group, "nodes": 6, "points_with": 1.3,
             "points_without": 1.3 - adds, "error_with": 0.3, "error_without": 0.3 - adds,
             "excluded": excluded}
            for group, adds, excluded in groups
        ],
    }  # fmt: skip


class Page(HTMLParser):
    """What a page holds: tags, their ids, what it would fetch; every tag is closed."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self._look(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._look(attrs)

    def _look(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in {"src", "href", "xlink:href", "data", "srcset"}:
                self.fetched.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize("task", ["intent", "anomaly"])
def test_a_page_is_whole_and_needs_no_other_file(task: str) -> None:
    text = page(content(task), [search()])
    found = Page(text)
    assert found.open == []
    assert "script" not in found.tags
    assert all(one.startswith("#") for one in found.fetched), "parts of itself"
    assert "@import" not in text
    assert "url(http" not in text
    assert len(set(found.ids)) == len(found.ids) > 0
    used = {one[1:] for one in found.fetched} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert used == set(found.ids)
    assert found.tags.count("svg") == 7
    for part in ("7 of 10", "95.0% of 2 M", "not on its list <b>", "beyond the gate", HOSTILE):
        assert part in found.words, part


def test_what_examples_hold_is_a_table_with_lines_and_what_to_do() -> None:
    found = Page(examples.page(HOSTILE, inspection()))
    assert "script" not in found.tags
    for part in ("Odd lines: 40; the worst 1", "a.jsonl:3", "other place", "Mend them.",
                 f"a gap {HOSTILE}", "Lines by label"):  # fmt: skip
        assert part in found.words, part
    clean = Page(examples.page("x", Inspection("intent", "label", {"a": {"train": 1}}, [])))
    assert "Nothing to mend was found." in clean.words


@pytest.mark.parametrize(("labels", "named"), [(40, True), (41, False), (2000, False)])
def test_each_label_has_a_bar_and_a_name_where_there_is_room(labels: int, *, named: bool) -> None:
    plot = examples.counts(inspection(labels))
    assert ("script" in plot.svg) is named
    ET.fromstring(plot.svg)  # noqa: S314 -- our own
    assert len(plot.svg) < 60_000


def test_every_figure_is_well_formed_and_takes_the_pages_colours() -> None:
    text = page(content("intent", ["$a_1$ <&", "b"]), [search()])
    figures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(figures) == 7
    for figure in figures:
        ET.fromstring(figure)  # noqa: S314 -- our own
        assert "var(--ink)" in figure
        assert not re.search(r"#0[1-5]0[1-5]0[1-5]", figure)
    assert any(">$a_1$ &lt;&amp;</text>" in figure for figure in figures), "no formula"


def test_sensitivity_is_drawn_in_points_and_in_error() -> None:
    figure = plots.sensitivity(search()["sensitivity"], "static").svg
    for part in ("of 1.3 points lost", "of an error of 0.3", "ffn_down (6)*", ">qkv (6)<"):
        assert part in figure, part
    nothing = {"points_with": 0.0, "points_without": 0.0, "error_with": 0.1, "error_without": 0.2}
    long = {"group": "/encoder/layer.*/attention/query/MatMul", "nodes": 6, "excluded": False}
    assert "attention/query/MatMul" in plots.sensitivity([nothing | long], "lossless").svg


def test_the_same_input_gives_the_same_bytes() -> None:
    first = page(content("intent"), [search()])
    assert first == page(content("intent"), [search()])
    assert not re.search(r"20\d\d-\d\d-\d\d", first), "no date"


def test_nothing_is_drawn_of_a_search_that_was_not_made(tmp_path: Path) -> None:
    given = content("anomaly")
    write_reports(tmp_path, given)
    words = Page((tmp_path / "report.html").read_text()).words
    assert "Recipes tried" not in words
    assert "Not searched for cpu: export with --tune" in words
    (tmp_path / "tune.json").write_text(json.dumps({"bundle": "0", "searches": [search()]}))
    write_reports(tmp_path, given)
    words = Page((tmp_path / "report.html").read_text()).words
    assert "Not searched" not in words
    for part in ("Recipes tried for cpu", "Picked: recipe-0", "no such kernel", "cut short"):
        assert part in words


def test_the_front_is_over_float32_and_what_is_in_the_bundle() -> None:
    text = page(content("intent"), [])
    [figure] = re.findall(r"<svg[^>]*Quality against size.*?</svg>", text, flags=re.DOTALL)
    assert all(f">{name}</text>" in figure for name in ("float32", "cpu-int8"))
    assert "qnn-a16w8" not in figure, "it was left out"


def test_what_another_beats_in_both_is_not_on_the_front() -> None:
    weighed = {"float32": (90, 0.0), "small": (22, 0.4), "worse": (30, 0.5), "alike": (22, 0.4)}
    assert plots.unbeaten(weighed) == [(22, 0.4), (90, 0.0)]
    assert plots.unbeaten({"float32": (90, 0.0), "small": (22, 0.0)}) == [(22, 0.0)]


def test_a_search_that_measured_nothing_is_told_without_figures() -> None:
    entry = search()
    unmeasured = {"name": "own", "precision": "int8", "problem": None, "fits": False,
                  "front": False}  # fmt: skip
    cut = {**entry, "trials": [unmeasured], "sensitivity": []}
    assert page(content("intent"), [cut]).count("<svg") == 5


def test_coverage_is_kept_beside_the_bundle(tmp_path: Path) -> None:
    write_reports(tmp_path, content("intent", verified="static"))
    found = json.loads((tmp_path / "coverage.json").read_bytes())
    variant = found["variants"]["cpu-int8"]
    assert (found["bundle"], variant["verified"]) == ("0" * 64, "static")
    graph = variant["graphs"]["cpu-int8/model.onnx"]
    assert (graph["nodes"], graph["nodes_taken"], graph["operations_taken"]) == (10, 7, 1_900_000)
    assert graph["fallen"] == [FALLEN.model_dump()]
    assert variant["placement"] == {
        "min_coverage": 0,
        "cpu_fallback": True,
        "max_partitions": None,
    }


def test_confusions_count_rejection_as_an_answer_of_its_own() -> None:
    rows, answers = intents(["start", "stop"])
    found = confusions(rows, answers)
    assert sum(found.values()) == 120
    assert sum(n for (truth, _), n in found.items() if truth == "oos") == 40
    assert found["oos", REJECTED] > 20
    assert found["start", "stop"] > 0


def test_labels_by_the_hundred_still_make_a_figure() -> None:
    names = [f"intent number {n:03}" for n in range(120)]
    rows, answers = intents(names)
    plot = plots.confusion_matrix(confusions(rows, answers))
    assert "intent number" not in plot.svg, "no room for names"
    assert len(plot.svg) < 400_000


def test_one_kind_of_text_alone_is_no_fault() -> None:
    rows, answers = lines()
    normal = [i for i, row in enumerate(rows) if row.label is None]
    chosen = Judgement(
        "v",
        [rows[i] for i in normal],
        [answers[i] for i in normal],
        [Answer("normal", 0.5, 1.0, p_value=1.0) for _ in normal],
    )
    for plot in (plots.scores(chosen), plots.false_alarms(chosen, 0.01)):
        assert plot.svg.startswith("<svg")
