"""`edgeslm-export evaluate`: what it says of bundles, and what it refuses."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import roc_auc_score

from edgeslm.ports import Request
from edgeslm.runtime.model import load_model
from edgeslm.runtime.profiles import detect_profile
from exporters import cli
from exporters.commands import evaluate as command
from exporters.data import read_rows
from exporters.evaluation import judge
from exporters.evaluation.confusion import confusions, worst
from exporters.evaluation.run import Job, evaluate
from exporters.export import Job as Export
from exporters.export import export
from exporters.quality import answer_all
from exporters.recipes import anomaly
from tests.exporters.conftest import Stages, without_stages, write_lines
from tests.exporters.test_report import Page
from tests.runtime import cascades

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def plant(n: int) -> list[dict[str, Any]]:
    """Lines of two machines, of which one says more; a few are anomalies."""
    rows: list[dict[str, Any]] = []
    for i in range(n):
        source = ["pump", "oven"][i % 2]
        rows.append({"text": f"temp {source} {60 + i % 7} C", "source": source, "label": "normal"})
        if i % 20 == 0:
            rows.append({"text": f"{source} broken noise", "source": source, "label": "anomaly"})
    return rows


@pytest.fixture(scope="module")
def made(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports of the toy: `lines`, `orders`, and `muddled`, which has the orders the wrong way."""
    folder = tmp_path_factory.mktemp("made")
    common: dict[str, Any] = {
        "model": str(toy_model), "profile": detect_profile().name, "version": 1,
        "allow_drop": True,
    }  # fmt: skip
    data = write_lines(folder / "lines.jsonl", plant(300))
    orders: list[dict[str, object]] = [
        {"text": f"{verb} {what}{tail}", "label": verb}
        for verb in ("start", "stop")
        for what in ("pump", "valve", "oven", "crane")
        for tail in ("", " now", " please", " the", " a")
    ]
    orders += [{"text": text, "label": "oos"} for text in ("weather joke", "joke is a joke")]
    requests = write_lines(folder / "orders.jsonl", orders)
    turned = {"start": "stop", "stop": "start", "oos": "oos"}
    wrong = [{**order, "label": turned[str(order["label"])]} for order in orders]
    muddled = write_lines(folder / "muddled.jsonl", wrong)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESLM_CACHE", str(folder / "cache"))
        stage = Stages()
        export(
            Export(task="anomaly", data=data, name="lines", out=folder / "lines", share=0.05,
                   **common), stage)  # fmt: skip
        for name, rows in (("orders", requests), ("muddled", muddled)):
            export(
                Export(task="intent", data=rows, name=name, out=folder / name, share=0.05,
                       evaluation=rows, **common), stage)  # fmt: skip
    return folder


def test_an_evaluation_says_what_the_export_said(
    made: Path, tmp_path: Path, stages: Stages
) -> None:
    """Of the same rows: both come from the same code."""
    job = Job(made / "orders", made / "orders.jsonl", tmp_path / "out")
    report = evaluate(job, stages)
    quality = json.loads((made / "orders" / "quality.json").read_bytes())
    (variant,) = quality["variants"].values()
    assert {k: v["value"] for k, v in report["metrics"].items()} == variant["artifact"]
    assert report["bundle"]["hash"] == quality["bundle"]
    assert json.loads((tmp_path / "out" / "evaluation.json").read_bytes()) == report
    assert stages.steps[f"judging {made / 'orders'}"] == 42


