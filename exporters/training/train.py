"""Trains the encoder of a source once, and keeps it by all that it depends on."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeslm.adapters.fs import write_durably
from edgeslm.contract.manifest import BaseModelInfo
from edgeslm.runtime.device import this_device
from edgeslm.runtime.tokenizer import Tokenizer
from exporters.cache import ELSEWHERE, CacheError, cache_folder, kept, key_of, pins
from exporters.data import Row
from exporters.heads.trained import TrainedFitter
from exporters.room import needing_room
from exporters.sources.base import TOKENIZER, Source, SourceError, TooLongError
from exporters.sources.huggingface import HuggingFace
from exporters.training.checkpoint import CHECKPOINT, Progress
from exporters.training.divide import Division, divide
from exporters.training.folder import Facts, Trained, fingerprint, read_trained, write_head
from exporters.training.loop import Bounds, Examples, Training
from exporters.training.network import Network, one_thread, open_network, quiet
from exporters.training.plan import MAX_TOKENS, TrainingPlan
from exporters.workbench import Stage

MODEL: Final = "model"
REPORT: Final = "report.json"
MEASURED: Final = "measured.json"
_PLAN: Final = "plan.json"
_PACKAGES: Final = ("numpy", "safetensors", "tokenizers", "torch", "transformers")
_CODE: Final = ("batches", "divide", "folder", "loop", "network", "train")
# Of a tokenizer, besides `tokenizer.json`: for whoever opens the folder with other libraries.
_BESIDE: Final = ("special_tokens_map.json", "tokenizer_config.json", "vocab.txt")


class NoWeightsError(SourceError):
    """The source holds a graph, which PyTorch cannot train."""

    code = "train.no_weights"


@dataclass(frozen=True, slots=True)
class Order:
    """What to train.

    Args:
        source: with weights for PyTorch.
        rows: labelled.
        seed: of every random choice.
        max_tokens: where texts are cut; None: at `MAX_TOKENS`, or where the model ends.
        minutes: by the clock; None: as long as it takes.
        plan: as a lock file has it, which then decides; None: there is none.
    """

    source: Source
    rows: Sequence[Row]
    seed: int
    max_tokens: int | None
    minutes: float | None = None
    plan: TrainingPlan | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trained encoder, and how it came to be.

    Args:
        trained: where it lies.
        division: of the rows.
        plan: for a lock file.
        report: what the run was like: the same for the same plan.
        measured: what it took.
        whole: the head is to be fitted on what was held out, too: see `TrainedFitter`.
    """

    trained: Trained
    division: Division
    plan: TrainingPlan
    report: Mapping[str, Any]
    measured: Mapping[str, Any]
    whole: bool = False

    @property
    def fitter(self) -> TrainedFitter:
        """Who makes the heads of such an encoder."""
        division, trained = self.division, self.trained
        return TrainedFitter(
            division.learn,
            division.held_out,
            division.outside,
            trained.facts.labels,
            trained.weight,
            trained.bias,
            whole=self.whole,
        )


def train(order: Order, stage: Stage) -> Outcome:
    """Return the encoder of `order`, trained now or in an earlier run.

    A run that is killed leaves a checkpoint in the cache, and the next one goes on from there.

    Raises:
        NoWeightsError: the source has none.
        TooFewError: the rows are too few to judge by.
        TooLongError: texts are to be longer than the model takes.
        DivergedError: training came to no numbers.
        CacheError: the disk refuses.
    """
    source = trainable(order.source)
    division = divide(order.rows, seed=order.seed)
    return carry_out(Run(order, source, division, stage), division, order.plan)


def carry_out(run: Run, division: Division, plan: TrainingPlan | None) -> Outcome:
    """Return what comes of a run: as planned, or as it decides itself."""
    with run.working():
        plan = plan or run.decided()
        folder = kept("trained", run.key(plan), lambda folder: run.write(folder, plan))
        run.clean()
    return Outcome(
        read_trained(folder / MODEL),
        division,
        plan,
        json.loads((folder / REPORT).read_bytes()),
        json.loads((folder / MEASURED).read_bytes()),
    )


def trainable(source: Source) -> HuggingFace:
    """Return `source`, whose weights PyTorch reads.

    Raises:
        NoWeightsError: it has none.
    """
    if isinstance(source, HuggingFace):
        return source
    msg = (
        f"{source.name} is a graph, and PyTorch trains none. Give --model the "
        "Hugging Face folder or hub id that it was exported from, or take --train head."
    )
    raise NoWeightsError(msg)


def _max_tokens(order: Order, source: HuggingFace) -> int:
    limit = source.max_positions()
    if order.max_tokens is None:
        return min(MAX_TOKENS, limit or MAX_TOKENS)
    if limit is not None and order.max_tokens > limit:
        msg = f"--max-tokens {order.max_tokens}: this model takes up to {limit}"
        raise TooLongError(msg)
    return order.max_tokens


