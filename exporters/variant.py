"""One variant of an export: compiled, judged through the runtime, and proved to replay.

What two exports have in common is made once, by its content: a compiled form where the plan and
the profile's section for its provider are the same, answers where the files are.
"""

from __future__ import annotations

import hashlib
import shutil
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from edgeslm import providers
from edgeslm.contract.manifest import (
    FAULTS,
    Artifact,
    Coverage,
    Requirements,
    Tolerance,
    Verified,
)
from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import RejectedError
from edgeslm.ports import Answer
from edgeslm.runtime.coverage import check
from edgeslm.runtime.device import this_device
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.variants import CPU, absent
from exporters.budget import latency_ms, over_size, size_bytes
from exporters.bundle import COSTS, Identity, Made, write_bundle
from exporters.costs import write_costs
from exporters.data import ANOMALY, Row, sample
from exporters.documented import explained
from exporters.golden import (
    POOL,
    Judged,
    Twin,
    choose,
    golden_file,
    in_sequence,
    known_faults,
    pick,
    strange_rows,
    tolerance,
    without,
)
from exporters.quality import QualityError, request_of, short, tidy
from exporters.targets.base import ANYWHERE, Compiled, Plan, Target
from exporters.workbench import Workbench

_TIMED: Final = 64  # inferences of either precision, interleaved
_STRANGE_EMULATED: Final = 12
# Two kinds of CPU are further apart than two kinds of kernels on one. Measured: static int8 of
# the graph as exported, an emulated Cortex-A72 against x86, BANKING77: 1.06 times, worst of 48.
_FOREIGN: Final = 2.0
_ROUNDING: Final = 1e-9  # of points that are differences of percentages


@dataclass(frozen=True, slots=True)
class Done:
    """A variant, whole in a bundle of its own, and what is said of it in the reports.

    `judged` holds the rows that it was judged on, with its answers.
    """

    folder: Path
    made: Made
    provider: str
    report: dict[str, Any]
    error: RejectedError | None
    measured: dict[str, Any] | None
    judged: Sequence[Judged]


