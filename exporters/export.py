"""The pipeline: model, examples and device profile in, a bundle that has proved itself out."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError
from threadpoolctl import threadpool_limits

from edgeslm.contract.base import Name
from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import EXIT_CONFIG, RejectedError
from edgeslm.runtime.bundle import Bundle, open_bundle
from edgeslm.runtime.device import this_device
from edgeslm.runtime.profiles import load_profile
from exporters import recipes, reductions, targets
from exporters.budget import check_latency, size_bytes
from exporters.bundle import MANIFEST, write_bundle, write_tar
from exporters.cache import kept, key_of
from exporters.folders import beside, check_out, replace_folder
from exporters.inspection import DATA, inspect
from exporters.inspection.findings import Inspection
from exporters.mlbom import ML_BOM, Origins, ml_bom
from exporters.quality import tidy
from exporters.recipes.base import Fitter
from exporters.reductions import Reduction
from exporters.rejection import check
from exporters.report import write_reports
from exporters.report.content import Content, Judgement
from exporters.sources import open_source
from exporters.sources.base import ENCODER, Encoder, Source, TooLongError, read_encoder
from exporters.targets.base import Plan, Target
from exporters.training.folder import TRAINED, Trained
from exporters.training.plan import TrainingPlan
from exporters.tune.decisions import Decisions
from exporters.tune.lock import LOCK, Lock, Train, check_same, describe, read_lock
from exporters.variant import Done, Maker
from exporters.vocabulary import cut_positions, language, prune
from exporters.workbench import Stage, Workbench

if TYPE_CHECKING:
    from exporters.training.train import Outcome

BUNDLE: Final = "bundle"
TAR: Final = "bundle.tar"
QUALITY: Final = "quality.json"
MEASUREMENTS: Final = "measurements.json"
TUNE: Final = "tune.json"
# Of which onnxruntime's wheels are: the list of files of its release
ARCHITECTURES: Final = ("aarch64", "arm64", "x86_64")
USUAL_TOKENS: Final[int] = DeviceProfile.model_fields["max_tokens"].default
Tell = Callable[[str], None]
_MIN_TOKENS: Final = 4  # a manifest's bounds
_MAX_TOKENS: Final = 8192
# The same sums on any machine; and several threads, on cores shared with others, make it slower.
ALGEBRA_THREADS: Final = 1


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
    tune_minutes: float | None = None
    lock: Path | None = None
    train: Train = "head"
    train_minutes: float | None = None
    teacher: Path | None = None
    student: str | None = None
    supported_until: str | None = None
    base_license: str | None = None
    base_supplier: str | None = None
    prune_vocab: int = 0
    options: Mapping[str, str] = field(default_factory=dict)


class IdentityError(RejectedError):
    """A model cannot be called so."""

    code = "export.identity"


class ArchitectureError(RejectedError):
    """The profile is for an architecture that bundles do not run on."""

    code = "export.architecture"
    exit_status = EXIT_CONFIG


def unheard(note: str) -> None:
    """Show no note at once; reports have it."""
    del note


def export(job: Job, stage: Stage, tell: Tell = unheard) -> dict[str, Any]:
    """Make the bundle, its tar and its reports in `job.out`; return what `quality.json` says.

    `job.out` appears by one rename when all is done; an export that is there already gives way.

    Args:
        job: what is asked for.
        stage: shows progress.
        tell: shows a note at once: what one may want to stop for, before the long work.

    Raises:
        RejectedError: of many kinds, each saying what to change; nothing is left behind.
        UnavailableError: the disk refuses.
    """
    check_name(job.name)
    check_out(job.out, holds=f"{BUNDLE}/{MANIFEST}")
    order = plan(job.profile)
    if job.lock is not None:
        read_lock(job.lock)  # before any long work
    with beside(job.out) as scratch, threadpool_limits(limits=ALGEBRA_THREADS):
        return make(order, job.out, Common(job, scratch, stage, tell))


@dataclass(frozen=True, slots=True)
class Order:
    """What one profile asks for: each of its providers, and the variants for it."""

    profile: DeviceProfile
    wanted: Sequence[tuple[Target, Sequence[Plan]]]


def plan(profile_name: str) -> Order:
    """Read a profile: before any long work, since it may ask for what cannot be.

    Raises:
        RejectedError: it does, or it is wrong.
    """
    profile = load_profile(profile_name)
    if profile.requires.arch not in {None, *ARCHITECTURES}:
        msg = (
            f"profile {profile.name}: requires.arch {profile.requires.arch!r}: ONNX Runtime is "
            f"built for {', '.join(ARCHITECTURES)} (as `uname -m` says them)"
        )
        raise ArchitectureError(msg)
    with _named(f"profile {profile.name}"):
        found = [(targets.load(key), targets.load(key).plans(profile)) for key in profile.providers]
    return Order(profile, found)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Begin the message of what is refused inside with where it comes from."""
    try:
        yield
    except RejectedError as err:
        err.args = (f"{what}: {err}",)
        raise


