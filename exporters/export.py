"""The pipeline: model, examples and device profile in, a bundle that has proved itself out."""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from threadpoolctl import threadpool_limits

from edgeslm import providers
from edgeslm.contract.base import Name
from edgeslm.contract.manifest import Tolerance, Verified
from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import RejectedError
from edgeslm.ports import Answer
from edgeslm.runtime.device import this_device
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.profiles import load_profile
from exporters import recipes, targets
from exporters.bundle import COSTS, MANIFEST, Identity, Made, write_bundle, write_tar
from exporters.cache import kept, key_of
from exporters.costs import write_costs
from exporters.data import Row, sample
from exporters.golden import POOL, Judged, Twin, choose, golden_file, strange_rows, tolerance
from exporters.quality import QualityError, answer_all, request_of
from exporters.recipes.base import Metrics
from exporters.sources import open_source
from exporters.sources.base import Encoder, read_encoder
from exporters.targets.base import Plan, Target
from exporters.targets.cpu import GRAPH
from exporters.workbench import FP32, Stage, Workbench

BUNDLE: Final = "bundle"
TAR: Final = "bundle.tar"
QUALITY: Final = "quality.json"
MEASUREMENTS: Final = "measurements.json"
_TIMED: Final = 64  # inferences of either precision, interleaved
_STRANGE_EMULATED: Final = 12
_DIGITS: Final = 6
_MIN_TOKENS: Final = 4  # a manifest's bounds
_MAX_TOKENS: Final = 8192
_ROUNDING: Final = 1e-9  # of points that are differences of percentages


@dataclass(frozen=True, slots=True)
class Job:
    """One export, as the user asked for it; see `edgeslm-export --help`."""

    task: str
    model: str
    data: Path
    profile: str
    name: str
    version: int
    out: Path
    share: float
    evaluation: Path | None = None
    tokenizer: Path | None = None
    allow_drop: bool = False
    seed: int = 0
    max_tokens: int | None = None


class OutputError(RejectedError):
    """The output folder cannot be used."""

    code = "export.output"


class IdentityError(RejectedError):
    """A model cannot be called so."""

    code = "export.identity"


class TooLongError(RejectedError):
    """The model does not take as many tokens as asked for, or a bundle does not."""

    code = "export.max_tokens"


def export(job: Job, stage: Stage) -> dict[str, Any]:
    """Make the bundle, its tar and its reports in `job.out`; return what `quality.json` says.

    `job.out` appears by one rename when all is done; an export that is there already gives way.

    Raises:
        RejectedError: of many kinds, each saying what to change; nothing is left behind.
        UnavailableError: the disk refuses.
    """
    _check_name(job.name)
    _check_out(job.out)
    profile = load_profile(job.profile)
    # Before any long work: a profile that cannot be, a tool that is missing.
    wanted = [(targets.load(key), targets.load(key).plans(profile)) for key in profile.providers]
    # One thread of linear algebra: the same sums on any machine, and several cores shared with
    # others make it slower, not faster.
    with _beside(job.out) as scratch, threadpool_limits(limits=1):
        workbench = _workbench(job, profile, scratch, stage)
        report = _Work(job, profile, wanted, workbench, scratch / "out").run()
        _replace(scratch / "out", job.out)
    return report


def _workbench(job: Job, profile: DeviceProfile, scratch: Path, stage: Stage) -> Workbench:
    recipe = recipes.load(job.task)
    split = recipe.split(job.data, job.evaluation, share=job.share, seed=job.seed)
    source = open_source(job.model, tokenizer=job.tokenizer)
    with stage("exporting the encoder", None):
        folder = kept("encoders", key_of([source.digest(), _code()]), source.export)
        encoder = read_encoder(folder)
    return Workbench(
        task=job.task,
        recipe=recipe,
        split=split,
        encoder=encoder,
        source=source.name,
        max_tokens=_max_tokens(job, profile, encoder),
        share=job.share,
        seed=job.seed,
        scratch=scratch,
        stage=stage,
    )


