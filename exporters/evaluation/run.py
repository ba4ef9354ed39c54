"""`edgeslm-export evaluate`: a bundle, or two, judged on rows; a JSON file and a page of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from threadpoolctl import threadpool_limits

import edgeslm
from edgeslm.runtime.device import this_device
from edgeslm.runtime.model import Model
from exporters import recipes
from exporters.data import Row, read_rows
from exporters.evaluation import chance, judge, promise
from exporters.evaluation.judge import Judged, OtherTaskError
from exporters.evaluation.measures import POINTS
from exporters.evaluation.page import page
from exporters.export import ALGEBRA_THREADS
from exporters.folders import beside, check_out, replace_folder
from exporters.workbench import Stage

REPORT: Final = "evaluation.json"
PAGE: Final = "evaluation.html"


@dataclass(frozen=True, slots=True)
class Job:
    """One evaluation, as the user asked for it; see `edgeslm-export evaluate --help`."""

    bundle: Path
    data: Path
    out: Path
    against: Path | None = None
    variant: str | None = None


def evaluate(job: Job, stage: Stage) -> dict[str, Any]:
    """Judge the bundle of `job` and write both reports to `job.out`; return the JSON one.

    Raises:
        RejectedError: the bundle, the data or `job.out` cannot be used; nothing is left behind.
        UnavailableError: the disk refuses.
    """
    check_out(job.out, holds=REPORT)
    rows = read_rows(job.data)
    with threadpool_limits(limits=ALGEBRA_THREADS):
        model = judge.open_model(job.bundle, variant=job.variant, stage=stage)
        cautions = _check(model, rows, job.data)
        other = None
        if job.against is not None:
            other = judge.open_model(job.against, variant=None, stage=stage)
            if other.task != model.task:
                msg = (
                    f"--against {job.against}: is of the task {other.task!r}, and {job.bundle} of "
                    f"{model.task!r}: give two of one task"
                )
                raise OtherTaskError(msg)
            cautions += _check(other, rows, job.data)
        judged = judge.judge(model, rows, name=str(job.bundle), stage=stage)
        against = None
        if other is not None:
            against = judge.judge(other, rows, name=str(job.against), stage=stage)
        report = _report(job, judged, against, cautions, stage)
        with stage("drawing", None):
            drawn = page(report, judged, against)
    with beside(job.out) as scratch:
        fresh = scratch / "out"
        fresh.mkdir()
        (fresh / REPORT).write_text(json.dumps(report, indent=2) + "\n", "utf-8")
        (fresh / PAGE).write_text(drawn, "utf-8")
        replace_folder(fresh, job.out)
    return report


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is printed: the report without what has an entry for each class or source."""
    kept = ("bundle", "data", "metrics", "promise", "against", "cautions")
    found = {key: report[key] for key in kept if key in report}
    if "against" in found:
        keys = ("bundle", "metrics", "promise", "comparison")
        found["against"] = {key: found["against"][key] for key in keys}
    return found


def _check(model: Model, rows: Sequence[Row], data: Path) -> list[str]:
    """See `exporters.recipes.base.Recipe.check`."""
    recipe = recipes.load(model.task)
    return recipe.check(rows, model.files.read("parameters"), str(data))


def _report(
    job: Job, judged: Judged, against: Judged | None, cautions: list[str], stage: Stage
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "schema_version": 1,
        "bundle": judge.described(judged),
        "data": {
            "file": job.data.name,
            "sha256": hashlib.sha256(job.data.read_bytes()).hexdigest(),
            "rows": len(judged.rows),
        },
        "ran": {"edgeslm": edgeslm.__version__, "cpu": this_device().cpu_model},
        "confidence": chance.CONFIDENCE,
        "resamples": chance.RESAMPLES,
        "seed": chance.SEED,
        **judge.figures(judged, stage=stage),
    }
    notes = [
        *cautions,
        *judge.left_out(judged, compared=against is not None),
        *_broken(found["promise"], found["bundle"]),
    ]
    if against is not None:
        other = judge.figures(against, stage=stage)
        bundle = judge.described(against)
        compared = judge.compared(against, judged, stage=stage)
        found["against"] = {"bundle": bundle, **other, "comparison": compared}
        notes += _broken(other["promise"], bundle)
    return found | {
        "methods": chance.METHODS,
        "cautions": list(dict.fromkeys(notes)),
    }


def _broken(promised: Mapping[str, Any], bundle: Mapping[str, Any]) -> list[str]:
    if promised["verdict"] != "over":
        return []
    rate = POINTS * promised["flagged"] / promised["rows"]
    note = (
        f"{bundle['name']} {bundle['version']} flags {rate:.3g} % of {promised['rows']} normal "
        f"rows and promises {promised['share']:.3g} %: by chance so many come less often than "
        f"{promise.SURE:g}; export with more kinds of normal lines, or of a longer time"
    )
    return [note]
