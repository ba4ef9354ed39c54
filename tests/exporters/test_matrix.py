"""A matrix: each profile's export as it would be alone, what is common made once, the rest told."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgeslm.contract.profile import DeviceProfile
from edgeslm.runtime.bundle import open_bundle
from exporters.data import DataError
from exporters.export import MEASUREMENTS, Job, export
from exporters.folders import OutputError
from exporters.heads.base import Advance
from exporters.matrix import MatrixError, matrix
from exporters.targets import cpu
from exporters.targets.base import Compiled, Plan, Workbench
from tests.exporters.conftest import Stages

pytestmark = pytest.mark.usefixtures("own_cache")

_PROFILE = """\
name = "{name}"
description = "{name} & <its> kind"
providers = ["cpu"]
max_tokens = {max_tokens}
[requires]
arch = "{arch}"
[cpu.int8]
reduce_range = {reduce_range}
[gate]
accuracy_drop_max = 100.0
[budget]
size_mb = {size_mb}
"""


def profile(folder: Path, name: str, **change: object) -> str:
    """Write a profile for a CPU that this machine has not, unless `change` says otherwise."""
    keys = {"arch": "aarch64", "reduce_range": "false", "max_tokens": 128, "size_mb": 1.0}
    file = folder / f"{name}.toml"
    file.write_text(_PROFILE.format(name=name, **(keys | change)))
    return str(file)


@pytest.fixture
def job(toy_model: Path, orders: Path, tmp_path: Path) -> Job:
    return Job(
        task="intent",
        model=str(toy_model),
        data=orders,
        profile="",
        name="toy",
        version=3,
        out=tmp_path / "made" / "matrix",
        share=0.05,
    )


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the profiles that the CPU's target was asked to compile for."""
    asked: list[str] = []
    real = cpu.compile

    def compile_(
        plan: Plan, profile: DeviceProfile, workbench: Workbench, folder: Path
    ) -> Compiled:
        asked.append(profile.name)
        return real(plan, profile, workbench, folder)

    monkeypatch.setattr(cpu, "compile", compile_)
    return asked


def reproducible(out: Path) -> dict[str, bytes]:
    """What an export's folder holds besides times."""
    return {
        path.relative_to(out).as_posix(): b"" if path.name == MEASUREMENTS else path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
    }