class Run:
    """What one call of `train` does, in a folder of the cache that a killed one leaves behind.

    Attributes:
        doing: what it does, for people.
        told: further entries of the report.
    """

    doing = "fine-tuning"

    def __init__(self, order: Order, source: HuggingFace, division: Division, stage: Stage) -> None:
        self._order, self._source, self._division = order, source, division
        self._stage = stage
        self._max_tokens = _max_tokens(order, source)
        rows = [(row.text, row.label) for row in (*division.learn, *division.held_out)]
        learnt = len(division.learn)  # where the one ends and the other begins
        facts = [
            rows,
            learnt,
            order.seed,
            self._max_tokens,
            pins(_PACKAGES),
            this_device().cpu_model,
        ]
        self._common = [source.digest(), json.dumps(facts).encode(), *_code(), *self.depends_on()]
        asked = json.dumps(order.minutes) if order.plan is None else order.plan.model_dump_json()
        self._folder = cache_folder() / "training" / key_of([*self._common, asked.encode()])
        self._trained: tuple[Network, Progress] | None = None
        self.told: dict[str, Any] = {}

    @contextmanager
    def working(self) -> Iterator[None]:
        """Have the folder to ourselves: another process with the same order waits here."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = (self._folder / ".lock").open("wb")
        except OSError as err:
            msg = f"cannot write {self._folder}: {err.strerror}; {ELSEWHERE}"
            raise CacheError(msg) from None
        room = needing_room(self._folder, remedy=ELSEWHERE, error=CacheError)
        with file, one_thread(), room:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def key(self, plan: TrainingPlan) -> str:
        return key_of([*self._common, plan.model_dump_json().encode()])

    def decided(self) -> TrainingPlan:
        """Return what an earlier run has decided, or train to find out."""
        file = self._folder / _PLAN
        if file.is_file():
            return TrainingPlan.model_validate_json(file.read_bytes())
        _, progress = self._train(Bounds(minutes=self._order.minutes))
        plan = _plan(progress)
        write_durably(file, plan.model_dump_json().encode())
        return plan

    def write(self, folder: Path, plan: TrainingPlan) -> None:
        """Write the trained encoder of `plan`, training it where that is not done."""
        bounds = Bounds(steps=plan.steps, stop=plan.stop)
        network, progress = self._trained or self._train(bounds)
        model = folder / MODEL
        with quiet():
            network.encoder.config._name_or_path = ""  # noqa: SLF001 -- a path of this machine
            network.encoder.save_pretrained(model, safe_serialization=True)
        for name in _BESIDE:
            if (self._source.folder / name).is_file():
                shutil.copyfile(self._source.folder / name, model / name)
        (model / TOKENIZER).write_bytes(self._source.tokenizer)
        division, order = self._division, self._order
        facts = Facts(
            labels=division.labels,
            max_tokens=self._max_tokens,
            seed=order.seed,
            base=self.base(),
            held_out=tuple(sorted({fingerprint(row.text) for row in division.held_out})),
        )
        head = network.head
        write_head(model, facts, head.weight.detach().numpy().T, head.bias.detach().numpy())
        report = {
            "texts": len(division.learn),
            "held_out": len(division.held_out),
            "out_of_scope": len(division.outside),
            "steps": progress.steps,
            "ended_after": progress.step,
            "best_after": progress.best.step,
            "judged": [one.model_dump() for one in progress.judged],
            **self.told,
        }
        (folder / REPORT).write_text(json.dumps(report))
        took = {"cpu_s": round(progress.cpu_s, 1), "wall_s": round(progress.wall_s, 1)}
        (folder / MEASURED).write_text(json.dumps(took))

    def clean(self) -> None:
        """Remove the checkpoint: what it led to is kept."""
        (self._folder / CHECKPOINT).unlink(missing_ok=True)

    def depends_on(self) -> list[bytes]:
        """Return what the weights depend on besides."""
        return []

    def base(self) -> BaseModelInfo:
        """Return what training began with."""
        return BaseModelInfo(source=self._source.name, sha256=self._source.weights_sha256())

    def begin(self, examples: Examples, bounds: Bounds) -> Training:
        """Return the training, begun or gone on with."""
        network = open_network(self._source.folder, len(self._division.labels))
        with self._stage("preparing to train", None):
            return Training(
                network, examples, seed=self._order.seed, bounds=bounds, folder=self._folder
            )

    def _train(self, bounds: Bounds) -> tuple[Network, Progress]:
        examples = _examples(self._source.tokenizer, self._division, self._max_tokens)
        run = self.begin(examples, bounds)
        done, steps = run.progress.step, run.progress.steps
        if done:
            with self._stage(f"going on from a checkpoint: {done} of {steps} steps done", None):
                pass  # so that a log has it
        with self._stage(self.doing, steps) as advance:
            run.run(advance)
        self._trained = run.network, run.progress
        return self._trained


def _plan(progress: Progress) -> TrainingPlan:
    ended = progress.step if progress.step < progress.steps else None
    return TrainingPlan(steps=progress.steps, stop=ended)


def _examples(tokenizer: bytes, division: Division, max_tokens: int) -> Examples:
    rows = [*division.learn, *division.held_out]
    native = Tokenizer(tokenizer, max_tokens=max_tokens)
    number = {label: i for i, label in enumerate(division.labels)}
    cut = len(division.learn)
    return Examples(
        [native.encode(row.text)[0]["input_ids"][0] for row in rows],
        np.array([number[str(row.label)] for row in rows]),
        np.arange(cut),
        np.arange(cut, len(rows)),
    )


def _code() -> list[bytes]:
    """The code that weights depend on, besides its packages."""
    return [Path(__file__).with_name(f"{name}.py").read_bytes() for name in _CODE]
