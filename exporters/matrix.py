"""Many profiles in one go: what they have in common is made once, each has its own export."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from threadpoolctl import threadpool_limits

from edgeslm.contract.manifest import Artifact
from edgeslm.errors import EdgeSLMError, RejectedError
from edgeslm.runtime.bundle import open_bundle
from exporters.export import (
    ALGEBRA_THREADS,
    BUNDLE,
    MEASUREMENTS,
    Common,
    Job,
    Tell,
    check_name,
    unheard,
)
from exporters.export import make as make_export
from exporters.export import plan as plan_export
from exporters.folders import beside, check_out
from exporters.report.matrix import page
from exporters.workbench import Stage

MATRIX: Final = "matrix.json"
PAGE: Final = "matrix.html"


class MatrixError(RejectedError):
    """There are no profiles, or they cannot be told apart."""

    code = "matrix.profiles"


@dataclass(slots=True)
class _Row:
    """One profile of the matrix, as `matrix.json` has it.

    Args:
        profile: as the user called it.
        status: `waiting` where the run ended before its turn.
        out: its folder, inside the matrix's; None: there is none.
        seconds: what it took, beside what was there already.
        error: why it failed.
        variants: what its bundle holds, and what was left out of it.
    """

    profile: str
    status: Literal["waiting", "made", "failed"] = "waiting"
    description: str | None = None
    out: str | None = None
    fp32: dict[str, Any] | None = None
    bundle: str | None = None
    seconds: float | None = None
    error: dict[str, str] | None = None
    variants: list[dict[str, Any]] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)


def matrix(job: Job, profiles: Sequence[str], stage: Stage, tell: Tell = unheard) -> dict[str, Any]:
    """Export `job` for each of `profiles`; return what `matrix.json` says.

    `job.out` receives a folder for each, by the profile's name, the same as an export of its own
    would be, and the report. Each appears by one rename when it is whole, and the report is
    written anew with it: whatever ends the run, what is there is whole and reported.

    Args:
        job: what all have in common; its `profile` is not read.
        profiles: names or files of device profiles.
        stage: shows progress.
        tell: shows a note at once.

    Raises:
        RejectedError: nothing can be made for any profile: model, examples or output folder. What
            is wrong with one of the profiles is in the report.
        UnavailableError: the disk refuses.
    """
    check_name(job.name)
    check_out(job.out, holds=MATRIX)
    if not profiles:
        msg = "--profiles: give at least one"
        raise MatrixError(msg)
    if twice := sorted({name for name in profiles if profiles.count(name) > 1}):
        msg = f"--profiles: {twice[0]!r} stands there twice"
        raise MatrixError(msg)
    with beside(job.out) as scratch, threadpool_limits(limits=ALGEBRA_THREADS):
        common = Common(job, scratch, stage, tell)
        job.out.mkdir(exist_ok=True)
        report = _Report(job, common, [_Row(name) for name in profiles], scratch)
        report.write()
        for row in report.rows:
            begun = time.perf_counter()
            with stage(row.profile, None):
                _make(row, report)
            row.seconds = round(time.perf_counter() - begun, 1)
            report.write()
    return report.content()


def _make(row: _Row, report: _Report) -> None:
    """Make one profile's export, and say in `row` what came of it."""
    common = report.common
    try:
        order = plan_export(row.profile)
        name = order.profile.name
        row.description = order.profile.description
        if name in {other.out for other in report.rows}:
            msg = f"another of these profiles is called {name!r} too: they would share a folder"
            raise MatrixError(msg)
        out = common.job.out / name
        check_out(out, holds=f"{BUNDLE}/manifest.json")
        found = make_export(order, out, common)
    except EdgeSLMError as err:
        row.status, row.error = "failed", {"code": err.code, "message": str(err)}
        return
    row.status, row.out, row.bundle = "made", name, found["bundle"]
    row.fp32, row.cautions = found["fp32"], found["cautions"]
    row.variants = _variants(out, found["variants"])


def _variants(out: Path, judged: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the report says of each variant of an export: those of its bundle first."""
    bundle = open_bundle(out / BUNDLE)
    measured = json.loads((out / MEASUREMENTS).read_bytes())["variants"]
    rows = []
    for name, quality in judged.items():
        row: dict[str, Any] = {"name": name, "shipped": name in bundle.manifest.variants()}
        kept = ("provider", "precision", "verified", "artifact", "lost_points", "allowed_points")
        row |= {key: quality[key] for key in (*kept, "passed")}
        if row["shipped"]:
            files = bundle.of(name)
            graphs = files.artifacts("graph")
            weights = files.artifacts("weights")
            row["bytes"] = sum(a.size for a in (*graphs, *weights, *files.artifacts("context")))
            row["coverage"] = [_coverage(graph) for graph in graphs]
            row["sha256"] = [a.sha256 for a in (*graphs, *weights)]
            row["median_ms"] = measured.get(name, {}).get("median_ms", {}).get("artifact")
        rows.append(row)
    return sorted(rows, key=lambda row: not row["shipped"])


def _coverage(graph: Artifact) -> dict[str, Any] | None:
    return None if graph.coverage is None else graph.coverage.model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class _Report:
    """`matrix.json` and `matrix.html`, as they grow."""

    job: Job
    common: Common
    rows: Sequence[_Row]
    scratch: Path

    def content(self) -> dict[str, Any]:
        """Return what `matrix.json` says."""
        job, rows = self.job, len(self.common.split.held_out)
        return {
            "task": job.task,
            "name": job.name,
            "version": job.version,
            "model": self.common.source,
            "held_out": {"rows": rows, "given": job.evaluation is not None},
            "profiles": [asdict(row) for row in self.rows],
        }

    def write(self) -> None:
        """Put both in the place of those before."""
        content = self.content()
        texts = {MATRIX: json.dumps(content, indent=2) + "\n", PAGE: page(content)}
        for name, text in texts.items():
            fresh = self.scratch / name
            fresh.write_text(text, "utf-8")
            fresh.replace(self.job.out / name)