def test_classes_sources_and_mistakes_add_up(made: Path, tmp_path: Path, stages: Stages) -> None:
    report = evaluate(Job(made / "lines" / "bundle", made / "lines.jsonl", tmp_path / "o"), stages)
    metrics, classes, sources = report["metrics"], report["classes"], report["sources"]
    assert classes["anomaly"]["recall"]["value"] == metrics["recall"]["value"] == 100
    assert classes["anomaly"]["precision"]["value"] == metrics["precision"]["value"]
    assert classes["anomaly"]["f1"] == metrics["f1"]
    assert metrics["f1"]["method"] == "f_star"
    assert sources.keys() == {"oven", "pump"}
    assert sum(one["rows"] for one in sources.values()) == report["data"]["rows"] == 315
    assert sources["oven"]["known"]
    assert "auroc" not in sources["oven"], "its lines are all normal"
    parts = (metrics, *classes.values(), *sources.values())
    every = [one for part in parts for one in part.values() if isinstance(one, dict)]
    assert len(every) > 20
    for one in every:
        if "rows" in one and one["value"] is not None:
            assert one["low"] <= one["value"] <= one["high"]
    missed = sum(pair["times"] for pair in report["confusions"])
    flagged = report["promise"]["flagged"]
    assert missed == flagged, "every anomaly is found"
    assert report["promise"]["verdict"] == "under", "they are the rows that it learnt"
    assert [one["p_value"] for one in report["calibration"]] == sorted(
        one["p_value"] for one in report["calibration"]
    )


def test_a_broken_promise_is_told(made: Path, tmp_path: Path, stages: Stages) -> None:
    strange: list[dict[str, object]] = [
        {"text": f"valve closed {i} bar", "source": "pump"} for i in range(40)
    ]
    data = write_lines(tmp_path / "new.jsonl", strange)
    report = evaluate(Job(made / "lines", data, tmp_path / "out"), stages)
    assert report["promise"]["verdict"] == "over"
    assert any("flags 100 % of 40 normal rows and promises 5 %" in c for c in report["cautions"])
    assert any("only false alarms can be judged" in c for c in report["cautions"])
    assert report["metrics"]["auroc"] == {"value": None, "rows": 40}
    words = Page((tmp_path / "out" / "evaluation.html").read_text()).words
    assert "not kept: more are flagged than chance explains" in words
    assert "1, 2, 3, 4, 5" in words, "the first lines of the most frequent mistake"


def test_a_cascade_is_judged_by_what_its_stages_have_in_common(
    tmp_path: Path, stages: Stages
) -> None:
    """Their scores have no common scale, and their p-values have."""
    both = cascades.write_cascade(tmp_path / "both")
    model = load_model(both)
    answers = [model.answer(Request(text)) for text in cascades.TEXTS]
    strange = [i % 3 == 0 for i in range(len(answers))]
    rows = [
        {"text": text, "label": "oos" if odd else answer.label}
        for text, answer, odd in zip(cascades.TEXTS, answers, strange, strict=True)
    ]
    data = write_lines(tmp_path / "rows.jsonl", rows)
    report = evaluate(Job(both, data, tmp_path / "out", against=both), stages)
    by_p = roc_auc_score(strange, [-(answer.p_value or 0.0) for answer in answers])
    assert abs(by_p - roc_auc_score(strange, [answer.score for answer in answers])) > 0.01
    assert report["metrics"]["oos_auroc"]["value"] == pytest.approx(by_p, abs=1e-4)
    handed = cascades.stages(answers)["second"] / len(answers)
    assert report["bundle"]["handed_over"] == pytest.approx(handed, abs=1e-4)
    assert report["against"]["comparison"]["verdicts_differ"] == 0
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert f"answers {handed:.1%} of the rows" in page
    assert "% of its kind" not in page, "no plot of scores that cannot be compared"


