"""Two exports become one bundle, or are refused with what to do about it."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edgeslm.errors import EdgeSLMError
from edgeslm.ports import Request
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.cascade import read_parameters
from edgeslm.runtime.golden import parse_golden
from edgeslm.runtime.model import load_model
from edgeslm.runtime.profiles import detect_profile
from exporters import cli
from exporters.cascade import Order, make
from exporters.export import Job, export
from tests.exporters.conftest import WORDS, Stages, many_orders, write_lines

PROFILE = detect_profile().name


@dataclass(frozen=True)
class Made:
    """Exports to put together: of each `OUT`; and what the first was trained on."""

    first: Path
    second: Path
    data: Path
    fitted: Path


@pytest.fixture(scope="module")
def made(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("exports")
    rows = many_orders()
    data = write_lines(folder / "orders.jsonl", rows)
    fitted = write_lines(folder / "fitted.jsonl", [r for i, r in enumerate(rows) if i % 4])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESLM_CACHE", str(folder / "cache"))
        job = Job(
            task="intent",
            model=str(toy_model),
            data=data,
            profile=PROFILE,
            name="first",
            version=1,
            out=folder / "first",
            share=0.05,
            allow_drop=True,
            train="static",
        )
        export(job, Stages())
        second = replace(job, data=fitted, name="second", out=folder / "second", train="head")
        export(second, Stages())
    return Made(job.out, second.out, data, fitted)


def order(made: Made, out: Path, **more: Any) -> Order:
    plain = Order(
        first=made.first,
        second=made.second,
        data=made.data,
        lose=6.0,
        profile=PROFILE,
        name="both",
        version=3,
        out=out,
        allow_drop=True,
    )
    return replace(plain, **more)


def test_is_one_bundle_that_answers(made: Made, tmp_path: Path) -> None:
    stages = Stages()
    report = make(order(made, tmp_path / "out"), stages)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "bom.cdx.json", "bundle", "bundle.tar", "coverage.json", "quality.json", "report.html",
    ]  # fmt: skip
    bundle = open_bundle(out / "bundle")
    manifest = bundle.manifest
    assert report["bundle"] == bundle.hash
    assert "cascade" in manifest.requires
    assert (manifest.name, manifest.version, manifest.profiles) == ("both", 3, (PROFILE,))
    stages_of = {(a.role, a.stage) for a in manifest.artifacts}
    for stage in ("first", "second"):
        assert {("graph", stage), ("weights", stage), ("parameters", stage)} <= stages_of
    assert {("tokenizer", None), ("cascade", None), ("golden", None)} <= stages_of
    model = load_model(bundle.path)
    assert model.answer(Request("please stop the oven")).label == "stop"
    [variant] = manifest.variants()
    cases = parse_golden(bundle.of(variant).read("golden"))
    assert {case.expect.stage for case in cases} <= {"first", "second"}
    one = report["variants"][variant]
    assert one["handed_over"] == pytest.approx(one["hand_over"]["share"], abs=0.01)
    assert one["hand_over"]["texts"] == report["held_out"]["rows"]
    assert "judged on" in " ".join(report["cautions"])
    with tarfile.open(out / "bundle.tar") as tar:
        assert sorted(tar.getnames()) == sorted(
            ["manifest.json", *(a.path for a in manifest.artifacts)]
        )
    page = (out / "report.html").read_text()
    assert "second alone" in page
    assert "first: model.onnx" in page
    assert all(stages.steps[name] == stages.totals[name] for name in stages.totals)


def test_what_is_out_of_scope_shows_what_the_first_may_reject_for_good(
    made: Made, tmp_path: Path
) -> None:
    strange = [{"text": f"xylophone {i} zebra", "label": "oos"} for i in range(20)]
    rows = [json.loads(line) for line in made.data.read_text().splitlines()]
    data = write_lines(tmp_path / "with.jsonl", [*rows, *strange])
    report = make(order(made, tmp_path / "out", data=data), Stages())
    [(name, variant)] = report["variants"].items()
    found = variant["hand_over"]
    assert found["rejects_above"] is not None
    written = read_parameters(open_bundle(tmp_path / "out/bundle").of(name).read("cascade"))
    assert written.bounds._asdict() == {key: found[key] for key in written.bounds._asdict()}
    model = load_model(tmp_path / "out/bundle")
    answers = [model.answer(Request(row["text"])) for row in strange]
    kept = [answer for answer in answers if answer.stage == "first"]
    assert kept, "else the test says nothing"
    assert all(answer.accepted is False for answer in kept)


def test_what_is_lost_of_rejection_is_told(made: Made, tmp_path: Path) -> None:
    """Texts that only the first stage takes, and none of them to find the hand-over by."""
    first, second = (load_model(folder / "bundle") for folder in (made.first, made.second))
    words = [f"{one} {two}" for one in WORDS for two in WORDS]
    taken = [
        text
        for text in words
        if first.answer(Request(text)).accepted is True
        and second.answer(Request(text)).accepted is False
    ]
    assert taken, "else the test says nothing"
    rows = [json.loads(line) for line in made.data.read_text().splitlines()]
    inside = [row for row in rows if row["label"] != "oos"]
    data = write_lines(tmp_path / "inside.jsonl", inside)
    strange = [{"text": text, "label": "oos"} for text in taken]
    judged = write_lines(tmp_path / "judged.jsonl", [*inside, *strange])
    asked = order(made, tmp_path / "out", data=data, evaluation=judged, lose=50.0)
    report = make(asked, Stages())
    [variant] = report["variants"].values()
    assert variant["second"]["oos_recall"] == 100
    lost = variant["lost_points"]["oos_recall"]
    assert lost == pytest.approx(100 - variant["artifact"]["oos_recall"])
    assert lost > 50
    assert variant["hand_over"]["oos_taken_points"] is None
    [note] = variant["notes"]
    assert note in report["cautions"]
    assert f"of {len(taken)} texts out of scope" in note
    assert "points lost: oos recall" in (tmp_path / "out" / "report.html").read_text()


def test_uses_only_texts_that_neither_was_fitted_on(made: Made, tmp_path: Path) -> None:
    report = make(order(made, tmp_path / "out"), Stages())
    held_out = json.loads((made.first / "trained" / "trained.json").read_text())["held_out"]
    assert report["held_out"]["rows"] == len(held_out)


def test_the_same_exports_give_the_same_bytes(made: Made, tmp_path: Path) -> None:
    reports = [make(order(made, tmp_path / name), Stages()) for name in ("one", "other")]
    assert reports[0] == reports[1]
    tars = [(tmp_path / name / "bundle.tar").read_bytes() for name in ("one", "other")]
    assert tars[0] == tars[1]


def test_what_is_given_to_judge_by_is_judged(made: Made, tmp_path: Path) -> None:
    report = make(order(made, tmp_path / "out", evaluation=made.fitted), Stages())
    assert report["held_out"]["rows"] == len(made.fitted.read_text().splitlines())
    assert report["variants"]
    assert not any("judged on" in one for one in report["cautions"])


def _spoil(made: Made, folder: Path) -> Path:
    copy = folder / "spoilt"
    shutil.copytree(made.second, copy)
    graph = next((copy / "bundle").rglob("model.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1])
    return copy


def _strange(made: Made, folder: Path) -> Path:
    del made
    return write_lines(folder / "strange.jsonl", [{"text": "x", "label": "else"}])


REFUSED: dict[str, tuple[Callable[[Made, Path], dict[str, Any]], str, str]] = {
    "no export": (lambda _m, f: {"first": f / "none"}, "bundle.missing", "none"),
    "spoilt second": (lambda m, f: {"second": _spoil(m, f)}, "bundle.tampered", "model.onnx"),
    "another profile": (
        lambda _m, _f: {"profile": "raspberry-pi-4"}, "cascade.unfit", "--first {first}: made for",
    ),
    "what the head was fitted on": (
        lambda m, _f: {"data": m.fitted}, "cascade.unfit", "--second {second} was fitted on",
    ),
    "no text is new": (
        lambda _m, f: {
            "data": write_lines(f / "old.jsonl", [{"text": "never heard", "label": "start"}])
        },
        "cascade.unfit", "none is in scope and new",
    ),
    "a label that neither has": (
        lambda m, f: {"data": _strange(m, f)}, "data.invalid", "'else'",
    ),
    "too few": (lambda _m, _f: {"lose": 0.1}, "cascade.too_few", r"\.jsonl: .* at least 1000"),
    "a wrong name": (lambda _m, _f: {"name": "No"}, "export.identity", "--name"),
    "a folder of somebody's": (lambda _m, f: {"out": f}, "export.output", "is not of an earlier"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_and_leaves_nothing(case: str, made: Made, tmp_path: Path) -> None:
    more, code, said = REFUSED[case]
    (tmp_path / "mine").write_text("mine")
    said = said.format(first=made.first, second=made.second)
    with pytest.raises(EdgeSLMError, match=said) as caught:
        make(replace(order(made, tmp_path / "out"), **more(made, tmp_path)), Stages())
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*")), "no scratch is left"


def test_a_cascade_is_no_stage_of_another(made: Made, tmp_path: Path) -> None:
    make(order(made, tmp_path / "out"), Stages())
    with pytest.raises(EdgeSLMError, match="is a cascade itself"):
        make(order(made, tmp_path / "more", second=tmp_path / "out"), Stages())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--lose", "0"], "not a number of points"),
        (["--lose", "all"], "not a number of points"),
        (["--version", "0"], "not a whole number"),
        (["--supported-until", "soon"], "not a day"),
    ],
)
def test_the_command_line_says_what_is_wrong(
    more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ["--first", "a", "--second", "b", "--data", "c", "--profile", PROFILE]
    with pytest.raises(SystemExit) as caught:
        cli.main(["cascade", *plain, "--name", "n", "--version", "1", "--out", "o", *more])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_from_the_command_line(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = cli.main([
        "cascade", "--first", str(made.first), "--second", str(made.second), "--data",
        str(made.data), "--lose", "6", "--profile", PROFILE, "--name", "both", "--version", "1",
        "--out", str(tmp_path / "out"), "--allow-drop",
    ])  # fmt: skip
    assert status == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["task"] == "intent"
    assert "edgeslm-export: note:" in said.err