@dataclass(frozen=True, slots=True)
class _Done:
    """A variant, whole in a bundle of its own, and what is said of it in the reports."""

    folder: Path
    made: Made
    provider: str
    report: dict[str, Any]
    error: QualityError | None
    measured: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class _Work:
    """One export under way for one profile."""

    job: Job
    profile: DeviceProfile
    wanted: Sequence[tuple[Target, Sequence[Plan]]]
    workbench: Workbench
    out: Path

    def run(self) -> dict[str, Any]:
        """Fill `out`; return the quality report."""
        job, bench = self.job, self.workbench
        judged = [self._variant(target, plan) for target, plans in self.wanted for plan in plans]
        kept_, cautions = self._select(judged)
        bundle = self.out / BUNDLE
        bundle.mkdir(parents=True)
        for one in kept_:
            (one.folder / one.made.plan.name).rename(bundle / one.made.plan.name)
        bundle_hash = write_bundle(
            bundle, self._identity(), bench.encoder.tokenizer, [one.made for one in kept_]
        )
        report = {
            "bundle": bundle_hash,
            "task": job.task,
            "held_out": {
                "rows": len(bench.split.held_out),
                "given": job.evaluation is not None,
            },
            "fp32": _tidy(self._metrics(bench.split.held_out)),
            "variants": {one.made.plan.name: one.report for one in judged},
            "cautions": bench.split.cautions + cautions,
        }
        measured = {
            "bundle": bundle_hash,
            "cpu": this_device().cpu_model,
            "variants": {one.made.plan.name: one.measured for one in kept_ if one.measured},
        }
        write_tar(bundle, self.out / TAR)
        (self.out / QUALITY).write_text(json.dumps(report, indent=2) + "\n")
        (self.out / MEASUREMENTS).write_text(json.dumps(measured, indent=2) + "\n")
        return report

    def _select(self, judged: Sequence[_Done]) -> tuple[list[_Done], list[str]]:
        """Return what passed the gate, best first, and what the user should know.

        Raises:
            QualityError: of some provider none did.
        """
        cautions = [note for one in judged for note in one.report["notes"]]
        if self.job.allow_drop:
            return list(judged), cautions
        passed = [one for one in judged if one.error is None]
        for one in judged:
            if one.error is None:
                continue
            if one.provider not in {other.provider for other in passed}:
                raise one.error
            cautions.append(f"{one.made.plan.name} is left out: {one.error}")
        return passed, cautions

    def _identity(self) -> Identity:
        return self.workbench.identity(self.job.name, self.job.version, self.profile.name)

    def _variant(self, target: Target, plan: Plan) -> _Done:
        """Compile a variant, judge it through the runtime, and prove that it replays."""
        bench = self.workbench
        folder = bench.scratch / plan.name
        (folder / plan.name).mkdir(parents=True)
        with bench.stage(f"compiling {plan.name}", None):
            compiled = target.compile(plan, self.profile, bench, folder / plan.name)
        bench.reference()
        original = bench.scratch / FP32 / FP32 / GRAPH
        uncounted = write_costs(folder / plan.name, compiled.graphs, COSTS, original=original)
        here = _here(plan)
        made = Made(plan, compiled, verified=compiled.verified if here is None else "none")
        if compiled.coverage:
            made = replace(made, coverage=compiled.coverage, verified=compiled.verified)
        model = self._load(folder, made, stand_in=here)
        if here in {None, plan.provider}:
            made = replace(made, coverage=model.coverages, verified=compiled.verified)
        gate = self.profile.gate
        rows = bench.split.held_out
        if plan.emulated:
            rows = sample(rows, gate.emulated_sample)
        with bench.stage(f"judging {plan.name}", len(rows)) as advance:
            said = answer_all(model, rows, advance)
        limit = gate.emulated_drop_max if plan.emulated else gate.accuracy_drop_max
        report, error = self._judge(rows, said, plan, made.verified, limit=limit)
        report["notes"] += [*compiled.notes, *uncounted]
        if error is not None and not self.job.allow_drop:
            return _Done(folder, made, plan.provider, report, error, None)
        golden, allowed = self._golden(made, model, rows, said)
        made = replace(made, golden=golden, tolerance=allowed)
        # Raises where a case does not replay.
        self._load(folder, made, stand_in=here, golden=True)
        measured = self._measure(model, folder / plan.name) if _timeable(made, here) else None
        return _Done(folder, made, plan.provider, report, error, measured)

    def _load(
        self, folder: Path, made: Made, *, stand_in: str | None, golden: bool = False
    ) -> Model:
        """Write `made` into a bundle of its own in `folder`, and load it."""
        write_bundle(folder, self._identity(), self.workbench.encoder.tokenizer, [made])
        return load_model(folder, variant=made.plan.name, stand_in=stand_in, golden=golden)

    def _metrics(self, rows: Sequence[Row]) -> Metrics:
        bench = self.workbench
        return bench.recipe.measure(rows, bench.reference_answers(rows), share=bench.share)

    def _judge(
        self,
        rows: Sequence[Row],
        said: Sequence[Answer],
        plan: Plan,
        verified: Verified,
        *,
        limit: float,
    ) -> tuple[dict[str, Any], QualityError | None]:
        """Return the report of a variant, and an error if it lost more than `limit` points."""
        bench = self.workbench
        before = bench.reference_answers(rows)
        fp32 = self._metrics(rows)
        artifact = bench.recipe.measure(rows, said, share=bench.share)
        lost = bench.recipe.losses((fp32, before), (artifact, said))
        passed = all(points <= limit + _ROUNDING for points in lost.values())
        error = None
        if not passed:
            error = QualityError(lost, limit=limit, rows=len(rows), fp32=fp32, artifact=artifact)
        report = {
            "provider": plan.provider,
            "precision": plan.precision,
            "verified": verified,
            "rows": len(rows),
            "fp32": _tidy(fp32),
            "artifact": _tidy(artifact),
            "lost_points": _tidy(lost),
            "allowed_points": limit,
            "passed": passed,
            "notes": bench.recipe.cautions(artifact, limit=limit),
        }
        return report, error

    def _golden(
        self, made: Made, model: Model, rows: Sequence[Row], said: Sequence[Answer]
    ) -> tuple[bytes, Tolerance]:
        """Return the golden file of a variant and how far a device may be from it."""
        bench, plan, compiled = self.workbench, made.plan, made.compiled
        parameters = compiled.head.parameters

        def surety(answer: Answer, allowed: Tolerance) -> float:
            return bench.recipe.surety(answer, parameters, allowed)

        strange = list(strange_rows([*rows, *bench.split.train]))
        if plan.emulated:  # each takes a second or two
            strange = strange[:_STRANGE_EMULATED]
        more = answer_all(model, strange, lambda _: None)
        judged = list(map(Judged, [*rows, *strange], [*said, *more]))
        pool = choose(judged, surety, cases=POOL)
        others = [j.row for j in pool]
        with bench.stage(f"tolerances of {plan.name}", len(pool)) as advance:
            if compiled.twin is None:
                twins = list(map(Twin, pool, bench.reference_answers(others)))
            else:
                folder = bench.scratch / f"{plan.name}.twin"
                (folder / plan.name).mkdir(parents=True)
                compiled.twin(folder / plan.name)
                twin = self._load(folder, replace(made, coverage={}), stand_in="cpu")
                twins = list(map(Twin, pool, answer_all(twin, others, advance)))
        allowed = tolerance(twins)
        if compiled.twin is None or made.verified in {"static", "none"}:
            given = self.profile.tolerance
            allowed = given or allowed.model_copy(update={"verified": "none"})
        return golden_file(twins, surety, allowed=allowed), allowed

    def _measure(self, model: Model, folder: Path) -> dict[str, Any]:
        """Time a variant against float32, one inference of each in turn, on one thread."""
        bench = self.workbench
        models = [bench.reference(), model]
        requests = [request_of(row) for row in bench.split.held_out[:_TIMED]]
        took: list[list[float]] = [[], []]
        with bench.stage("timing", len(requests)) as advance:
            for request in requests:
                for one, seconds in zip(models, took, strict=True):
                    one.forget()
                    start = time.perf_counter()
                    one.answer(request)
                    seconds.append(time.perf_counter() - start)
                advance(1)
        slow, fast = (1000 * statistics.median(seconds) for seconds in took)
        large, small = _graph_bytes(bench.scratch / FP32 / FP32), _graph_bytes(folder)
        return {
            "provider": model.provider,
            "node_share": model.node_share,
            "median_ms": {"fp32": _short(slow), "artifact": _short(fast)},
            "speedup": _short(slow / fast),
            "graph_and_weights_bytes": {"fp32": large, "artifact": small},
            "size_ratio": _short(small / large),
        }