def test_two_bundles_are_compared_on_the_same_rows(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(made / "orders"), str(made / "orders.jsonl")]
    out = tmp_path / "out"
    assert cli.main([*words, "--against", str(made / "orders"), "--out", str(out)]) == 0
    said = json.loads(capsys.readouterr().out)
    found = said["against"]["comparison"]
    assert found["primary"] == "accuracy"
    assert found["verdicts_differ"] == 0
    assert found["metrics"]["accuracy"]["method"] == "mcnemar"
    assert "oos_auroc" not in found["metrics"]
    assert any("oos auroc: the two are not compared, since 2 rows" in c for c in said["cautions"])
    assert found["metrics"]["macro_f1"]["method"] == "paired"
    assert all(one["value"] == 0 and one["p"] == 1 for one in found["metrics"].values())
    assert "classes" not in said, "too long for a line"
    assert json.loads((out / "evaluation.json").read_bytes())["against"]["classes"]
    text = (out / "evaluation.html").read_text()
    assert "orders 1 (first)" in text
    assert "McNemar 1947" in text


@pytest.mark.parametrize("turned", [False, True])
def test_the_better_of_two_bundles_is_told(
    made: Path, tmp_path: Path, stages: Stages, *, turned: bool
) -> None:
    """The difference is that of the first named, minus that of the one it is held against."""
    names = ["muddled", "orders"] if turned else ["orders", "muddled"]
    one, other = (made / name for name in names)
    report = evaluate(Job(one, made / "orders.jsonl", tmp_path / "out", other), stages)
    found = report["against"]["comparison"]
    sign = -1 if turned else 1
    for name in ("accuracy", "macro_f1"):
        first, second = report["metrics"][name], report["against"]["metrics"][name]
        difference = found["metrics"][name]
        assert sign * (first["value"] - second["value"]) > 90
        assert difference["value"] == pytest.approx(first["value"] - second["value"])
        assert min(sign * difference["low"], sign * difference["high"]) > 50
        assert difference["p"] < 0.001
    assert found["verdicts_differ"] >= 40


def test_each_source_has_intervals_up_to_a_bound(
    made: Path, tmp_path: Path, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "RESAMPLED", 2)
    shifts = ["late", *["early"] * 3, *["night"] * 2]
    rows = [json.loads(line) for line in (made / "orders.jsonl").read_text().splitlines()]
    rows = [{**row, "source": shifts[i % len(shifts)]} for i, row in enumerate(rows)]
    # Of rows that are all right nothing but 100 can be resampled.
    rows += [{"text": "start pump", "label": "stop", "source": source} for source in set(shifts)]
    data = write_lines(tmp_path / "shifts.jsonl", rows)
    report = evaluate(Job(made / "orders", data, tmp_path / "out"), stages)
    found = report["sources"]
    for name in ("accuracy", "macro_f1", "calibration_error"):
        for source in ("early", "night"):
            assert found[source][name]["low"] < found[source][name]["high"], (source, name)
    assert "low" in found["late"]["accuracy"]
    assert "low" not in found["late"]["macro_f1"]
    (told,) = [one for one in report["cautions"] if "most rows" in one]
    assert told.startswith("1 sources, all but the 2 with most rows, have no interval of macro f1")
    assert stages.steps["resampling sources"] == 3


@pytest.mark.parametrize("name", ["lines", "orders"])
def test_a_page_is_whole_and_the_same_each_time(
    made: Path, tmp_path: Path, stages: Stages, name: str
) -> None:
    pages = []
    for out in (tmp_path / "1", tmp_path / "2"):
        evaluate(Job(made / name, made / f"{name}.jsonl", out, made / name), stages)
        pages.append((out / "evaluation.html").read_bytes())
        assert sorted(file.name for file in out.iterdir()) == ["evaluation.html", "evaluation.json"]
    assert pages[0] == pages[1]
    assert len({(tmp_path / n / "evaluation.json").read_bytes() for n in "12"}) == 1
    found = Page(pages[0].decode())
    assert found.open == []
    assert "script" not in found.tags
    assert all(one.startswith("#") for one in found.fetched), "parts of itself"
    assert len(set(found.ids)) == len(found.ids)
    for part in ("Is the promise kept?", "By class", "Wilson 1927"):
        assert part in found.words, part
    assert ("By source" in found.words) == (name == "lines")