class Common:
    """What exports of one model for several profiles share: examples, encoder, workbenches.

    Args:
        job: any of these exports; they differ in `profile` and `out` only.
        scratch: folder for what is made on the way.
        stage: shows progress.
        tell: shows a note at once.

    Raises:
        RejectedError: model or examples cannot be used.
        UnavailableError: the disk refuses.
    """

    def __init__(self, job: Job, scratch: Path, stage: Stage, tell: Tell = unheard) -> None:
        self.job = job
        self.recipe = recipes.load(job.task)
        self.split = self.recipe.split(job.data, job.evaluation, share=job.share, seed=job.seed)
        self._scratch = scratch
        self._stage = stage
        self._tell = tell
        self.outcome: Outcome | None = None
        self._benches: dict[tuple[int, int], Workbench] = {}
        self._found: Inspection | None = None
        self.reductions: list[Reduction] = []
        teacher = None if job.teacher is None else _teacher(job.teacher)
        model = job.model if teacher is None else str(teacher.folder)
        source = open_source(model, tokenizer=job.tokenizer)
        self.source = source.name
        self.source_digest = (source.digest() if teacher is None else teacher.digest()).hex()
        self.notes = self._share_noted(teacher)
        if job.train != "head":
            plan = self._plan(source)
            self._found = self._look(None if teacher else self._untrained(source))
            self._benches.clear()
            self.outcome = self._learn(source, teacher, plan)
        with stage("exporting the encoder", None):
            self.encoder = exported(source) if self.outcome is None else _learnt(self.outcome)
        if self.outcome is not None:  # what a manifest tells of is what training began with
            base = self.outcome.trained.facts.base
            self.source = base.source
            self.encoder = replace(self.encoder, weights_sha256=base.sha256)
        if job.train == "static":
            self._train_static(source)
        elif job.prune_vocab and job.student != "static":  # whose are the texts' pieces anyhow
            with stage("pruning the vocabulary", None):
                self._prune()

    def _share_noted(self, teacher: Trained | None) -> list[str]:
        """Return what one should know of the share to reject, and show it at once.

        Raises:
            RejectShareError, TooFewError: what calibrates does not support it.
        """
        if not self.recipe.TRAINABLE:  # then all that is learnt calibrates, and `split` has counted
            return []
        job = self.job
        notes = check(
            self.split.train,
            file=str(job.data),
            share=job.share,
            train=job.train,
            teacher=teacher,
            seed=job.seed,
        )
        for note in notes:
            self._tell(note)
        return notes

    def _prune(self) -> None:
        """Keep of the vocabulary what so many of the training texts are made of.

        Raises:
            RejectedError: this model's cannot be pruned.
        """
        texts = self.recipe.texts(self.split.train)
        pieces_kept = language(self.encoder, texts, least=self.job.prune_vocab)
        smaller, pieces = prune(self.encoder, pieces_kept)
        self.reductions.append(Reduction("vocabulary", str(pieces), self.encoder, same_head=True))
        self.encoder = smaller

    def _untrained(self, source: Source) -> Workbench:
        """Return the workbench of the encoder as it comes."""
        with self._stage("exporting the encoder", None):
            self.encoder = exported(source)
        return self._bench(cut_at(self.job.max_tokens, USUAL_TOKENS, self.encoder))

    def _plan(self, source: Source) -> TrainingPlan | None:
        """Return what a lock file says of training; what can be refused is, before any long work.

        Raises:
            NoWeightsError: `source` cannot be trained.
            LockError: the lock file is not of this export.
        """
        job = self.job
        if job.train == "static":
            return None
        from exporters.training.train import trainable  # noqa: PLC0415 -- torch: seconds

        trainable(source)
        if job.lock is None:
            return None
        given = read_lock(job.lock)
        check_same(given, self.describe(load_profile(job.profile), given.max_tokens))
        return given.training

    def _learn(
        self, source: Source, teacher: Trained | None, plan: TrainingPlan | None
    ) -> Outcome | None:
        """Train what the job asks for, as a lock file says where there is one."""
        job = self.job
        if job.train == "static":
            return None
        if teacher is not None:
            return self._teach(source, teacher, plan)
        from exporters.training.few import few  # noqa: PLC0415 -- torch: seconds
        from exporters.training.train import Order, train  # noqa: PLC0415

        order = Order(
            source,
            self.split.train,
            seed=job.seed,
            max_tokens=job.max_tokens,
            minutes=job.train_minutes,
            plan=plan,
        )
        return (few if job.train == "few" else train)(order, self._stage)

    def _teach(self, source: Source, teacher: Trained, plan: TrainingPlan | None) -> Outcome:
        """Make a student, and remember what it is smaller than."""
        from exporters.training.distil import StudentOrder, distil, taught_by  # noqa: PLC0415

        job = self.job
        assert job.student is not None  # noqa: S101 -- who names a teacher names a student
        with self._stage("exporting the teacher", None):
            before = exported(source)
        order = StudentOrder(
            teacher, source, before, self.split.train, job.student, job.seed, job.max_tokens, plan
        )
        outcome = distil(order, self._stage)
        step = Reduction(
            "student", outcome.report["student"], before, fitter=taught_by(outcome, teacher)
        )
        self.reductions.append(step)
        return outcome

    def _train_static(self, source: Source) -> None:
        """Put a static model, whose vectors begin as the encoder's do, in the encoder's place."""
        from exporters.training.divide import divide  # noqa: PLC0415 -- torch: seconds
        from exporters.training.train_static import StaticOrder, train_static  # noqa: PLC0415

        job = self.job
        order = StaticOrder(
            self.encoder,
            source.name,
            source.digest(),
            divide(self.split.train, seed=job.seed, way="static"),
            seed=job.seed,
            max_tokens=job.max_tokens,
        )
        self.encoder, self.outcome = train_static(order, self._stage)

    def describe(self, profile: DeviceProfile, max_tokens: int) -> Lock:
        """Return the lock of an export, as far as it is known before anything is made."""
        job = self.job
        return describe(
            profile=profile,
            model=self.source_digest,
            data=job.data,
            evaluation=job.evaluation,
            task=job.task,
            share=job.share,
            seed=job.seed,
            max_tokens=max_tokens,
            cpu=this_device().cpu_model,
            train=job.train,
            student=job.student,
            prune_vocab=job.prune_vocab,
            options=job.options,
        )

    def workbench(self, profile: DeviceProfile) -> Workbench:
        """Return the workbench of all profiles that cut texts where this one does.

        Raises:
            TooLongError: the model does not take as many tokens as the user asked for.
        """
        length = cut_at(self.job.max_tokens, profile.max_tokens, self.encoder)
        longest = max([length, *_buckets(profile)]) if self.job.prune_vocab else 0
        return self._bench(length, longest)

    def _bench(self, length: int, longest: int = 0) -> Workbench:
        """Return that of texts cut at `length`, of an encoder cut at `longest`; 0: not cut."""
        if (length, longest) not in self._benches:
            encoder = cut_positions(self.encoder, longest) if longest else self.encoder
            self._benches[length, longest] = Workbench(
                task=self.job.task,
                recipe=self.recipe,
                split=self.split,
                encoder=encoder,
                source=self.source,
                max_tokens=length,
                share=self.job.share,
                seed=self.job.seed,
                scratch=self.folder(),
                stage=self._stage,
                fitter=self._fitter(),
            )
        return self._benches[length, longest]

    def _fitter(self) -> Fitter:
        if self.outcome is not None:
            return self.outcome.fitter
        return self.recipe.fitter(self.job.options)

    def inspection(self, profile: DeviceProfile) -> Inspection:
        """Return what was found in the examples, by the encoder as it came."""
        if self._found is None:
            self._found = self._look(self.workbench(profile))
        return self._found

    def _look(self, bench: Workbench | None) -> Inspection:
        found = inspect(self.job.task, self.split, bench, self.job.train)
        for caution in found.cautions():
            self._tell(caution)
        return found

    def folder(self) -> Path:
        """Return a new folder, on the file system that exports go to."""
        return Path(tempfile.mkdtemp(dir=self._scratch))


