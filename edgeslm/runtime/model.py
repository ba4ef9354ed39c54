"""One model, running: bundle, session, task and cache behind one thread-safe `answer`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from edgeslm import tasks
from edgeslm.adapters.ort import GraphError, InferenceError
from edgeslm.contract.golden import GoldenCase
from edgeslm.contract.manifest import Coverage, Stage
from edgeslm.contract.messages import ModelRef
from edgeslm.contract.profile import DeviceProfile
from edgeslm.core.drift import Trained
from edgeslm.core.overlay import Lesson
from edgeslm.ports import Answer, Memory, Prepared, Request, Session, Task, Tensor
from edgeslm.runtime.batches import TOGETHER, groups, most_padding, stack
from edgeslm.runtime.buckets import LENGTH_FROM, Buckets
from edgeslm.runtime.bundle import Bundle, BundleTamperedError, VariantFiles, open_bundle
from edgeslm.runtime.cache import Cache
from edgeslm.runtime.coverage import check, coverage, open_graph, read_costs, share
from edgeslm.runtime.device import this_device
from edgeslm.runtime.golden import Verdicts, faults, parse_golden, replay
from edgeslm.runtime.tokenizer import INPUTS, Encoder, Read, Tokenizer
from edgeslm.runtime.variants import ANY_LENGTH, CPU, Variant, choose_variant, fixed_length

Row = tuple[dict[str, Tensor], bool]  # outputs without the batch axis; truncated
# Of a task that can be taught so.
Silences = Callable[[Lesson, Sequence[Request], Memory | None], bool]
P = ParamSpec("P")
T = TypeVar("T")


class Reading(NamedTuple):
    """A request that was read: `prepared`, and what the model says of it, where it is asked."""

    prepared: Prepared
    outputs: dict[str, Tensor] | None
    truncated: bool


class Model:
    """A loaded bundle. `answer` may be called from any number of threads at once.

    Attributes:
        bundle: what was loaded.
        files: those of the bundle that serve this variant.
        ref: name, version and hash, as results carry them.
        task: the manifest's task.
        provider: key of edgeslm/providers/ that runs the graph.
        variant: which of the bundle's it is; None where the bundle names none.
        verified: where the exporter saw it run.
        passed_over: variants before it that this device cannot run, and why.
        supported_until: last day on which somebody mends it; None: nothing was promised.
        trained: what its training says of what it will hear.
        faults: what its golden file has as known faults; none where it was loaded without.
        coverages: what the provider took, by file name of the graph.
        coverage: of several graphs, that of which it took least.
        node_share: share of the graph's nodes on it, in [0, 1].
        batch_invariant: a row's output does not depend on its batch.
        encoder: reads texts into tokens.
        handed_over: of a cascade, the share of its answers that the second stage gave.
    """

    def __init__(  # noqa: PLR0913 -- `load_model` puts the parts together
        self,
        bundle: Bundle,
        *,
        variant: Variant,
        coverages: Mapping[str, Coverage],
        session: Session,
        tokenizer: Tokenizer,
        task: Task,
        cache_entries: int,
    ) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.files = bundle.of(variant.name)
        self.ref: ModelRef = {
            "name": manifest.name,
            "version": manifest.version,
            "hash": bundle.hash,
        }
        self.task = manifest.task
        self.provider = session.provider
        self.variant = variant.name
        self.verified = variant.graphs[0].verified or "none"
        self.passed_over = variant.passed_over
        self.supported_until = manifest.supported_until
        self.trained: Trained = getattr(task, "trained", Trained())
        self.faults: tuple[Request, ...] = ()
        self._silences: Silences | None = getattr(task, "silences", None)
        self.coverages = coverages
        self.coverage = min(coverages.values(), key=share)
        self.node_share = share(self.coverage)
        self.batch_invariant = all(graph.batch_invariant for graph in variant.graphs)
        self._session = session
        self._padding = most_padding(session.inputs, self.coverage.operations)
        self.encoder: Encoder = tokenizer
        self._prepare = task.prepare
        self._finish = task.finish
        self._memory = task.memory
        self._cache: Cache[Row] = Cache(cache_entries)

    @property
    def together(self) -> int:
        """Texts worth asking at once: more than one only where that changes no answer."""
        return TOGETHER if self.batch_invariant else 1

    @property
    def handed_over(self) -> float | None:
        return None

    @property
    def cache_hits(self) -> int:
        """Answers whose model output was kept from before."""
        return self._cache.hits

    @property
    def cache_misses(self) -> int:
        """Inferences."""
        return self._cache.misses

    def memory(self) -> Memory | None:
        """Return a memory of nothing yet; None: no answer depends on what was asked before."""
        return self._memory()

    def overwritten(self) -> str | None:
        """See `Bundle.overwritten`."""
        return self.bundle.overwritten()

    def silences(self, lesson: Lesson, memory: Memory | None = None) -> bool:
        """Whether a known fault of the golden file would be none any more by a lesson.

        Args:
            lesson: in addition to what the memory was taught.
            memory: of this model.
        """
        return self._silences is not None and self._silences(lesson, self.faults, memory)

    def answer(self, request: Request, memory: Memory | None = None) -> Answer:
        """Return what the model says of `request`.

        It is a pure function of the request, and of what `memory` was asked before; without one,
        as of the first that was ever asked.

        Raises:
            InferenceError: the provider failed on this text.
        """
        prepared, outputs, truncated = self._read(request)
        return self._finish(prepared, outputs, truncated=truncated, memory=memory)

    def answer_anew(self, request: Request, memory: Memory | None = None) -> Answer:
        """Return what `answer` returns, without the cache: nothing is taken from it or put there.

        Raises:
            InferenceError: the provider failed on this text.
        """
        prepared = self._prepare(request)
        if prepared.model_text is None:
            return self._finish(prepared, None, truncated=False, memory=memory)
        outputs, truncated = self._infer(prepared.model_text)
        return self._finish(prepared, outputs, truncated=truncated, memory=memory)

    def answer_all(
        self, requests: Sequence[Request], memory: Memory | None = None
    ) -> list[Answer | Exception]:
        """Return what `answer` returns, or raises, for each in order: the same to the last bit.

        Where a row does not depend on its batch, those that need the model share inferences.
        """
        return self.judge(self.read(requests), memory)

    def read(self, requests: Sequence[Request]) -> list[Reading | Exception]:
        """Do what of `answer_all` depends on no memory, and takes time. Any order will do."""
        if len(requests) == 1:
            return [_attempt(self._read, requests[0])]
        prepared = [_attempt(self._prepare, request) for request in requests]
        texts = [
            one.model_text
            for one in prepared
            if isinstance(one, Prepared) and one.model_text is not None
        ]
        rows = dict(zip(texts, self._cache.get_all(texts, self._infer_all), strict=True))
        return [
            one if isinstance(one, Exception) else _attempt(_with_row, one, rows)
            for one in prepared
        ]

    def judge(
        self, readings: Sequence[Reading | Exception], memory: Memory | None = None
    ) -> list[Answer | Exception]:
        """Do the rest, which takes microseconds: in the order in which it was asked."""
        return [
            one if isinstance(one, Exception) else _attempt(self._judge, one, memory)
            for one in readings
        ]

    def check_batches(self, requests: Sequence[Request]) -> bool:
        """Return whether rows do not depend on their neighbours here, if the exporter says so.

        It has proved that on its own CPU, and kernels differ from one kind to the next. Where it
        does not hold, texts are run one at a time from now on.
        """
        if not self.batch_invariant:
            return True
        self.forget()
        together = self.answer_all(requests, self.memory())
        self.forget()
        memory = self.memory()
        self.batch_invariant = together == [self.answer(one, memory) for one in requests]
        return self.batch_invariant

    def replay_golden(self, *, cached: bool = False, gently: bool = True) -> list[GoldenCase]:
        """Hold the golden file against what the provider says now; return it.

        May be called while others are answered, to whom it leaves most of the time, if `gently`.
        With `cached` what the cache holds is not asked for again: for one just loaded. The cases
        are asked in order, with a memory of their own.

        Raises:
            BundleTamperedError: the file is not the one that was loaded.
            GoldenInvalidError, GoldenFailedError: see edgeslm/runtime/golden.py.
        """
        raw, artifact = self.files.read("golden"), self.files.artifacts("golden")[0]
        if hashlib.sha256(raw).hexdigest() != artifact.sha256:
            msg = f"{self.files.path}: {artifact.path} is not the file that was loaded"
            raise BundleTamperedError(msg)
        assert artifact.tolerance is not None  # noqa: S101 -- the manifest's own rule
        cases = parse_golden(raw)
        answer = self.answer if cached else self.answer_anew
        memory = self.memory()
        replay(cases, lambda one: answer(one, memory), artifact.tolerance, gently=gently)
        return cases

    def resize(self, cache_entries: int) -> None:
        """Keep so many model outputs from now on."""
        self._cache.resize(cache_entries)

    def tokens(self, request: Request) -> int:
        """Return how many tokens the model reads to answer `request`; 0 where it is not asked."""
        text = self._prepare(request).model_text
        return 0 if text is None else self.encoder.encode(text)[0]["input_ids"].shape[1]

    def forget(self) -> None:
        """Empty the cache and its counts."""
        self._cache.clear()

    def _read(self, request: Request) -> Reading:
        prepared = self._prepare(request)
        if prepared.model_text is None:
            return Reading(prepared, None, truncated=False)
        return Reading(prepared, *self._cache.get(prepared.model_text, self._infer))

    def _judge(self, reading: Reading, memory: Memory | None) -> Answer:
        prepared, outputs, truncated = reading
        return self._finish(prepared, outputs, truncated=truncated, memory=memory)

    def _infer(self, text: str) -> Row:
        feeds, truncated = self._wanted(self.encoder.encode(text))
        return _row(self._session.run(feeds), 0), truncated

    def _infer_all(self, texts: Sequence[str]) -> list[Row | Exception]:
        """Return the row of each text, or the error that it alone has."""
        if not self.batch_invariant:
            return [_attempt(self._infer, text) for text in texts]
        read = [self._wanted(one) for one in self.encoder.encode_all(texts)]
        lengths = [feeds[LENGTH_FROM].shape[1] for feeds, _ in read]
        found: dict[int, Row | Exception] = {}
        for group in groups(lengths, padding=self._padding):
            try:
                outputs = self._session.run(stack([read[i][0] for i in group]))
                found.update((i, (_row(outputs, at), read[i][1])) for at, i in enumerate(group))
            except InferenceError:  # of one of them: which one?
                found.update((i, _attempt(self._infer, texts[i])) for i in group)
        return [found[i] for i in range(len(texts))]

    def _wanted(self, read: Read) -> Read:
        tensors, truncated = read
        return {name: tensors[name] for name in self._session.inputs}, truncated


def load_model(  # noqa: PLR0913 -- by name
    bundle: Path,
    *,
    profile: DeviceProfile | None = None,
    cache_entries: int = 4096,
    verdict_dir: Path | None = None,
    golden: bool = True,
    anew: bool = False,
    expected: str | None = None,
    variant: str | None = None,
    stand_in: str | None = None,
    make_room: Callable[[str], None] | None = None,
) -> Model:
    """Open, verify and load a bundle, and replay its golden file.

    Args:
        bundle: its folder.
        profile: of this device; None: take the first variant that it can run.
        cache_entries: model outputs to keep.
        verdict_dir: where passed replays are remembered; None: replay now and remember nothing.
        golden: replay at all.
        anew: replay though it is remembered that the bundle has passed, and gently, unless with
            `make_room`: another model serves.
        expected: the hash that the bundle must have; None: any.
        variant: take this one; None: the first that this device can run.
        stand_in: key of a provider that runs the graphs in place of theirs, whatever they require:
            how an exporter judges what it cannot run. Nothing is then proved of their placement.
        make_room: called with the bundle's hash before the graph is loaded, which is what takes
            memory, and after all that can be found wrong without it; what it raises is raised.

    Raises:
        BundleMissingError, BundleInvalidError, BundleForeignError, BundleTamperedError,
            BundleWrongError: see `open_bundle`.
        CascadeError: its stages cannot go together.
        UnknownTaskError, NoArtifactError, GraphError, TokenizerError: what it needs is not here,
            or one of its files is not what it should be.
        CoverageError: the provider took less of a graph than the bundle asks for.
        InvalidFileError: its parameters are not those of its task.
        GoldenInvalidError, GoldenFailedError: see edgeslm/runtime/golden.py.
    """
    opened = open_bundle(bundle, expected=expected)
    manifest = opened.manifest
    device = this_device()
    make_task = tasks.load(manifest.task)
    choose = partial(choose_variant, opened, device=device, profile=profile, stand_in=stand_in)
    *_, stage = manifest.stages()
    chosen = choose(variant=variant, stage=stage)
    files = opened.of(chosen.name)
    # Before the graph, whose loading takes longer.
    cases = parse_golden(files.read("golden")) if golden else []

    def part(chosen: Variant, stage: Stage | None) -> Part:
        files = opened.of(chosen.name, stage)
        placed = stand_in in {None, chosen.graphs[0].provider or CPU}
        task = make_task(files.read("parameters"))
        return Part(opened, chosen, files, task, cache_entries, placed=placed)

    last = part(chosen, stage)
    load: Callable[[], Model] = last.load
    if stage is not None:
        from edgeslm.runtime.cascade import cascade  # noqa: PLC0415 -- few bundles are one

        first = part(choose(variant=chosen.name, stage="first"), "first")
        load = cascade(files.read("cascade"), first, last)
    if make_room is not None:
        make_room(opened.hash)
    model = load()
    if (file := opened.overwritten()) is not None:
        msg = f"{opened.path}: {file}: was written to while it was loaded. Load it again."
        raise BundleTamperedError(msg)
    model.faults = faults(cases)
    provider = chosen.provider
    verdicts = Verdicts(
        verdict_dir,
        device=device,
        runtime=f"{model.provider} {provider.runtime()}",
        variant=chosen.name,
    )
    if golden and (anew or not verdicts.passed(opened.hash)):
        cases = model.replay_golden(cached=True, gently=anew and make_room is None)
        if model.check_batches([Request(c.request.text, c.request.source) for c in cases]):
            verdicts.remember(opened.hash)
        model.forget()
    return model


@dataclass(frozen=True, slots=True)
class Part:
    """What one model is loaded from; all that can be wrong without a graph is found by now.

    Args:
        bundle: that holds it.
        chosen: its graphs, and who runs them.
        files: that serve it.
        task: made of its parameters.
        cache_entries: model outputs to keep.
        placed: who runs the graphs is whom they are for, and must take of them what it should.
    """

    bundle: Bundle
    chosen: Variant
    files: VariantFiles
    task: Task
    cache_entries: int
    placed: bool

    def load(self, kind: Callable[..., Model] = Model) -> Model:
        """Load the graphs, and put the parts together to a `kind`.

        Raises:
            GraphError, TokenizerError, CoverageError: see `load_model`.
        """
        session, took = _open_graphs(self.files, self.chosen, placed=self.placed)
        limit = self.bundle.manifest.max_tokens
        if isinstance(session, Buckets):
            limit = min(limit, session.longest)
        return kind(
            self.bundle,
            variant=self.chosen,
            coverages=took,
            session=session,
            tokenizer=Tokenizer.shared(self.files.read("tokenizer"), max_tokens=limit),
            task=self.task,
            cache_entries=self.cache_entries,
        )


def _open_graphs(
    files: VariantFiles, chosen: Variant, *, placed: bool
) -> tuple[Session, dict[str, Coverage]]:
    """Return a session on the graphs of a variant, and what its provider took of them.

    Raises:
        GraphError: one cannot be loaded, or takes what no tokenizer gives.
        CoverageError: the provider took too little of one.
    """
    costs = read_costs(files)
    sessions: dict[int, Session] = {}
    coverages: dict[str, Coverage] = {}
    for graph in chosen.graphs:
        options = chosen.provider.options(graph)
        if placed:
            options = replace(options, cpu_fallback=graph.placement.cpu_fallback)
        session = open_graph(files.path / graph.path, options)
        if unknown := sorted(set(session.inputs) - set(INPUTS)):
            msg = f"{graph.path}: takes {', '.join(unknown)}; known are {', '.join(INPUTS)}"
            raise GraphError(msg)
        took = coverage(session.pieces, options.ep, costs.get(graph.path, {}), graph.coverage)
        if placed:
            check(took, graph.placement, graph=graph.path)
        coverages[graph.path.rpartition("/")[2]] = took
        sessions[fixed_length(graph)] = session
    if len(sessions) == 1 and ANY_LENGTH in sessions:
        return sessions[ANY_LENGTH], coverages
    return Buckets(sessions), coverages


def _attempt(do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Exception:
    """Return what `do` returns, or what it raises: one text must not take others with it."""
    try:
        return do(*args, **kwargs)
    except Exception as err:  # noqa: BLE001 -- whoever asked for this text is told
        return err


def _with_row(prepared: Prepared, rows: Mapping[str, Row | Exception]) -> Reading:
    if prepared.model_text is None:
        return Reading(prepared, None, truncated=False)
    row = rows[prepared.model_text]
    if isinstance(row, Exception):
        raise row
    return Reading(prepared, *row)


def _row(outputs: Mapping[str, Tensor], at: int) -> dict[str, Tensor]:
    """Drop the batch axis; read-only, since the cache hands the same arrays to every caller.

    Copies: a view would keep the whole output, and an object more, for each entry of the cache.
    """
    rows = {}
    for name, value in outputs.items():
        row = value[at, ...].copy()
        row.setflags(write=False)
        rows[name] = row
    return rows
