"""`edgeslm-export data`, and what an export says of its examples before it learns from them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.runtime.profiles import detect_profile
from exporters import cli
from exporters.export import Job, export
from tests.exporters.conftest import Stages, without_stages, write_lines

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def odd(orders: Path) -> Path:
    """Orders of which two contradict and one is under the wrong label."""
    rows = [json.loads(text) for text in orders.read_text().splitlines()]
    rows.append({"text": "oven broken noise please the", "label": "start"})
    rows.append({"text": "start pump now the", "label": "stop"})
    rows.append({"text": "stop pump " * 40, "label": "stop"})
    return write_lines(orders, rows)


def test_examples_are_looked_through_with_a_model(
    odd: Path, toy_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report on standard output, its sentences on standard error, all of it in the folder."""
    out = tmp_path / "out"
    argv = ["data", str(odd), "--model", str(toy_model), "--max-tokens", "16", "--out", str(out)]
    assert cli.main(argv) == 0
    said, err = capsys.readouterr()
    report = json.loads(said)
    said_then = without_stages(err).splitlines()
    assert said_then == [f"edgeslm-export: note: {one}" for one in report.pop("cautions")]
    assert report == json.loads((out / "data.json").read_bytes())
    found = {finding["kind"]: finding for finding in report["findings"]}
    assert [one["other_line"] for one in found["contradiction"]["worst"]] == [76, 77]
    suspected = found["mislabelled"]["worst"]
    assert all(one["looks_like"] != one["label"] for one in suspected)
    assert all(0 < one["sure"] <= 1 for one in suspected)
    [cut] = found["cut"]["worst"]
    assert (cut["line"], cut["characters"]) == (78, 400)
    assert "orders.jsonl:76" in (out / "data.html").read_text()
    assert cli.main(argv) == 0, "an earlier report gives way"


def test_an_export_tells_of_its_examples_before_it_compiles(
    odd: Path, toy_model: Path, tmp_path: Path, stages: Stages
) -> None:
    """And leaves the report beside the bundle, never in it."""
    out = tmp_path / "out"
    profile = detect_profile().name
    job = Job("intent", str(toy_model), odd, profile, "toy", 1, out, 0.05, allow_drop=True)
    now: list[str] = []
    report = export(job, stages, now.append)
    found = json.loads((out / "data.json").read_bytes())
    told = [finding["caution"] for finding in found["findings"]]
    assert now == told == report["cautions"][: len(told)]
    assert {"contradiction", "mislabelled"} <= {finding["kind"] for finding in found["findings"]}
    stage = list(stages.totals)
    assert stage.index("judging fp32") < stage.index("fitting on the quantised encoder")
    assert "Lines by label" in (out / "report.html").read_text()
    assert not list((out / "bundle").rglob("data*"))
    argv = ["data", str(odd), "--out", str(out)]
    assert cli.main(argv) == 65, "an export does not give way to a report"
    assert (out / "bundle" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("labels", "task"),
    [((None, "normal"), "anomaly"), (("x", "y"), "intent"), (("normal", "x"), "intent")],
)
def test_labels_say_what_examples_are_for(
    labels: tuple[str, ...],
    task: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows: list[dict[str, object]] = [
        {"text": f"text {n}", "label": labels[n % 2]} for n in range(400)
    ]
    assert cli.main(["data", str(write_lines(tmp_path / "a.jsonl", rows))]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == task


def test_what_an_export_refuses_is_refused_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_lines(tmp_path / "a.jsonl", [{"text": "a", "label": "x"}])
    assert cli.main(["data", str(data)]) == 65
    assert "1 label besides 'oos'" in capsys.readouterr().err
    lines = write_lines(tmp_path / "b.jsonl", [{"text": "a"}])
    assert cli.main(["data", str(lines)]) == 65
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "lines" in said
    assert cli.main(["data", str(lines), "--for", "intent"]) == 65
    assert (
        "label: no line has one, and intents are told apart by it. Give each"
        in capsys.readouterr().err
    )
    few = write_lines(
        tmp_path / "c.jsonl", [{"text": f"a {i}", "label": "xy"[i % 2]} for i in range(40)]
    )
    assert cli.main(["data", str(few), "--share", "0.01"]) == 65
    assert "c.jsonl: a reject share of 0.01 needs at least 99 texts" in capsys.readouterr().err


def test_examples_that_only_few_takes_are_looked_through_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fewer than the usual share asks of a head: an export with its defaults refuses them."""
    few = [{"text": f"a {i}", "label": "xy"[i % 2]} for i in range(16)]
    out = tmp_path / "out"
    data = write_lines(tmp_path / "a.jsonl", few)
    assert cli.main(["data", str(data), "--out", str(out)]) == 0
    [note] = json.loads((out / "data.json").read_bytes())["notes"][:1]
    assert note.startswith("an export told neither --reject-share nor --train few would refuse")
    assert "a.jsonl: a reject share of 0.05 needs at least 19 texts" in note
    assert note in capsys.readouterr().err