def make(order: Order, out: Path, common: Common) -> dict[str, Any]:
    """Make one profile's export in `out`, by one rename; return what `quality.json` says.

    Raises:
        RejectedError: it cannot be compiled, or loses too much.
    """
    job, bench, scratch = common.job, common.workbench(order.profile), common.folder()
    identity = replace(
        bench.identity(job.name, job.version, order.profile.name),
        supported_until=job.supported_until,
    )
    maker = Maker(bench, order.profile, identity, job.allow_drop, scratch)
    inspection = common.inspection(order.profile)
    decisions = Decisions(maker, _lock(order, common), minutes=job.tune_minutes)
    if job.lock is not None:
        decisions.follow(read_lock(job.lock))
    with _named(f"profile {order.profile.name}, --data {job.data}"):
        judged = [done for target, plans in order.wanted for done in decisions.make(target, plans)]
    chosen, cautions = _select(judged)
    for key in order.profile.providers:
        of_key = [one.measured for one in chosen if one.provider == key and one.measured]
        check_latency(order.profile, key, [measured["latency_ms"] for measured in of_key])
    fresh = scratch / "out"
    bundle = fresh / BUNDLE
    bundle.mkdir(parents=True)
    for one in chosen:
        (one.folder / one.made.plan.name).rename(bundle / one.made.plan.name)
    made = [one.made for one in chosen]
    bundle_hash = write_bundle(bundle, identity, bench.encoder.tokenizer, made)
    smaller = bench.once("reductions", lambda: reductions.judge(common.reductions, bench))
    cautions += reductions.cautions(smaller, limit=order.profile.gate.accuracy_drop_max)
    report: dict[str, Any] = {
        "bundle": bundle_hash,
        "task": job.task,
        "held_out": {"rows": len(bench.split.held_out), "given": job.evaluation is not None},
        "fp32": tidy(bench.reference_metrics(bench.split.held_out)),
        "reductions": smaller,
        "variants": {one.made.plan.name: one.report for one in judged},
        "cautions": common.notes + inspection.cautions() + decisions.notes + cautions,
    }
    if common.outcome is not None:
        report["training"] = common.outcome.report
        report["cautions"] = [*common.outcome.division.cautions, *report["cautions"]]
    measured = {
        "bundle": bundle_hash,
        "cpu": this_device().cpu_model,
        "variants": {one.made.plan.name: one.measured for one in chosen if one.measured},
    }
    if common.outcome is not None:
        measured["training"] = common.outcome.measured
        shutil.copytree(common.outcome.trained.folder, fresh / TRAINED)
    write_tar(bundle, fresh / TAR)
    (fresh / LOCK).write_bytes(decisions.lock.to_bytes())
    if decisions.searches:
        report["tuned"] = {one["provider"]: one["why"] for one in decisions.searches}
        found = {"bundle": bundle_hash, "searches": decisions.searches}
        (fresh / TUNE).write_text(json.dumps(found, indent=1) + "\n")
    (fresh / DATA).write_bytes(inspection.to_bytes())
    (fresh / QUALITY).write_text(json.dumps(report, indent=2) + "\n")
    (fresh / MEASUREMENTS).write_text(json.dumps(measured, indent=2) + "\n")
    opened = open_bundle(bundle, verify=False)
    origins = Origins(
        base_license=job.base_license,
        base_supplier=job.base_supplier,
        data=decisions.lock.data,
        evaluation=decisions.lock.evaluation,
        rows=len(bench.split.train),
        held_out=len(bench.split.held_out),
    )
    (fresh / ML_BOM).write_text(ml_bom(opened.manifest, opened.hash, report, origins))
    write_reports(fresh, _content(opened, order, common, report, chosen))
    replace_folder(fresh, out)
    return report


