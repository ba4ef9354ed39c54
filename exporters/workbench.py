"""What all variants of a model share: examples, encoder, heads, and what float32 answers."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar, cast

import numpy as np
import onnx

from edgeslm.contract.manifest import BaseModelInfo, Requirements
from edgeslm.errors import RejectedError
from edgeslm.ports import Answer
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.tokenizer import Tokenizer
from exporters.bundle import Identity, Made, write_bundle
from exporters.data import Row, Split
from exporters.encode import make_embed
from exporters.evaluation.measures import Metrics
from exporters.heads.base import Advance, FittedHead
from exporters.quality import answer_all
from exporters.recipes.base import Fitter, Recipe
from exporters.sources.base import Encoder
from exporters.targets.base import Compiled, Feeds, Plan
from exporters.targets.cpu import GRAPH, save

FP32: Final = "fp32"
REFERENCE: Final = "reference"
"""Whose answers those of the float32 original are; see `Workbench.answers`."""
T = TypeVar("T")
_BATCH: Final = 16  # texts of the float32 encoder, which only the reference is fitted on
_MIN_CALIBRATION: Final = 16
_MAX_UNKNOWN: Final = 0.5  # share of tokens; what equipment says has its own names and numbers
# Measured with MiniLM: .92 to .97 of held-out lines of the same plant or task; of another mostly
# less than .4, but .7 of a machine's log by questions of people: those are not told apart.
_MIN_MET: Final = 0.5  # share of tokens


class CalibrationError(RejectedError):
    """The texts that activations are measured on are too few, or not such as the model reads."""

    code = "export.calibration"


class Stage(Protocol):
    """Announces a stage of `total` steps (None: it cannot say) and shows its progress."""

    def __call__(self, name: str, total: int | None) -> AbstractContextManager[Advance]: ...


@dataclass(slots=True)
class Workbench:
    """Implements `exporters.targets.base.Workbench`; whatever is asked for twice is made once.

    Args:
        task: name of the recipe.
        recipe: of the task.
        split: examples to fit on, and to judge by.
        encoder: float32.
        max_tokens: where texts are cut.
        share: the task's one number.
        seed: of every random choice.
        scratch: folder for what is made on the way.
        stage: shows progress.
        fitter: makes heads; None: the recipe does.
        head: of `encoder`, where it is known already.
    """

    task: str
    recipe: Recipe
    split: Split
    encoder: Encoder
    source: str
    max_tokens: int
    share: float
    seed: int
    scratch: Path
    stage: Stage
    fitter: Fitter | None = None
    head: FittedHead | None = None
    _made: dict[Hashable, object] = field(default_factory=dict)
    _answers: dict[Hashable, dict[tuple[str, str], Answer]] = field(default_factory=dict)
    _sequences: dict[tuple[Hashable, tuple[Row, ...]], list[Answer]] = field(default_factory=dict)

    def identity(self, name: str, version: int, profile: str) -> Identity:
        """Return what a manifest of this model says besides its files."""
        return Identity(
            name=name,
            version=version,
            task=self.task,
            profile=profile,
            base_model=BaseModelInfo(source=self.source, sha256=self.encoder.weights_sha256),
            max_tokens=self.max_tokens,
        )

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` gives, or has given to whoever asked for the same `key` before.

        Args:
            key: the content of all that the result depends on, and of nothing else.
            make: makes it; what it raises is raised each time.
        """
        if key not in self._made:
            self._made[key] = make()
        return cast("T", self._made[key])

    def beside(
        self, encoder: Encoder, *, head: FittedHead | None, fitter: Fitter | None
    ) -> Workbench:
        """Return a workbench of another encoder, for the same examples; each makes its own."""
        other = replace(self, encoder=encoder, scratch=self.folder(), head=head, fitter=fitter)
        other._made, other._answers = {}, {}  # noqa: SLF001 -- of our own kind
        return other

    def folder(self) -> Path:
        """Return a new folder for what is shared."""
        return Path(tempfile.mkdtemp(dir=self.scratch))

    def fit(self, model: onnx.ModelProto | None = None) -> FittedHead:
        """See `exporters.targets.base.Workbench.fit`."""
        if model is None and self.head is not None:
            return self.head
        chosen = self.encoder.model if model is None else model
        content = hashlib.sha256(chosen.SerializeToString(deterministic=True)).digest()

        def fit() -> FittedHead:
            embed = make_embed(
                chosen,
                self.encoder,
                max_tokens=self.max_tokens,
                batch=_BATCH if model is None else 1,
            )
            rows = self.split.train
            on = FP32 if model is None else "the quantised encoder"
            fitter = self.fitter or self.recipe
            with self.stage(f"fitting on {on}", fitter.steps(rows)) as advance:
                return fitter.fit(rows, embed, share=self.share, seed=self.seed, advance=advance)

        return self.once(("head", content), fit)

    def calibration(self, texts: int) -> Sequence[Feeds]:
        """See `exporters.targets.base.Workbench.calibration`."""
        return self.once(("calibration", texts), lambda: self._calibration(texts))

    def _calibration(self, texts: int) -> Sequence[Feeds]:
        tokenizer = Tokenizer(self.encoder.tokenizer, max_tokens=self.max_tokens)
        read = [value.name for value in self.encoder.model.graph.input]

        def feeds(text: str) -> Feeds:
            tensors, _ = tokenizer.encode(text)
            return {name: tensors[name] for name in read}

        found = {text: feeds(text) for text in self.recipe.texts(self.split.train) if text}
        if len(found) < _MIN_CALIBRATION:
            msg = (
                f"{len(found)} different texts are too few to measure activations on: "
                f"{_MIN_CALIBRATION} are needed. Give more training texts."
            )
            raise CalibrationError(msg)
        if (share := self._unknown(found.values())) > _MAX_UNKNOWN:
            msg = (
                f"{100 * share:.0f} % of the training texts' tokens are unknown to the model: "
                "ranges measured on them would fit no other text. Train on what the equipment "
                "says, in a language that the model reads."
            )
            raise CalibrationError(msg)
        if (share := self._met(found.values(), feeds)) < _MIN_MET:
            msg = (
                f"{100 * share:.0f} % of the held-out texts' tokens occur in the training texts: "
                "ranges measured on these would not fit those. Train on what the equipment says, "
                "and hold out more of the same."
            )
            raise CalibrationError(msg)
        ordered = sorted(found, key=lambda text: (found[text]["input_ids"].shape[1], text))
        picked = np.linspace(0, len(ordered) - 1, min(texts, len(ordered))).round().astype(int)
        return [found[ordered[i]] for i in dict.fromkeys(picked.tolist())]

    def _unknown(self, encoded: Iterable[Feeds]) -> float:
        """Return which share of tokens, special ones included, stand for what is no token."""
        unknown = self.encoder.unknown_id()
        ids = np.concatenate([feeds["input_ids"].ravel() for feeds in encoded])
        return float((ids == unknown).mean()) if unknown is not None else 0.0

    def _met(self, encoded: Iterable[Feeds], feeds: Callable[[str], Feeds]) -> float:
        """Return how much of the held-out texts is tokens that these have, too.

        What every text has, as the marks of its ends, counts for nothing.
        """
        seen = [set(one["input_ids"].ravel().tolist()) for one in encoded]
        known, marks = set.union(*seen), set.intersection(*seen)
        texts = self.recipe.texts(self.split.held_out)
        asked = [i for text in texts for i in feeds(text)["input_ids"].ravel().tolist()]
        told = [i in known for i in asked if i not in marks]
        return sum(told) / len(told) if told else 1.0

    def reference(self) -> Model:
        """Return the float32 original with a head of its own, on the CPU."""
        return self.once(REFERENCE, self._reference)

    @property
    def reference_graph(self) -> Path:
        """File of the graph of `reference`."""
        return self.scratch / FP32 / FP32 / GRAPH

    def _reference(self) -> Model:
        folder = self.scratch / FP32
        plan = Plan(FP32, "cpu", FP32, Requirements())
        (folder / FP32).mkdir(parents=True)
        head = self.fit()
        save(head.attach(self.encoder.model), folder / FP32, level="extended")
        made = Made(plan, Compiled(head, (GRAPH,), "silicon"))
        write_bundle(folder, self.identity(FP32, 1, FP32), self.encoder.tokenizer, [made])
        return load_model(folder, golden=False)

    def reference_answers(self, rows: Sequence[Row]) -> list[Answer]:
        """Return what the float32 original says of `rows`."""
        return self.answers(REFERENCE, rows, self.reference, stage=f"judging {FP32}")

    def reference_metrics(self, rows: Sequence[Row]) -> Metrics:
        """Return how good the float32 original is on `rows`."""
        return self.recipe.measure(rows, self.reference_answers(rows), share=self.share)

    def answers(
        self, key: Hashable, rows: Sequence[Row], model: Callable[[], Model], *, stage: str
    ) -> list[Answer]:
        """Return what a model says of `rows`, asked in their order and nothing before them.

        One that remembers nothing is asked of each text and source once.

        Args:
            key: the content of the model, and who runs it.
            rows: what to ask.
            model: loads it; called only where `key` was not asked all of this before.
            stage: what to announce.
        """
        if (said := self._sequences.get((key, tuple(rows)))) is not None:
            return said
        known = self._answers.setdefault(key, {})
        new = {(r.text, r.source): r for r in rows if (r.text, r.source) not in known}
        if new:
            answering = model()
            memory = answering.memory()
            remembers = memory is not None and memory.ordered
            asked = list(rows if remembers else new.values())
            with self.stage(stage, len(asked)) as advance:
                said = answer_all(answering, asked, advance)
            if remembers:
                self._sequences[key, tuple(rows)] = said
                return said
            known.update(zip(new, said, strict=True))
        return [known[row.text, row.source] for row in rows]
