"""One recipe tried: compiled, compared with float32, judged, timed; each kept by its content."""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Final, TypeVar

import numpy as np
import onnx

from edgeslm import providers
from edgeslm.adapters.ort import make_session
from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import RejectedError
from edgeslm.ports import Session, SessionOptions
from edgeslm.runtime.batches import MASK
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.device import this_device
from edgeslm.runtime.model import load_model
from exporters.bundle import Made, write_bundle
from exporters.cache import cache_folder, kept, key_of, pins
from exporters.data import sample
from exporters.heads.base import FittedHead
from exporters.quality import answer_all
from exporters.sources.base import Encoder
from exporters.targets.base import Feeds, Target
from exporters.tune.space import Choice
from exporters.tune.timing import Runner, Times, callers, compare
from exporters.workbench import Workbench

T = TypeVar("T")
ROWS: Final = 300
"""Held-out rows that a trial is judged on."""
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
        size_bytes: graph and weights.
        problem: why it could not be tried; None: it could.
    """

    choice: Choice
    error: float = float("inf")
    lost: Mapping[str, float] = field(default_factory=dict)
    rows: int = 0
    times: Times = Times(float("inf"), 0.0, float("inf"), 0.0)  # noqa: RUF009 -- frozen
    size_bytes: int = 0
    problem: str | None = None

    @property
    def worst(self) -> float:
        """Most points lost; gains count as nothing lost."""
        return max(0.0, *self.lost.values()) if self.lost else 0.0


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
        self._numbers = itertools.count()
        self._sessions: dict[Choice, Session] = {}
        self._pads: dict[Choice, bool | None] = {}  # see `Runner`

    def trial(self, choice: Choice) -> Trial:
        """Try a recipe, or remember what came of it."""
        found = self._kept("trial", choice, lambda: self._measure(choice))
        times = Times(**found.pop("times")) if "times" in found else Trial(choice).times
        return Trial(choice, times=times, **found)

    def error(self, choice: Choice) -> float:
        """Return how far its outputs are from float32's, without all else; inf where it fails."""

        def measure() -> dict[str, Any]:
            try:
                return {"error": self._distance(self._session(choice, keep=False))}
            except RejectedError:
                return {"error": float("inf")}

        return float(self._kept("error", choice, measure)["error"])

    def time(
        self, chosen: Sequence[Choice], *, rounds: int, done: Callable[[], None]
    ) -> list[Times]:
        """Time recipes in turns with each other; the first is the reference."""
        runners = [self._runner(choice) for choice in chosen]
        return compare(runners, self._timed, rounds=rounds, done=done)

    def _measure(self, choice: Choice) -> dict[str, Any]:
        try:
            session = self._session(choice)
            folder = self._folders[choice]
            rows = sample(self.bench.split.held_out, ROWS)
            model = load_model(folder, variant=choice.plan.name, golden=False)
            said = answer_all(model, rows, lambda _: None)
        except RejectedError as err:
            return {"problem": str(err)}
        bench = self.bench
        before = bench.reference_answers(rows)
        measured = bench.recipe.measure(rows, said, share=bench.share)
        lost = bench.recipe.losses((bench.reference_metrics(rows), before), (measured, said))
        times = self.time([self.own, choice], rounds=_ROUNDS, done=lambda: None)[1]
        return {
            "error": self._distance(session),
            "lost": dict(lost),
            "rows": len(rows),
            "times": asdict(times),
            "size_bytes": sum(
                file.stat().st_size for file in (folder / choice.plan.name).glob("*.onnx*")
            ),
        }

    @cached_property
    def _folders(self) -> dict[Choice, Path]:
        return {}

    def _session(self, choice: Choice, *, keep: bool = True) -> Session:
        """Compile a recipe with the head of float32, and open it.

        Raises:
            RejectedError: it cannot be compiled or loaded.
        """
        if choice in self._sessions:
            return self._sessions[choice]
        plan, bench = choice.plan, self.bench
        folder = bench.folder() / f"trial-{next(self._numbers)}"
        (folder / plan.name).mkdir(parents=True)
        compiled = self._target.compile(plan, self.profile, _Quick(bench), folder / plan.name)
        identity = bench.identity("trial", 1, self.profile.name)
        write_bundle(folder, identity, bench.encoder.tokenizer, [Made(plan, compiled)])
        [graph] = open_bundle(folder).of(plan.name).artifacts("graph")
        provider = providers.load(plan.provider)
        assert provider is not None  # noqa: S101 -- `tune` has made sure
        session = make_session(folder / graph.path, options=provider.options(graph))
        if keep:
            self._sessions[choice] = session
            self._pads[choice] = MASK in session.inputs if graph.batch_invariant else None
            self._folders[choice] = folder
        return session

    def _runner(self, choice: Choice) -> Runner:
        session = self._session(choice)
        settings = choice.plan.session
        threads = settings.threads if settings is not None else 1
        return Runner(lambda feed: _run(session, feed), callers(threads), self._pads[choice])

    def _distance(self, session: Session) -> float:
        return fmean(
            float(np.linalg.norm(_run(session, feed) - right)) / (float(np.linalg.norm(right)) or 1)
            for feed, right in zip(self._compared, self._right, strict=True)
        )

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
        head = bench.fit()
        parts = [
            bench.encoder.weights_sha256.encode(),
            bench.encoder.tokenizer,
            head.attach(bench.encoder.model).SerializeToString(deterministic=True),
            repr(sample(bench.split.held_out, ROWS)).encode(),
            repr([feed["input_ids"].tolist() for feed in self._timed]).encode(),
            repr((bench.share, bench.max_tokens, this_device().cpu_model)).encode(),
            description(self.own),
            repr(pins(("onnx", "onnxruntime"))).encode() + platform.python_version().encode(),
            *(file.read_bytes() for file in sorted(Path(__file__).parents[1].rglob("*.py"))),
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


def _run(session: Session, feed: Feeds) -> np.ndarray:
    found = session.run({name: feed[name] for name in session.inputs})
    return np.concatenate([np.ravel(found[name]) for name in sorted(found)])


def _write(file: Path, found: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(found))