def _content(
    opened: Bundle,
    order: Order,
    common: Common,
    report: dict[str, Any],
    chosen: Sequence[Done],
) -> Content:
    """Return what the page is made of: of the variants in the bundle, every answer."""
    bench = common.workbench(order.profile)
    judgements = []
    for one in chosen:
        rows = [judged.row for judged in one.judged]
        before = bench.reference_answers(rows)
        after = [judged.answer for judged in one.judged]
        judgements.append(Judgement(one.made.plan.name, rows, before, after))
    return Content(
        opened.manifest,
        opened.hash,
        order.profile,
        report,
        judgements,
        reference_bytes=size_bytes(bench.reference_graph.parent),
        inspection=common.inspection(order.profile),
    )


def _lock(order: Order, common: Common) -> Lock:
    """Return the lock of this export, as far as it is known before anything is compiled."""
    lock = common.describe(order.profile, common.workbench(order.profile).max_tokens)
    if common.outcome is None:
        return lock
    return lock.model_copy(update={"training": common.outcome.plan})


def _select(judged: Sequence[Done]) -> tuple[list[Done], list[str]]:
    """Return what keeps gate and budget, best first, and what the user should know.

    Raises:
        QualityError, OverBudgetError: of some provider none does.
    """
    cautions = [note for one in judged for note in one.report["notes"]]
    passed = [one for one in judged if one.error is None]
    for one in judged:
        if one.error is None:
            continue
        if one.provider not in {other.provider for other in passed}:
            raise one.error
        cautions.append(f"{one.made.plan.name} is left out: {one.error}")
    return passed, cautions