def rows_of(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {Path(row["profile"]).stem: row for row in report["profiles"]}


@pytest.mark.slow
def test_each_profile_gets_what_an_export_of_its_own_would_give(
    job: Job, stages: Stages, tmp_path: Path, compiled: list[str]
) -> None:
    profiles = [
        profile(tmp_path, "here", arch="x86_64"),
        profile(tmp_path, "board"),
        profile(tmp_path, "old", arch="x86_64", reduce_range="true"),
        profile(tmp_path, "short", max_tokens=8),
        profile(tmp_path, "other-board", size_mb=2.0),
    ]
    report = matrix(job, profiles, stages)
    assert [row["status"] for row in report["profiles"]] == ["made"] * len(profiles)
    # "here", "board" and "other-board" differ in what a device must be, and not in what it runs.
    assert compiled == ["here", "old", "short"]
    for file in profiles:
        name = Path(file).stem
        alone = dataclasses.replace(job, profile=file, out=tmp_path / "alone" / name)
        export(alone, stages)
        assert reproducible(job.out / name) == reproducible(alone.out), name
        assert rows_of(report)[name]["bundle"] == open_bundle(job.out / name / "bundle").hash


def test_what_is_common_is_done_once(job: Job, tmp_path: Path) -> None:
    class Counting(Stages):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        @contextmanager
        def __call__(self, name: str, total: int | None) -> Iterator[Advance]:
            self.names.append(name)
            with super().__call__(name, total) as advance:
                yield advance

    counting = Counting()
    profiles = [profile(tmp_path, name) for name in ("a", "b", "c")]
    matrix(job, profiles, counting)
    work = [name for name in counting.names if name not in profiles]
    once = {name for name in work if not name.startswith(("judging", "more cases of"))}
    assert sorted(once) == sorted(name for name in work if name in once)
    # The reference is asked again for texts that it has not seen, and for no others.
    assert work.count("judging cpu-int8-dynamic") == 1


def test_a_profile_that_fails_stops_no_other(job: Job, stages: Stages, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('name = "bad"\nnmae = 1\n')
    small = profile(tmp_path, "small", size_mb=0.001)
    report = rows_of(matrix(job, ["toaster", profile(tmp_path, "one"), str(bad), small], stages))
    assert {name: row["status"] for name, row in report.items()} == {
        "toaster": "failed", "one": "made", "bad": "failed", "small": "failed",
    }  # fmt: skip
    assert report["toaster"]["error"]["code"] == "profile.invalid"
    assert "nmae" in report["bad"]["error"]["message"]
    assert report["small"]["error"]["code"] == "export.over_budget"
    assert sorted(path.name for path in job.out.iterdir()) == ["matrix.html", "matrix.json", "one"]


def test_the_report_compares_side_by_side(job: Job, stages: Stages, tmp_path: Path) -> None:
    profiles = [profile(tmp_path, "one"), profile(tmp_path, "two"), "toaster"]
    report = matrix(job, profiles, stages)
    assert json.loads((job.out / "matrix.json").read_text()) == report
    one = rows_of(report)["one"]
    [variant] = one["variants"]
    assert variant["lost_points"]["accuracy"] == pytest.approx(
        one["fp32"]["accuracy"] - variant["artifact"]["accuracy"], abs=1e-3
    )
    assert variant["shipped"]
    [coverage] = variant["coverage"]
    assert coverage["nodes_taken"] == coverage["nodes"] > 0
    assert variant["bytes"] > 0
    page = (job.out / "matrix.html").read_text()
    for what in ("one &amp; &lt;its&gt; kind", "one, two", "toaster", "profile.invalid"):
        assert what in page
    assert "<its>" not in page
    assert "http" not in page.replace("<!doctype html>", "")  # needs no other file


def test_an_interrupt_keeps_the_profiles_that_are_whole(job: Job, tmp_path: Path) -> None:
    profiles = [profile(tmp_path, name) for name in ("one", "two", "three")]

    class Interrupt(Stages):
        def __call__(self, name: str, total: int | None) -> Any:
            if name == profiles[1]:
                raise KeyboardInterrupt
            return super().__call__(name, total)

    with pytest.raises(KeyboardInterrupt):
        matrix(job, profiles, Interrupt())
    assert sorted(path.name for path in job.out.iterdir()) == ["matrix.html", "matrix.json", "one"]
    report = rows_of(json.loads((job.out / "matrix.json").read_text()))
    assert [row["status"] for row in report.values()] == ["made", "waiting", "waiting"]
    assert report["one"]["bundle"] == open_bundle(job.out / "one" / "bundle").hash
    assert [path.name for path in job.out.parent.iterdir()] == ["matrix"]
    assert "the run ended before" in (job.out / "matrix.html").read_text()


def test_a_second_matrix_takes_the_place_of_the_first(
    job: Job, stages: Stages, tmp_path: Path
) -> None:
    profiles = [profile(tmp_path, "one")]
    first = rows_of(matrix(job, profiles, stages))["one"]["bundle"]
    second = matrix(dataclasses.replace(job, version=4), profiles, stages)
    assert first != rows_of(second)["one"]["bundle"]
    assert open_bundle(job.out / "one" / "bundle").manifest.version == 4


@pytest.mark.parametrize(
    ("profiles", "what"),
    [(["toaster", "toaster"], "stands there twice"), ([], "at least one")],
    ids=["doubled", "none"],
)
def test_profiles_that_cannot_be_told_apart_are_refused(
    job: Job, stages: Stages, profiles: Sequence[str], what: str
) -> None:
    with pytest.raises(MatrixError, match=what):
        matrix(job, profiles, stages)
    assert not job.out.exists()


def test_two_files_of_one_name_do_not_share_a_folder(
    job: Job, stages: Stages, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    same = [profile(tmp_path, "one"), profile(tmp_path / "other", "one", max_tokens=8)]
    first, second = matrix(job, same, stages)["profiles"]
    assert (first["status"], second["error"]["code"]) == ("made", "matrix.profiles")
    assert open_bundle(job.out / "one" / "bundle").hash == first["bundle"]


def test_what_is_wrong_for_all_stops_before_any_folder_is_made(
    job: Job, stages: Stages, tmp_path: Path
) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text("nonsense\n")
    with pytest.raises(DataError, match="line 1"):
        matrix(dataclasses.replace(job, data=data), [profile(tmp_path, "one")], stages)
    assert not job.out.exists()


@pytest.mark.parametrize("where", ["matrix", "profile"])
def test_a_folder_of_other_things_is_left_alone(
    job: Job, stages: Stages, tmp_path: Path, where: str
) -> None:
    profiles = [profile(tmp_path, "one")]
    if where == "profile":
        matrix(job, [profile(tmp_path, "two")], stages)
    folder = job.out if where == "matrix" else job.out / "one"
    folder.mkdir(parents=True)
    (folder / "thesis.doc").write_text("years of work")
    if where == "matrix":
        with pytest.raises(OutputError, match="is not of an earlier run"):
            matrix(job, profiles, stages)
    else:
        [row] = matrix(job, profiles, stages)["profiles"]
        assert row["error"]["code"] == "export.output"
    assert (folder / "thesis.doc").read_text() == "years of work"