Change = Callable[[Path, Path], dict[str, Any]]
BAD: list[tuple[str, Change, int, str]] = [
    ("no bundle", lambda _, tmp: {"bundle": tmp}, 65, "[bundle.missing]"),
    ("no data", lambda _, tmp: {"data": tmp / "none"}, 65, "[data.invalid]"),
    ("data is no examples", lambda _, tmp: {"data": lines(tmp, "{")}, 65, "line 1: not JSON"),
    ("no label", lambda _, tmp: {"data": lines(tmp, '{"text": "a"}')}, 65, "label: no line has"),
    (
        "a label that was not learnt",
        lambda _, tmp: {"data": lines(tmp, '{"text": "a", "label": "START"}')},
        65,
        "line 1: label: not in the training data: 'START'",
    ),
    (
        "nothing in scope",
        lambda _, tmp: {"data": lines(tmp, '{"text": "a", "label": "oos"}')},
        65,
        "nothing but 'oos'",
    ),
    ("another task", lambda made, _: {"--against": made / "lines"}, 65, "[evaluate.other_task]"),
    ("no such variant", lambda *_: {"--variant": "abacus"}, 65, "abacus"),
    (
        "the output is an export",
        lambda made, _: {"--out": made / "orders"},
        65,
        "would hold evaluation.json",
    ),
    ("the output is a folder of others", lambda made, _: {"--out": made}, 65, "[export.output]"),
    ("a damaged bundle", lambda made, tmp: {"bundle": damaged(made, tmp)}, 65, "bundle.tampered"),
]  # fmt: skip


def lines(folder: Path, *texts: str) -> Path:
    (folder / "bad.jsonl").write_text("\n".join(texts))
    return folder / "bad.jsonl"


def damaged(made: Path, folder: Path) -> Path:
    shutil.copytree(made / "orders" / "bundle", folder / "copy")
    (parameters,) = (folder / "copy").glob("*/parameters.json")
    parameters.write_bytes(parameters.read_bytes()[:-1])
    return folder / "copy"


@pytest.mark.parametrize("bad", BAD, ids=[one[0] for one in BAD])
def test_a_refusal_is_one_line_and_leaves_nothing(
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    bad: tuple[str, Change, int, str],
) -> None:
    _, change, status, what = bad
    given: dict[str, Any] = {
        "bundle": made / "orders", "data": made / "orders.jsonl", "--out": tmp_path / "out",
        **change(made, tmp_path),
    }  # fmt: skip
    words = ["evaluate", str(given.pop("bundle")), str(given.pop("data"))]
    assert cli.main([*words, *(str(word) for pair in given.items() for word in pair)]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert what in err
    assert without_stages(err).count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_mistakes_name_the_lines_where_they_are(made: Path) -> None:
    from edgeslm.runtime.model import load_model  # noqa: PLC0415

    rows = read_rows(made / "lines.jsonl")
    model = load_model(made / "lines" / "bundle", golden=False)
    answers = answer_all(model, rows, lambda _: None)
    other = [row.label == "anomaly" for row in rows]
    swapped = [row if is_bad else row.__class__(row.text, "anomaly", row.source, line=row.line)
               for row, is_bad in zip(rows, other, strict=True)]  # fmt: skip
    found = worst(swapped, answers, pairs=1)
    counts = confusions(swapped, answers)
    assert found[0].times == counts["anomaly", "normal"] > 200
    assert found[0].lines[:3] == [1, 3, 4], "line 2 is an anomaly, and found"
    assert anomaly.measure(swapped, answers, share=0.05)["normal"] == 0


def test_help_is_quick() -> None:
    """It imports nothing that takes long, whatever commands and tasks there are."""
    code = (
        "import sys\nfrom exporters.cli import _parser\n_parser().format_help()\n"
        "slow = {'torch', 'sklearn', 'scipy', 'transformers', 'onnxruntime', 'matplotlib'}\n"
        "print(*sorted(slow & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout == "\n"
    assert command.HELP
