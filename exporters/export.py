"""The pipeline: model, examples and device profile in, a bundle that has proved itself out."""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import onnx
from pydantic import TypeAdapter, ValidationError
from threadpoolctl import threadpool_limits

from edgeslm.contract.base import Name
from edgeslm.contract.manifest import BaseModelInfo, Tolerance
from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import RejectedError
from edgeslm.ports import Answer
from edgeslm.runtime.device import this_device
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.profiles import load_profile
from exporters import recipes, targets
from exporters.bundle import MANIFEST, Identity, write_manifest, write_parts, write_tar
from exporters.cache import kept, key_of
from exporters.data import Split
from exporters.encode import make_embed
from exporters.golden import POOL, Judged, Twin, choose, golden_file, strange_rows, tolerance
from exporters.heads.base import Advance, FittedHead
from exporters.quality import QualityError, answer_all, request_of
from exporters.recipes.base import Recipe
from exporters.sources import open_source
from exporters.sources.base import Encoder, read_encoder
from exporters.targets.base import GRAPH, WEIGHTS, Target

BUNDLE: Final = "bundle"
TAR: Final = "bundle.tar"
QUALITY: Final = "quality.json"
MEASUREMENTS: Final = "measurements.json"
_UNKNOWN: Final = Tolerance(score=0.0, confidence=0.0, verified="none")
_BATCH: Final = 16  # texts of the float32 encoder, which only the reference is fitted on
_TIMED: Final = 64  # inferences of either precision, interleaved
_DIGITS: Final = 6
_MIN_TOKENS: Final = 4  # a manifest's bounds
_MAX_TOKENS: Final = 8192
_ROUNDING: Final = 1e-9  # of points that are differences of percentages


class Stage(Protocol):
    """Announces a stage of `total` steps (None: it cannot say) and shows its progress."""

    def __call__(self, name: str, total: int | None) -> AbstractContextManager[Advance]: ...


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
    recipe = recipes.load(job.task)
    target = targets.load(profile.providers[0])
    split = recipe.split(job.data, job.evaluation, share=job.share, seed=job.seed)
    source = open_source(job.model, tokenizer=job.tokenizer)
    with stage("exporting the encoder", None):
        folder = kept("encoders", key_of([source.digest(), _code()]), source.export)
        encoder = read_encoder(folder)
    identity = Identity(
        name=job.name,
        version=job.version,
        task=job.task,
        profile=profile.name,
        base_model=BaseModelInfo(source=source.name, sha256=encoder.weights_sha256),
        max_tokens=_max_tokens(job, profile, encoder),
    )
    # One thread of linear algebra: the same sums on any machine, and several cores shared with
    # others make it slower, not faster.
    with _beside(job.out) as scratch, threadpool_limits(limits=1):
        work = _Work(job, profile, recipe, target, split, encoder, identity, scratch, stage)
        report = work.run()
        _replace(scratch / "out", job.out)
    return report


@dataclass(frozen=True, slots=True)
class _Variant:
    """A bundle in the making: its folder, its head and the model loaded from it."""

    folder: Path
    head: FittedHead
    model: Model


