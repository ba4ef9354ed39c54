"""One recipe tried: compiled, compared with float32, judged, timed; each kept by its content."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Final, TypeVar

import numpy as np
import onnx

import edgeslm
import exporters
from edgeslm import providers
from edgeslm.adapters.ort import make_session
from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import RejectedError
from edgeslm.ports import Session, SessionOptions
from edgeslm.runtime.batches import MASK
from edgeslm.runtime.buckets import Buckets
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.device import this_device
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.variants import ANY_LENGTH, fixed_length
from exporters.budget import latency_ms
from exporters.bundle import PACKAGES, Made, write_bundle
from exporters.cache import cache_folder, kept, key_of, pins
from exporters.data import Row, sample
from exporters.heads.base import FittedHead
from exporters.quality import answer_all, request_of
from exporters.sources.base import Encoder
from exporters.targets.base import Feeds, Target
from exporters.tune.space import Choice
from exporters.tune.timing import Runner, Times, callers, compare
from exporters.workbench import Workbench

T = TypeVar("T")
ROWS: Final = 300
"""Held-out rows that a recipe is judged on."""
TOKENS: Final = (16, 32)
"""Lengths of the texts that are timed, in tokens."""
_COMPARED: Final = 48  # texts whose outputs are compared with float32's
_TIMED: Final = 64
_LOOKED_AT: Final = 512  # texts among which those of the right length are looked for
_ROUNDS: Final = 3
_KIND: Final = "trials"  # folder of the cache
_EP: Final = SessionOptions("cpu", "CPUExecutionProvider")


@dataclass(frozen=True, slots=True)
class Trial:
    """What is known of a recipe.

    Args:
        choice: the recipe.
        error: mean relative distance of its outputs from float32's.
        lost: points lost against float32, by metric; its head is that of float32.
        rows: on how many rows.
        times: in turns with the profile's own recipe.
        nominal_ms: of one text, as a profile's budget counts it: see `exporters.budget`.
        size_bytes: graph and weights.
        problem: why it could not be tried; None: it could.
    """

    choice: Choice
    error: float = float("inf")
    lost: Mapping[str, float] = field(default_factory=dict)
    rows: int = 0
    times: Times = Times(float("inf"), 0.0, float("inf"), 0.0)  # noqa: RUF009 -- frozen
    nominal_ms: float = float("inf")
    size_bytes: int = 0
    problem: str | None = None

    @property
    def worst(self) -> float:
        """Most points lost; gains count as nothing lost."""
        return worst(self.lost)


@dataclass(frozen=True, slots=True)
class Harm:
    """What a recipe does to the answers; its head is that of float32.

    Args:
        points: most that are lost of the task's metric, on `ROWS` rows.
        error: mean relative distance of its outputs from float32's.
    """

    points: float
    error: float


@dataclass(frozen=True, slots=True)
class _Opened:
    """A compiled recipe.

    Args:
        folder: a bundle of it.
        session: on its graphs.
        pads: see `Runner`.
    """

    folder: Path
    session: Session
    pads: bool | None


class Lab:
    """Tries recipes of one model for one target.

    Args:
        bench: what all variants of the model share.
        profile: of the device.
        target: compiles.
        own: the profile's own recipe, which all are compared with.
    """

    def __init__(
        self, bench: Workbench, profile: DeviceProfile, target: Target, own: Choice
    ) -> None:
        self.bench = bench
        self.profile = profile
        self.own = own
        self._target = target
        self._folders: dict[Choice, Path] = {}  # of what was compiled

    def trial(self, choice: Choice) -> Trial:
        """Try a recipe, or remember what came of it."""
        found = self._kept("trial", choice, lambda: self._measure(choice))
        times = Times(**found.pop("times")) if "times" in found else Trial(choice).times
        return Trial(choice, times=times, **found)

    def harm(self, choice: Choice) -> Harm | None:
        """Return what a recipe does to the answers, without all else; None: it cannot be tried."""

        def measure() -> dict[str, Any]:
            try:
                opened = self._open(choice)
                _, lost = self._judge(choice, opened.folder)
                return asdict(Harm(worst(lost), self._distance(opened.session)))
            except RejectedError:
                return {}
            finally:
                if (folder := self._folders.pop(choice, None)) is not None:
                    shutil.rmtree(folder)

        found = self._kept("harm", choice, measure)
        return Harm(**found) if found else None

    def time(
        self, chosen: Sequence[Choice], *, rounds: int, done: Callable[[], None]
    ) -> list[Times]:
        """Time recipes in turns with each other; the first is the reference."""
        runners = [self._runner(choice) for choice in chosen]
        return compare(runners, self._timed, rounds=rounds, done=done)

    def _measure(self, choice: Choice) -> dict[str, Any]:
        try:
            opened = self._open(choice)
            model, lost = self._judge(choice, opened.folder)
            error = self._distance(opened.session)
        except RejectedError as err:
            return {"problem": str(err)}
        files = (opened.folder / choice.plan.name).glob("*.onnx*")
        return {
            "error": error,
            "lost": dict(lost),
            "rows": len(self._rows),
            "nominal_ms": latency_ms(model, list(map(request_of, self.bench.split.held_out))),
            "times": asdict(self.time([self.own, choice], rounds=_ROUNDS, done=lambda: None)[1]),
            "size_bytes": sum(file.stat().st_size for file in files),
        }

    def _judge(self, choice: Choice, folder: Path) -> tuple[Model, Mapping[str, float]]:
        """Return a compiled recipe, loaded, and the points that it loses.

        It is run by its own provider, whether or not this machine is such a device.

        Raises:
            RejectedError: it cannot be loaded.
        """
        bench, rows, plan = self.bench, self._rows, choice.plan
        model = load_model(folder, variant=plan.name, stand_in=plan.provider, golden=False)
        said = answer_all(model, rows, lambda _: None)
        before = bench.reference_metrics(rows), bench.reference_answers(rows)
        after = bench.recipe.measure(rows, said, share=bench.share), said
        return model, bench.recipe.losses(before, after)

    def _open(self, choice: Choice) -> _Opened:
        """Compile a recipe, if it was not yet, and open it.

        What is open is not kept: a search opens dozens, each of a hundred megabytes.

        Raises:
            RejectedError: it cannot be compiled or loaded.
        """
        if choice not in self._folders:
            self._folders[choice] = self._compile(choice)
        folder, plan = self._folders[choice], choice.plan
        graphs = open_bundle(folder).of(plan.name).artifacts("graph")
        provider = providers.load(plan.provider)
        assert provider is not None  # noqa: S101 -- whoever tunes has made sure
        sessions = {
            fixed_length(graph): make_session(folder / graph.path, options=provider.options(graph))
            for graph in graphs
        }
        session: Session = Buckets(sessions) if plan.lengths else sessions[ANY_LENGTH]
        by_row = all(graph.batch_invariant for graph in graphs)
        return _Opened(folder, session, MASK in session.inputs if by_row else None)

    def _compile(self, choice: Choice) -> Path:
        """Write a bundle of a recipe with the head of float32, and return its folder.

        Raises:
            RejectedError: it cannot be compiled.
        """
        plan, bench, folder = choice.plan, self.bench, self.bench.folder()
        (folder / plan.name).mkdir()
        compiled = self._target.compile(plan, self.profile, _Quick(bench), folder / plan.name)
        identity = bench.identity("trial", 1, self.profile.name)
        write_bundle(folder, identity, bench.encoder.tokenizer, [Made(plan, compiled)])
        return folder

    def _runner(self, choice: Choice) -> Runner:
        opened = self._open(choice)
        settings = choice.plan.session
        threads = settings.threads if settings is not None else 1
        return Runner(lambda feed: _run(opened.session, feed), callers(threads), opened.pads)

    def _distance(self, session: Session) -> float:
        return fmean(
            float(np.linalg.norm(_run(session, feed) - right)) / (float(np.linalg.norm(right)) or 1)
            for feed, right in zip(self._compared, self._right, strict=True)
        )

    @cached_property
    def _rows(self) -> Sequence[Row]:
        return sample(self.bench.split.held_out, ROWS)

    @cached_property
    def _compared(self) -> Sequence[Feeds]:
        return self.bench.calibration(_COMPARED)

    @cached_property
    def _right(self) -> list[np.ndarray]:
        self.bench.reference()
        session = make_session(self.bench.reference_graph, options=_EP)
        return [_run(session, feed) for feed in self._compared]

    @cached_property
    def _timed(self) -> Sequence[Feeds]:
        """Texts of the right length, or those that come nearest."""
        least, most = TOKENS

        def off(feed: Feeds) -> int:
            length: int = feed["input_ids"].shape[1]
            return max(least - length, length - most, 0)

        return sorted(self.bench.calibration(_LOOKED_AT), key=off)[:_TIMED]

    def _kept(
        self, kind: str, choice: Choice, make: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return what `make` gives, now or in an earlier run on such a machine."""
        key = key_of([kind.encode(), description(choice), self._context])
        file = cache_folder() / _KIND / key / "result.json"
        if not file.is_file():
            found = make()
            kept(_KIND, key, lambda folder: _write(folder / file.name, found))
            return found
        read: dict[str, Any] = json.loads(file.read_bytes())
        return read

    @cached_property
    def _context(self) -> bytes:
        """All that a trial depends on besides its recipe."""
        bench, digest = self.bench, hashlib.sha256()
        head, provider = bench.fit(), providers.load(self.own.plan.provider)
        assert provider is not None  # noqa: S101 -- whoever tunes has made sure
        parts = [
            bench.encoder.weights_sha256.encode(),
            bench.encoder.tokenizer,
            head.attach(bench.encoder.model).SerializeToString(deterministic=True),
            repr(bench.split.held_out).encode(),
            repr([feed["input_ids"].tolist() for feed in self._timed]).encode(),
            repr((bench.share, bench.max_tokens, this_device().cpu_model)).encode(),
            description(self.own),
            repr((pins(PACKAGES), provider.runtime(), platform.python_version())).encode(),
            *code(),
        ]
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.digest()