@dataclass(frozen=True, slots=True)
class _Built:
    """A compiled variant in a folder that many exports copy.

    Args:
        folder: its graphs.
        compiled: what the target says of them.
        notes: of the pipeline, beside the target's.
        key: of its files and parameters: equal where these are.
    """

    folder: Path
    compiled: Compiled
    notes: Sequence[str]
    key: str


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes the variants of one export.

    Args:
        workbench: lends what is shared.
        profile: of the device.
        identity: of the bundle.
        allow_drop: a variant beyond the gate is made whole all the same.
        scratch: folder of this export.
    """

    workbench: Workbench
    profile: DeviceProfile
    identity: Identity
    allow_drop: bool
    scratch: Path

    def make(self, target: Target, plan: Plan) -> Done:
        """Compile a variant, judge it through the runtime, and prove that it replays.

        Raises:
            RejectedError: it cannot be compiled, or its provider does not take of it what it must.
        """
        bench, gate = self.workbench, self.profile.gate
        built = self._build(target, plan)
        folder, compiled = self.scratch / plan.name, built.compiled
        shutil.copytree(built.folder, folder / plan.name)
        here = _here(plan)
        verified = _proved(compiled, plan, here)
        made = Made(plan, compiled, coverage=compiled.coverage, verified=verified)
        for graph, took in compiled.coverage.items():
            check(took, plan.placement, graph=f"{plan.name}/{graph}")
        model = self._load(folder, made, stand_in=here)
        if here in {None, plan.provider}:
            made = replace(made, coverage=_told(model, plan, folder / plan.name))
        rows = bench.split.held_out
        if plan.emulated:
            rows = sample(rows, gate.emulated_sample)
        runner = _runner(built, plan, here)

        def answers(asked: Sequence[Row], stage: str) -> list[Answer]:
            return bench.answers(runner, asked, lambda: model, stage=f"{stage} {plan.name}")

        said = answers(rows, "judging")
        limit = gate.emulated_drop_max if plan.emulated else gate.accuracy_drop_max
        report, lost = self._judge(rows, said, plan, made.verified, limit=limit)
        report["notes"] += [*compiled.head.notes, *compiled.notes, *built.notes]
        if not made.coverage and plan.placement != ANYWHERE:
            unseen = f"what {plan.provider} takes of {plan.name} is not known here: the device will"
            report["notes"].append(f"{unseen} hold it against the profile's placement")
        judged = list(map(Judged, rows, said))
        error = over_size(self.profile, plan.name, size_bytes(built.folder))
        if error or (lost and not self.allow_drop):
            return Done(folder, made, plan.provider, report, error or lost, None, judged)
        strange = list(strange_rows([*rows, *bench.split.train]))
        if plan.emulated:  # each takes a second or two
            strange = strange[:_STRANGE_EMULATED]
        more = map(Judged, strange, answers(strange, "more cases of"))
        memory = model.memory()
        in_order = memory is not None and memory.ordered
        ask = partial(answers, stage="cases in order of") if in_order else None
        faults = self._faults()
        golden, allowed = self._golden(built, made, [*judged, *more], faults, ask)
        requires = (FAULTS,) if faults else ()
        made = replace(made, golden=golden, tolerance=allowed, requires=requires)
        # Raises where a case does not replay.
        self._load(folder, made, stand_in=here, golden=True)
        measured = None
        if here is None and made.verified == "silicon":
            measured = bench.once(
                ("timing", runner), lambda: self._measure(model, folder / plan.name)
            )
        return Done(folder, made, plan.provider, report, None, measured, judged)

    def _build(self, target: Target, plan: Plan) -> _Built:
        """Return the compiled variant: of this plan, or of one that comes to the same."""
        bench, profile = self.workbench, self.profile

        def build() -> _Built:
            folder = bench.folder() / plan.name
            folder.mkdir()
            with bench.stage(f"compiling {plan.name}", None):
                compiled = target.compile(plan, profile, bench, folder)
            bench.reference()
            original = bench.reference_graph
            uncounted = write_costs(folder, compiled.graphs, COSTS, original=original)
            return _Built(folder, compiled, uncounted, _digest(folder, compiled))

        # What `Target.compile` may depend on, as its port says.
        alike = replace(plan, requires=Requirements(), placement=ANYWHERE)
        section = getattr(profile, plan.provider, None)
        return bench.once(("variant", alike, section), build)

    def _load(
        self, folder: Path, made: Made, *, stand_in: str | None, golden: bool = False
    ) -> Model:
        """Write `made` into a bundle of its own in `folder`, and load it."""
        write_bundle(folder, self.identity, self.workbench.encoder.tokenizer, [made])
        return load_model(folder, variant=made.plan.name, stand_in=stand_in, golden=golden)

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
        fp32 = bench.reference_metrics(rows)
        artifact = bench.recipe.measure(rows, said, share=bench.share)
        lost = bench.recipe.losses((fp32, before), (artifact, said))
        passed = all(points <= limit + _ROUNDING for points in lost.values())
        error = None
        if not passed:
            error = QualityError(
                lost,
                limit=limit,
                rows=len(rows),
                fp32=fp32,
                artifact=artifact,
                setting="emulated_drop_max" if plan.emulated else "accuracy_drop_max",
                more="raise emulated_sample"
                if len(rows) < len(bench.split.held_out)
                else "give more with --eval",
            )
        report = {
            "provider": plan.provider,
            "precision": plan.precision,
            "verified": verified,
            "rows": len(rows),
            "fp32": tidy(fp32),
            "artifact": tidy(artifact),
            "lost_points": tidy(lost),
            "allowed_points": limit,
            "passed": passed,
            "notes": bench.recipe.cautions(artifact, limit=limit),
        }
        return report, error

    def _faults(self) -> list[Judged]:
        """Return the known faults: of all rows, so that those of an emulated variant are, too."""
        rows = self.workbench.split.held_out
        if not any(row.label == ANOMALY for row in rows):
            return []
        return known_faults(list(map(Judged, rows, self.workbench.reference_answers(rows))))

    def _golden(
        self,
        built: _Built,
        made: Made,
        judged: Sequence[Judged],
        faults: Sequence[Judged],
        ask: Callable[[Sequence[Row]], Sequence[Answer]] | None,
    ) -> tuple[bytes, Tolerance]:
        """Return the golden file of a variant and how far a device may be from it.

        `ask` is there where answers depend on what was asked before: it asks anew, in order.
        """
        bench, compiled = self.workbench, made.compiled
        parameters = compiled.head.parameters

        def surety(answer: Answer, allowed: Tolerance) -> float:
            return bench.recipe.surety(answer, parameters, allowed)

        pool = choose(without(judged, faults), surety, cases=POOL - len(faults))
        sequel = len(pool)
        pool += faults
        rows = [j.row for j in pool]
        if ask is not None:
            pool = list(map(Judged, rows, ask(rows)))
        if compiled.twin is None:
            others = bench.reference_answers(rows)
        else:
            others = bench.answers(
                ("twin", built.folder),
                rows,
                lambda: self._twin(made, compiled.twin),
                stage=f"tolerances of {made.plan.name}",
            )
        twins = list(map(Twin, pool, others))
        allowed = tolerance(twins)
        if compiled.twin is None or made.verified in {"static", "none"}:
            allowed = self.profile.tolerance or _guess(allowed)
        cases = pick(twins[:sequel], surety, allowed=allowed, faults=twins[sequel:])
        if ask is not None:
            said = ask([case.judged.row for case in cases])
            cases = in_sequence(cases, said, surety, allowed=allowed)
        return golden_file(cases), allowed

    def _twin(self, made: Made, write: Callable[[Path], None] | None) -> Model:
        """Return the variant with other kernels."""
        assert write is not None  # noqa: S101 -- who has none is not asked
        folder = self.scratch / f"{made.plan.name}.twin"
        (folder / made.plan.name).mkdir(parents=True)
        write(folder / made.plan.name)
        plain = replace(made.compiled, contexts=())  # the CPU runs what they were compiled of
        return self._load(folder, replace(made, coverage={}, compiled=plain), stand_in=CPU)

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
        large, small = size_bytes(bench.reference_graph.parent), size_bytes(folder)
        return {
            "provider": model.provider,
            "node_share": model.node_share,
            "median_ms": {"fp32": short(slow), "artifact": short(fast)},
            "latency_ms": short(latency_ms(model, requests)),
            "speedup": short(slow / fast),
            "graph_and_weights_bytes": {"fp32": large, "artifact": small},
            "size_ratio": short(small / large),
        }


def _guess(measured: Tolerance) -> Tolerance:
    """Return what a device of another kind may differ by, from what was measured on this one."""
    return Tolerance(
        score=_FOREIGN * measured.score,
        confidence=min(1.0, _FOREIGN * measured.confidence),
        verified="none",
    )


def present(plan: Plan) -> bool:
    """Whether this machine has what runs a variant: its provider, and hardware for that."""
    provider = providers.load(plan.provider)
    graph = Artifact(
        role="graph",
        path=plan.name,
        size=0,
        sha256="0" * 64,
        provider=plan.provider,
        requires=plan.requires,
        precision=plan.precision,
    )
    return provider is not None and absent(provider, [graph]) is None


def _here(plan: Plan) -> str | None:
    """Return who runs a variant on this machine; None: its own provider, as on the device."""
    if not present(plan):
        return CPU
    return None if this_device().lacks(plan.requires) is None else plan.provider


def _told(model: Model, plan: Plan, folder: Path) -> dict[str, Coverage]:
    """Return what the provider took of each graph, and why it took no more."""
    accelerator = plan.requires.accelerator
    return {
        name: explained(took, folder / name, provider=plan.provider, accelerator=accelerator)
        for name, took in model.coverages.items()
    }


def _proved(compiled: Compiled, plan: Plan, here: str | None) -> Verified:
    """Return where the variant is proved to run, its target having said where it can."""
    if here is None:
        return compiled.verified
    if compiled.verified == "silicon":  # which this machine has not
        return "none"
    return compiled.verified if compiled.coverage or here == plan.provider else "none"


def _runner(built: _Built, plan: Plan, here: str | None) -> Hashable:
    """Name what answers: where this is equal, so are the answers."""
    who = here or plan.provider
    if who == CPU:
        return built.key, who, plan.session
    return built.key, who, plan.session, plan.requires, plan.placement  # providers read these


def _digest(folder: Path, compiled: Compiled) -> str:
    digest = hashlib.sha256(compiled.head.parameters)
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