@dataclass(frozen=True, slots=True)
class _Work:
    """One export under way; its steps share all of these."""

    job: Job
    profile: DeviceProfile
    recipe: Recipe
    target: Target
    split: Split
    encoder: Encoder
    identity: Identity
    scratch: Path
    stage: Stage

    def run(self) -> dict[str, Any]:
        """Fill `scratch/out`; return the quality report."""
        original = self._variant("fp32", self.encoder.model, "fp32")
        with self.stage("quantising", None):
            small = self.target.quantize(self.encoder.model, self.profile)
        (self.scratch / "out").mkdir()
        artifact = self._variant(f"out/{BUNDLE}", small, self.target.PRECISION)
        said = self._answers(original, "fp32"), self._answers(artifact, self.target.PRECISION)
        report = self._judge(*said)
        bundle_hash = self._finish(artifact, small, said[1])
        report = {"bundle": bundle_hash, **report}
        out = self.scratch / "out"
        write_tar(out / BUNDLE, out / TAR)
        (out / QUALITY).write_text(json.dumps(report, indent=2) + "\n")
        measured = {"bundle": bundle_hash, **self._measure(original.folder, out / BUNDLE)}
        (out / MEASUREMENTS).write_text(json.dumps(measured, indent=2) + "\n")
        return report

    def _variant(self, place: str, model: onnx.ModelProto, precision: str) -> _Variant:
        """Fit a head on the embeddings of `model`, and make a bundle of the two."""
        rows, recipe = self.split.train, self.recipe
        folder = self.scratch / place
        folder.mkdir()
        embed = make_embed(
            model,
            self.encoder,
            max_tokens=self.identity.max_tokens,
            batch=_BATCH if precision == "fp32" else 1,
        )
        with self.stage(f"fitting on {precision}", recipe.steps(rows)) as advance:
            head = recipe.fit(
                rows, embed, share=self.job.share, seed=self.job.seed, advance=advance
            )
        self.target.save(head.attach(model), folder, self.profile)
        self._write(folder, head.parameters, precision)
        return _Variant(folder, head, load_model(folder, profile=self.profile, golden=False))

    def _write(
        self,
        folder: Path,
        parameters: bytes,
        precision: str,
        *,
        golden: bytes = b"",
        allowed: Tolerance = _UNKNOWN,
    ) -> str:
        """Write all but graph and weights; return the bundle's hash."""
        write_parts(folder, tokenizer=self.encoder.tokenizer, parameters=parameters, golden=golden)
        return write_manifest(
            folder,
            self.identity,
            provider=self.profile.providers[0],
            precision=precision,
            requires=self.profile.requires,
            tolerance=allowed,
        )

    def _answers(self, variant: _Variant, name: str) -> list[Answer]:
        rows = self.split.held_out
        with self.stage(f"judging {name}", len(rows)) as advance:
            return answer_all(variant.model, rows, advance)

    def _judge(self, before: Sequence[Answer], after: Sequence[Answer]) -> dict[str, Any]:
        """Return the quality report.

        Raises:
            QualityError: the artifact lost more than allowed.
        """
        rows = self.split.held_out
        share = self.job.share
        fp32, artifact = (self.recipe.measure(rows, said, share=share) for said in (before, after))
        lost = self.recipe.losses((fp32, before), (artifact, after))
        limit = self.profile.gate.accuracy_drop_max
        passed = all(points <= limit + _ROUNDING for points in lost.values())
        if not passed and not self.job.allow_drop:
            raise QualityError(lost, limit=limit, rows=len(rows), fp32=fp32, artifact=artifact)
        return {
            "task": self.job.task,
            "held_out": {"rows": len(rows), "given": self.job.evaluation is not None},
            "fp32": _tidy(fp32),
            "artifact": _tidy(artifact),
            "lost_points": _tidy(lost),
            "allowed_points": limit,
            "passed": passed,
            "cautions": self.split.cautions + self.recipe.cautions(artifact, limit=limit),
        }

    def _finish(
        self, artifact: _Variant, quantized: onnx.ModelProto, said: Sequence[Answer]
    ) -> str:
        """Add the golden file with its tolerances; return the bundle's hash once it replays."""
        parameters, precision = artifact.head.parameters, self.target.PRECISION

        def surety(answer: Answer, allowed: Tolerance) -> float:
            return self.recipe.surety(answer, parameters, allowed)

        held_out = self.split.held_out
        strange = list(strange_rows([*held_out, *self.split.train]))
        more = answer_all(artifact.model, strange, lambda _: None)
        judged = list(map(Judged, [*held_out, *strange], [*said, *more]))
        pool = choose(judged, surety, cases=POOL)
        with self.stage("measuring tolerances", len(pool)) as advance:
            folder = self.scratch / "twin"
            folder.mkdir()
            self.target.save(artifact.head.attach(quantized), folder, self.profile, fused=False)
            self._write(folder, parameters, precision)
            model = load_model(folder, profile=self.profile, golden=False)
            twins = list(map(Twin, pool, answer_all(model, [j.row for j in pool], advance)))
        allowed = tolerance(twins)
        golden = golden_file(twins, surety, allowed=allowed)
        bundle_hash = self._write(
            artifact.folder, parameters, precision, golden=golden, allowed=allowed
        )
        load_model(artifact.folder, profile=self.profile)  # raises where a case does not replay
        return bundle_hash

    def _measure(self, fp32: Path, artifact: Path) -> dict[str, Any]:
        """Time both precisions, one inference of each in turn, on one thread."""
        models = [load_model(f, cache_entries=0, golden=False) for f in (fp32, artifact)]
        requests = [request_of(row) for row in self.split.held_out[:_TIMED]]
        took: list[list[float]] = [[], []]
        with self.stage("timing", len(requests)) as advance:
            for request in requests:
                for model, seconds in zip(models, took, strict=True):
                    start = time.perf_counter()
                    model.answer(request)
                    seconds.append(time.perf_counter() - start)
                advance(1)
        slow, fast = (1000 * statistics.median(seconds) for seconds in took)
        large, small = (_graph_bytes(folder) for folder in (fp32, artifact))
        return {
            "cpu": this_device().cpu_model,
            "provider": models[1].provider,
            "node_share": models[1].node_share,
            "median_ms": {"fp32": _short(slow), "artifact": _short(fast)},
            "speedup": _short(slow / fast),
            "graph_and_weights_bytes": {"fp32": large, "artifact": small},
            "size_ratio": _short(small / large),
        }


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
    return sum((folder / name).stat().st_size for name in (GRAPH, WEIGHTS))


def _tidy(metrics: Mapping[str, float | int | None]) -> dict[str, float | int | None]:
    return {k: _short(v) if isinstance(v, float) else v for k, v in metrics.items()}


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