@dataclass(frozen=True, slots=True)
class _Quick:
    """A workbench whose heads are all that of float32: fitting one anew takes a minute."""

    bench: Workbench

    @property
    def encoder(self) -> Encoder:
        return self.bench.encoder

    @property
    def max_tokens(self) -> int:
        return self.bench.max_tokens

    def fit(self, model: onnx.ModelProto | None = None) -> FittedHead:
        del model
        return self.bench.fit()

    def calibration(self, texts: int) -> Sequence[Feeds]:
        return self.bench.calibration(texts)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        return self.bench.once(key, make)

    def folder(self) -> Path:
        return self.bench.folder()


def description(choice: Choice) -> bytes:
    """Return all that a recipe says, always in the same bytes."""
    plan = choice.plan
    parts = [plan.name, plan.provider, plan.precision]
    parts += [
        "" if part is None else part.model_dump_json() for part in (plan.recipe, plan.session)
    ]
    return json.dumps(parts).encode()


def worst(lost: Mapping[str, float]) -> float:
    """Return the most points lost; gains count as nothing lost."""
    return max([0.0, *lost.values()])


def code() -> Iterator[bytes]:
    """All of ours: answers and batches are the runtime's."""
    for folder in (*edgeslm.__path__, *exporters.__path__):
        for file in sorted(Path(folder).rglob("*.py")):
            yield file.read_bytes()


def _run(session: Session, feed: Feeds) -> np.ndarray:
    longest = session.longest if isinstance(session, Buckets) else None
    found = session.run({name: feed[name][:, :longest] for name in session.inputs})
    return np.concatenate([np.ravel(found[name]) for name in sorted(found)])


def _write(file: Path, found: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(found))
