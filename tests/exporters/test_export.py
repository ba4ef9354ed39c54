"""The pipeline, end to end on a toy encoder: what it makes, what it refuses, what it leaves."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeslm.core.overlay import Lesson
from edgeslm.errors import RejectedError
from edgeslm.ports import Request
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.golden import parse_golden
from edgeslm.runtime.model import load_model
from edgeslm.runtime.profiles import detect_profile
from exporters.data import DataError
from exporters.export import Job, export
from exporters.folders import OutputError
from exporters.quality import QualityError
from exporters.quantize import dynamic_int8, static_int8
from exporters.sources.base import Encoder, TooLongError, read_encoder
from exporters.targets import NoTargetError
from tests.exporters.conftest import Stages, write_lines

pytestmark = pytest.mark.usefixtures("own_cache")
_HERE = detect_profile().cpu
assert _HERE is not None
PRECISION = _HERE.precisions[0]  # of this machine's kind
VARIANT = f"cpu-{PRECISION}"


@pytest.fixture
def job(toy_model: Path, orders: Path, tmp_path: Path) -> Job:
    return Job(
        task="intent",
        model=str(toy_model),
        data=orders,
        profile=detect_profile().name,
        name="toy",
        version=3,
        out=tmp_path / "made" / "export",
        share=0.05,
        allow_drop=True,  # the toy's random layers lose more to int8 than a trained model's
    )


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_export_is_a_bundle_that_answers(job: Job, stages: Stages) -> None:
    report = export(job, stages)
    bundle = open_bundle(job.out / "bundle")
    manifest = bundle.manifest
    assert report["bundle"] == bundle.hash
    assert (manifest.name, manifest.version, manifest.task) == ("toy", 3, "intent")
    assert manifest.profiles == (job.profile,)
    assert manifest.base_model.source == "toy.onnx"
    assert [a.role for a in manifest.artifacts] == [
        "graph", "weights", "costs", "parameters", "golden", "tokenizer",
    ]  # fmt: skip
    assert manifest.variants() == (VARIANT,)
    files = bundle.of(VARIANT)
    [graph], [golden] = files.artifacts("graph"), files.artifacts("golden")
    assert golden.tolerance is not None
    assert golden.tolerance.verified == "measured"
    assert graph.verified == "silicon"
    assert graph.coverage is not None
    assert graph.coverage.nodes == graph.coverage.nodes_taken > 0
    assert graph.coverage.operations == graph.coverage.operations_taken > 0
    assert graph.precision == PRECISION
    assert graph.batch_invariant == (PRECISION == "int8-static")
    assert [output.name for output in graph.outputs] == ["logits"]
    assert graph.outputs[0].shape == ("batch", 3)
    model = load_model(job.out / "bundle")
    assert model.answer(Request("please stop the pump")).label == "stop"


def test_every_stage_reaches_its_total(job: Job, stages: Stages) -> None:
    export(job, stages)
    assert len(stages.totals) >= 6
    for name, total in stages.totals.items():
        assert total is None or stages.steps[name] == total, name


def test_reports_name_the_bundle_they_are_of(job: Job, stages: Stages) -> None:
    export(job, stages)
    quality, measured = (
        json.loads((job.out / f"{name}.json").read_text()) for name in ("quality", "measurements")
    )
    assert quality["bundle"] == measured["bundle"] == open_bundle(job.out / "bundle").hash
    [variant] = quality["variants"].values()
    assert quality["fp32"] == variant["fp32"]
    assert variant["fp32"].keys() == variant["artifact"].keys() >= {"accuracy", "oos_auroc"}
    assert variant["lost_points"]["accuracy"] == pytest.approx(
        variant["fp32"]["accuracy"] - variant["artifact"]["accuracy"], abs=1e-3
    )
    assert measured["variants"][VARIANT]["median_ms"]["artifact"] > 0
    covered = json.loads((job.out / "coverage.json").read_text())
    assert covered["bundle"] == quality["bundle"]
    assert covered["variants"].keys() == {VARIANT}
    assert quality["bundle"] in (job.out / "report.html").read_text()


def test_the_tar_holds_the_bundle_and_nothing_of_this_machine(job: Job, stages: Stages) -> None:
    export(job, stages)
    with tarfile.open(job.out / "bundle.tar") as tar:
        members = tar.getmembers()
        read = {m.name: f.read() for m in members if (f := tar.extractfile(m))}
    assert read == bytes_of(job.out / "bundle")
    assert members[0].name == "manifest.json"
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
        assert member.mode == 0o644


def test_golden_cases_are_enough_and_on_both_sides(job: Job, stages: Stages) -> None:
    export(job, stages)
    cases = parse_golden((job.out / "bundle" / VARIANT / "golden.jsonl").read_bytes())
    assert 32 <= len(cases) <= 64
    assert {case.expect.label for case in cases} == {"start", "stop", "fault"}
    assert {case.expect.accepted for case in cases} == {True, False}
    assert sum(case.near_threshold for case in cases) < len(cases) / 2


def test_the_same_data_pins_and_seed_give_the_same_bytes(
    job: Job, stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(job, stages)
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "another"))
    again = dataclasses.replace(job, out=tmp_path / "again")
    export(again, stages)
    assert bytes_of(job.out / "bundle") == bytes_of(again.out / "bundle")
    assert (job.out / "bundle.tar").read_bytes() == (again.out / "bundle.tar").read_bytes()
    assert (job.out / "quality.json").read_bytes() == (again.out / "quality.json").read_bytes()
    other = dataclasses.replace(job, out=tmp_path / "other", seed=1)
    assert export(other, stages)["bundle"] != open_bundle(job.out / "bundle").hash


def test_a_second_export_takes_the_place_of_the_first(job: Job, stages: Stages) -> None:
    first = export(job, stages)["bundle"]
    second = export(dataclasses.replace(job, version=4), stages)["bundle"]
    assert first != second == open_bundle(job.out / "bundle").hash
    assert [path.name for path in job.out.parent.iterdir()] == ["export"]


def test_the_encoder_is_exported_once(job: Job, stages: Stages, own_cache: Path) -> None:
    export(job, stages)
    (kept,) = (own_cache / "encoders").iterdir()
    before = kept.stat().st_mtime_ns
    export(dataclasses.replace(job, seed=1), stages)
    assert [path.stat().st_mtime_ns for path in (own_cache / "encoders").iterdir()] == [before]


def profile_file(tmp_path: Path, **change: Any) -> str:
    """Write this machine's profile, changed."""
    profile = detect_profile().model_dump(mode="json", exclude_none=True) | change
    lines = []
    for key, value in profile.items():
        if not isinstance(value, dict):
            lines.append(f"{key} = {json.dumps(value)}")
    for key, value in profile.items():
        if isinstance(value, dict):
            pairs = (f"{k} = {inline(v)}" for k, v in value.items())
            lines.append(f"{key} = {{ {', '.join(pairs)} }}")
    file = tmp_path / "device.toml"
    file.write_text("\n".join(lines))
    return str(file)


def inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {inline(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


@pytest.fixture
def ruined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quantiser that loses what tells words apart."""

    def ruin(
        quantise: Callable[..., onnx.ModelProto],
        encoder: onnx.ModelProto,
        *args: Any,
        **recipe: Any,
    ) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(encoder)
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if tensor.name == "table":
                tensor.CopyFrom(numpy_helper.from_array(np.ones_like(values), "table"))
        return quantise(model, *args, **recipe)

    for quantise in (dynamic_int8, static_int8):
        name = f"exporters.cpu_recipe.{quantise.__name__}"
        monkeypatch.setattr(name, functools.partial(ruin, quantise))


@pytest.mark.usefixtures("ruined")
def test_a_bundle_that_lost_too_much_fails_with_the_numbers(job: Job, stages: Stages) -> None:
    strict = dataclasses.replace(job, allow_drop=False)
    with pytest.raises(QualityError, match=r"accuracy \d+\.\d+ \(\d+\.\d+ -> \d+\.\d+\)") as caught:
        export(strict, stages)
    assert "0.5 points allowed" in str(caught.value)
    assert caught.value.lost["accuracy"] > 20
    assert not job.out.exists()
    assert list(job.out.parent.iterdir()) == []


def test_of_few_rows_more_are_asked_for() -> None:
    def said(lost: Mapping[str, float], **counts: int) -> str:
        error = QualityError(lost, limit=0.5, rows=1000, fp32={**counts}, artifact={})
        return str(error).partition("points allowed: ")[2]

    assert said({"accuracy": 1.7}, in_scope=60, out_of_scope=940) == (
        "accuracy 1.70. One of 60 texts in scope is 1.7 points of accuracy: give more with --eval, "
        "raise accuracy_drop_max in the profile, or pass --allow-drop."
    )
    assert said({"accuracy": 1.7}, in_scope=900, out_of_scope=100).startswith(
        "accuracy 1.70. Raise accuracy_drop_max"
    )
    assert said({"accuracy": 0.1, "oos_auroc": 1.0}, in_scope=900, out_of_scope=100).startswith(
        "oos_auroc 1.00. One of 100 texts out of scope is up to 1 points of oos_auroc: give more"
    )
    assert said({"auroc": 5.0}, normal=990, anomalies=10).startswith(
        "auroc 5.00. One of 10 anomalies is up to 10 points of auroc: give more"
    )
    assert said({"agreement": 0.6}).startswith("agreement 0.60. Raise accuracy_drop_max")


def test_a_refusal_names_the_setting_that_said_so() -> None:
    error = QualityError(
        {"agreement": 3.0}, limit=2.0, rows=40, fp32={}, artifact={},
        setting="emulated_drop_max", more="raise emulated_sample",
    )  # fmt: skip
    assert "One of 40 held-out rows is 2.5 points of agreement: raise emulated_sample" in str(error)
    assert "raise emulated_drop_max in the profile" in str(error)


@pytest.mark.usefixtures("ruined")
def test_the_user_may_allow_the_drop_and_the_report_says_so(job: Job, stages: Stages) -> None:
    [variant] = export(job, stages)["variants"].values()
    assert variant["passed"] is False


@pytest.mark.usefixtures("ruined")
def test_the_profile_says_how_much_may_be_lost(job: Job, stages: Stages, tmp_path: Path) -> None:
    lax = profile_file(tmp_path, name="lax", gate={"accuracy_drop_max": 100.0})
    report = export(dataclasses.replace(job, allow_drop=False, profile=lax), stages)
    [variant] = report["variants"].values()
    assert variant["passed"] is True
    assert variant["allowed_points"] == 100.0


def test_without_vnni_weights_have_seven_bits(job: Job, stages: Stages, tmp_path: Path) -> None:
    wide = {}
    for profile in ("generic-x86_64", "generic-x86_64-avx2"):
        out = tmp_path / profile
        try:
            export(dataclasses.replace(job, profile=profile, out=out), stages)
        except RejectedError as err:
            pytest.skip(str(err))
        [file] = (out / "bundle").glob("cpu-*/model.onnx")
        graph = onnx.load(file).graph
        weights = [numpy_helper.to_array(t) for t in graph.initializer]
        wide[profile] = max(abs(w.astype(int)).max() for w in weights if w.dtype == np.int8)
    assert wide["generic-x86_64"] > 64 >= wide["generic-x86_64-avx2"]


def test_an_anomaly_export_judges_without_labels(job: Job, stages: Stages, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"text": f"temp pump {20 + i % 7} C", "source": f"pump {i % 2}"} for i in range(200)
    ]
    data = write_lines(tmp_path / "lines.jsonl", rows)
    report = export(dataclasses.replace(job, task="anomaly", data=data, share=0.02), stages)
    assert report["held_out"] == {"rows": 40, "given": False}
    [variant] = report["variants"].values()
    assert variant["lost_points"].keys() == {"agreement", "false_alarm_rate"}
    assert (
        load_model(job.out / "bundle").answer(Request("smoke in pump 3", source="pump 1")).label
        == "anomaly"
    )


def test_a_bundle_with_windows_replays_in_order_and_answers_alike_without_a_cache(
    job: Job, stages: Stages, tmp_path: Path
) -> None:
    rows: list[dict[str, object]] = [
        {"text": f"temp pump {20 + 5 * math.sin(i / 9):.2f} C", "source": "p", "time": i}
        for i in range(400)
    ]
    data = write_lines(tmp_path / "lines.jsonl", rows)
    options = {"windows": "5,12"}
    asked = dataclasses.replace(job, task="anomaly", data=data, share=0.02, options=options)
    export(asked, stages)
    bundle = job.out / "bundle"
    assert open_bundle(bundle).manifest.requires == ("anomaly-masks-2", "anomaly-memory")
    lines = [Request(str(row["text"]), "p", time=float(i)) for i, row in enumerate(rows[:60])]
    said = []
    for entries in (4096, 0):
        model = load_model(bundle, cache_entries=entries)
        said.append(model.answer_all(lines, model.memory()))
    assert said[0] == said[1]
    assert ["window" in answer.channels for answer in said[0]] == [False] * 4 + [True] * 56  # type: ignore[union-attr] # no errors
    lock = json.loads((job.out / "lock.json").read_bytes())
    assert lock["options"] == options


def test_labelled_anomalies_judge_and_do_not_teach(
    job: Job, stages: Stages, tmp_path: Path
) -> None:
    rows: list[dict[str, object]] = [
        {"text": f"temp pump {20 + i % 7} C", "label": "normal"} for i in range(200)
    ]
    rows[50:50] = [{"text": "smoke in pump 21", "label": "anomaly"}] * 5
    data = write_lines(tmp_path / "lines.jsonl", rows)
    report = export(dataclasses.replace(job, task="anomaly", data=data, share=0.02), stages)
    [variant] = report["variants"].values()
    assert variant["artifact"]["anomalies"] == 5
    assert variant["artifact"]["recall"] == 100.0
    assert variant["lost_points"].keys() == {"auroc"}

    # The device knows them as faults, and nothing else, whatever the model makes an alarm of.
    model = load_model(job.out / "bundle")
    assert [fault.text for fault in model.faults] == ["smoke in pump 21"]
    assert "known-faults" in model.bundle.manifest.requires
    strange = [c.request.text for c in model.replay_golden() if c.expect.label == "anomaly"]
    assert len(strange) > 5
    known = {x for x in strange if model.silences(Lesson(1, "normal", x, source="", signed=True))}
    assert known == {"smoke in pump 21"}
    assert model.silences(Lesson(1, "normal", "smoke in pump ¤", whole=False))


def refused(job: Job, **change: Any) -> Job:
    return dataclasses.replace(job, **change)


def test_an_output_folder_of_other_things_is_left_alone(job: Job, stages: Stages) -> None:
    job.out.mkdir(parents=True)
    (job.out / "thesis.doc").write_text("years of work")
    with pytest.raises(OutputError, match="is not of an earlier run"):
        export(job, stages)
    assert (job.out / "thesis.doc").read_text() == "years of work"


def test_an_output_folder_that_cannot_be_written_is_refused(job: Job, stages: Stages) -> None:
    job.out.parent.parent.mkdir(exist_ok=True)
    job.out.parent.write_text("a file in the way")
    with pytest.raises(OutputError, match="choose another --out"):
        export(job, stages)


def test_more_tokens_than_the_model_takes_are_refused(
    job: Job, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(folder: Path) -> Encoder:
        return dataclasses.replace(read_encoder(folder), max_positions=64)

    monkeypatch.setattr("exporters.export.read_encoder", short)
    with pytest.raises(TooLongError, match="4 to 64"):
        export(refused(job, max_tokens=65), stages)
    export(refused(job, max_tokens=32), stages)
    assert open_bundle(job.out / "bundle").manifest.max_tokens == 32
    export(job, stages)  # the profile asks for 128: cut to what there is
    assert open_bundle(job.out / "bundle").manifest.max_tokens == 64


def test_a_provider_without_a_target_is_refused(job: Job, stages: Stages, tmp_path: Path) -> None:
    profile = profile_file(tmp_path, name="odd", providers=["abacus"])
    with pytest.raises(NoTargetError, match="abacus"):
        export(refused(job, profile=profile), stages)


def test_bad_data_stops_it_before_any_work(job: Job, stages: Stages, tmp_path: Path) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text('{"text": "a", "label": "x"}\nnonsense\n')
    with pytest.raises(DataError, match="line 2"):
        export(refused(job, data=data, model="/nowhere"), stages)
    assert stages.totals == {}


@pytest.mark.parametrize("stage", ["exporting", "compiling", "fitting", "judging", "timing"])
def test_an_interrupt_at_any_stage_leaves_nothing(job: Job, stage: str) -> None:
    class Interrupt(Stages):
        def __call__(self, name: str, total: int | None) -> Any:
            if name.startswith(stage):
                raise KeyboardInterrupt
            return super().__call__(name, total)

    job.out.parent.mkdir()
    with pytest.raises(KeyboardInterrupt):
        export(job, Interrupt())
    assert list(job.out.parent.iterdir()) == []


def test_an_interrupt_leaves_the_export_before_it(
    job: Job, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = export(job, stages)["bundle"]
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == "out":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        export(dataclasses.replace(job, version=4), stages)
    assert open_bundle(job.out / "bundle").hash == first