def _here(plan: Plan) -> str | None:
    """Return who runs a variant on this machine; None: its own provider, as on the device."""
    provider = providers.load(plan.provider)
    if provider is None or provider.problem() is not None:
        return "cpu"
    return None if this_device().lacks(plan.requires) is None else plan.provider


def _timeable(made: Made, here: str | None) -> bool:
    """Whether times taken here say something of such a device."""
    return here is None and made.verified == "silicon"


def _check_name(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        msg = f"--name {name!r}: take a-z, 0-9, '.', '_', '-', up to 64, the first a-z or 0-9"
        raise IdentityError(msg) from None


def _check_out(out: Path) -> None:
    """Make sure that `out` is free, or holds an earlier export.

    Raises:
        OutputError: it holds something else.
    """
    if not out.exists() or (out / BUNDLE / MANIFEST).is_file():
        return
    if not out.is_dir() or any(out.iterdir()):
        msg = f"{out}: exists and is no export; choose another --out, or remove it"
        raise OutputError(msg)


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Give a folder on the same file system as `out`, removed at the end whatever happens.

    Raises:
        OutputError: there is no writing there.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.")
    except OSError as err:
        msg = f"cannot write {out.parent}: {err.strerror}; choose another --out"
        raise OutputError(msg) from None
    with folder as name:
        yield Path(name)


def _replace(fresh: Path, out: Path) -> None:
    """Put `fresh` in the place of `out`; what was there goes the way of the scratch folder."""
    if not out.exists():
        fresh.rename(out)
        return
    old = fresh.with_name("old")
    out.rename(old)
    try:
        fresh.rename(out)
    except BaseException:
        old.rename(out)
        raise


def _max_tokens(job: Job, profile: DeviceProfile, encoder: Encoder) -> int:
    """Return where texts are cut.

    Raises:
        TooLongError: the user asked for more than the model takes, or for next to nothing.
    """
    limit = min(_MAX_TOKENS, encoder.max_positions or _MAX_TOKENS)
    if job.max_tokens is None:
        return min(profile.max_tokens, limit)
    if not _MIN_TOKENS <= job.max_tokens <= limit:
        msg = f"--max-tokens {job.max_tokens}: this model takes {_MIN_TOKENS} to {limit}"
        raise TooLongError(msg)
    return job.max_tokens


def _code() -> bytes:
    """The code that an exported encoder depends on, besides its packages."""
    files = sorted((Path(__file__).parent / "sources").glob("*.py"))
    return b"\0".join(file.read_bytes() for file in files)


def _graph_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix != ".json")


def _tidy(metrics: Mapping[str, float | int | None]) -> dict[str, float | int | None]:
    return {k: _short(v) if isinstance(v, float) else v for k, v in metrics.items()}


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