def check_name(name: str) -> None:
    """Make sure that a model can be called so.

    Raises:
        IdentityError: it cannot.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        msg = f"--name {name!r}: take a-z, 0-9, '.', '_', '-', up to 64, the first a-z or 0-9"
        raise IdentityError(msg) from None


def cut_at(asked: int | None, usual: int, encoder: Encoder) -> int:
    """Return where texts are cut: as the user asked, else as usual, or where the model ends.

    Raises:
        TooLongError: the user asked for more than the model takes, or for next to nothing.
    """
    limit = min(_MAX_TOKENS, encoder.max_positions or _MAX_TOKENS)
    if asked is None:
        return min(usual, limit)
    if not _MIN_TOKENS <= asked <= limit:
        msg = f"--max-tokens {asked}: this model takes {_MIN_TOKENS} to {limit}"
        raise TooLongError(msg)
    return asked


def _buckets(profile: DeviceProfile) -> list[int]:
    """Return all lengths that a profile asks a graph for."""
    found = (getattr(profile, key, None) for key in profile.providers)
    return [length for one in found for length in getattr(one, "buckets", None) or ()]


def exported(source: Source) -> Encoder:
    """Return the encoder of a source, exported now or in an earlier run."""
    return read_encoder(kept("encoders", key_of([source.digest(), _code()]), source.export))


def _teacher(folder: Path) -> Trained:
    from exporters.training.distil import read_teacher  # noqa: PLC0415 -- wants torch

    return read_teacher(folder)


def _learnt(outcome: Outcome) -> Encoder:
    """Return a trained encoder: weights, or a graph already."""
    folder = outcome.trained.folder
    if (folder / ENCODER).is_file():
        return read_encoder(folder)
    return exported(open_source(str(folder), tokenizer=None))


def _code() -> bytes:
    """The code that an exported encoder depends on, besides its packages."""
    files = sorted((Path(__file__).parent / "sources").glob("*.py"))
    return b"\0".join(file.read_bytes() for file in files)
