"""Makes a student of a trained encoder once, and keeps it by all that it depends on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgeslm.contract.manifest import BaseModelInfo
from edgeslm.errors import RejectedError
from edgeslm.runtime.tokenizer import Tokenizer
from exporters.data import OUT_OF_SCOPE, Row
from exporters.heads.trained import TrainedFitter
from exporters.sources.base import ENCODER, Encoder, Source
from exporters.training.checkpoint import Progress
from exporters.training.distillation import HIDDEN, LOGITS, Distillation, ask, open_teacher
from exporters.training.divide import LEAST, Division
from exporters.training.folder import FACTS, HEAD, TRAINED, Trained, read_trained
from exporters.training.layers import choices, choose, cut, stack_of
from exporters.training.loop import Bounds, Examples, Training
from exporters.training.network import Network, embed_all, one_thread
from exporters.training.plan import TrainingPlan
from exporters.training.train import Order, Outcome, Run, carry_out, trainable
from exporters.training.train_static import StaticOrder, train_static
from exporters.tune.lock import LOCK
from exporters.workbench import Stage

LAYERS: Final = "layers="
STATIC: Final = "static"
_SHOWN: Final = 5
_TOLD: Final = 10  # choices of layers that the report lists
_UNTAUGHT: Final = ", as they were: the texts held out were told no better when it had taught them"


class OtherDataError(RejectedError):
    """The examples are not those that the teacher was trained on."""

    code = "distil.data"


class TeacherError(RejectedError):
    """The teacher cannot have students: it has no layers, or held out too few texts to judge by."""

    code = "distil.teacher"


@dataclass(frozen=True, slots=True)
class StudentOrder:
    """A student to make.

    Args:
        teacher: a trained encoder.
        source: the same, as a source of encoders.
        encoder: the same, exported.
        rows: labelled, those that the teacher was trained on.
        student: what to make: `layers=N`, or `STATIC`.
        seed: of every random choice.
        max_tokens: where texts are cut; None: where the teacher's were.
        plan: as a lock file has it; None: there is none.
    """

    teacher: Trained
    source: Source
    encoder: Encoder
    rows: Sequence[Row]
    student: str
    seed: int
    max_tokens: int | None = None
    plan: TrainingPlan | None = None


def distil(order: StudentOrder, stage: Stage) -> Outcome:
    """Return the student, taught now or in an earlier run.

    A run that is killed leaves a checkpoint in the cache, and the next one goes on from there.

    Raises:
        TeacherError: the teacher was made from few examples.
        OtherDataError: the teacher was trained on other examples.
        LayersError: no such student can be cut out of the teacher.
        TooLongError: texts are to be longer than the teacher takes.
        DivergedError: training came to no numbers.
        CacheError: the disk refuses.
    """
    division = divided(order.teacher, order.rows)
    if order.student == STATIC:
        return _static(order, division, stage)
    return carry_out(_Student(order, division, stage), division, order.plan)


def _static(asked: StudentOrder, division: Division, stage: Stage) -> Outcome:
    """Return a student without layers, taught by the teacher's logits."""
    teacher, folder = asked.teacher, asked.teacher.folder
    max_tokens = asked.max_tokens or teacher.facts.max_tokens
    with stage("asking the teacher", None), one_thread():
        reader = Tokenizer(asked.encoder.tokenizer, max_tokens=max_tokens)
        texts = [reader.encode(row.text)[0]["input_ids"][0] for row in division.learn]
        x = embed_all(open_teacher(teacher), texts, range(len(texts)))
    order = StaticOrder(
        asked.encoder,
        teacher.facts.base.source,
        teacher.digest(),
        division,
        seed=asked.seed,
        max_tokens=max_tokens,
        teacher=x @ teacher.weight + teacher.bias,
    )
    _, outcome = train_static(order, stage)
    of = json.loads((folder / "config.json").read_bytes()).get("num_hidden_layers")
    told = f"vectors of pieces and pairs in place of the teacher's {of} layers, taught by it"
    return replace(outcome, report={**outcome.report, "student": told})


def read_teacher(given: Path) -> Trained:
    """Return the trained encoder in a folder; see `read_trained`.

    Raises:
        TrainedError: there is none, or it is damaged.
        TeacherError: it is a static model, or of an export that trained none.
    """
    if (given / LOCK).is_file() and not (given / TRAINED).exists():
        msg = f"--teacher {given}: an export that trained no encoder: take one of --train full."
        raise TeacherError(msg)
    teacher = read_trained(given)
    if (teacher.folder / ENCODER).is_file():
        msg = f"--teacher {given}: a static model, without layers: take one of --train full."
        raise TeacherError(msg)
    return teacher


def taught_by(student: Outcome, teacher: Trained) -> TrainedFitter:
    """Return who makes the head of the teacher, to hold its student against."""
    return replace(student, trained=teacher).fitter


def divided(teacher: Trained, rows: Sequence[Row]) -> Division:
    """Deal rows as the teacher's training did: what that held out, its student does not learn.

    Raises:
        TeacherError: too few to judge by, whatever the rows are.
        OtherDataError: they are not what the teacher was trained on.
    """
    if (kept := len(teacher.facts.held_out)) < LEAST:
        msg = (
            f"--teacher {teacher.folder}: made with --train few, it held out {kept} of its texts, "
            f"and {LEAST} must judge the student: take one of --train full."
        )
        raise TeacherError(msg)
    outside = [row for row in rows if row.label == OUT_OF_SCOPE]
    inside = [row for row in rows if row.label != OUT_OF_SCOPE]
    unseen = teacher.unseen(row.text for row in inside)
    held_out = [row for row, new in zip(inside, unseen, strict=True) if new]
    learn = [row for row, new in zip(inside, unseen, strict=True) if not new]
    if (why := _unlike(teacher, learn, held_out)) is not None:
        msg = f"{why}. Give the examples that the teacher was trained on, and --eval if it had one."
        raise OtherDataError(msg)
    return Division(learn, held_out, outside, teacher.facts.labels)


def _unlike(teacher: Trained, learn: Sequence[Row], held_out: Sequence[Row]) -> str | None:
    """Say what shows that a teacher was trained on other rows; None: nothing does."""
    known = set(teacher.facts.labels)
    given = {str(row.label) for row in (*learn, *held_out)}
    if foreign := sorted(given - known):
        return f"the teacher does not know {_listed(foreign)}"
    if missing := sorted(known - {str(row.label) for row in learn}):
        return f"no text is of the teacher's {_listed(missing)}"
    if (texts := len({row.text for row in held_out})) < LEAST:
        return f"its training held out {texts} of the texts, and {LEAST} must judge the student"
    return None


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:_SHOWN])
    return shown + (f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else "")


class _Student(Run):
    """One call of `distil`."""

    doing = "teaching the student"

    def __init__(self, asked: StudentOrder, division: Division, stage: Stage) -> None:
        self._asked = asked
        max_tokens = asked.max_tokens or asked.teacher.facts.max_tokens
        order = Order(asked.source, asked.rows, seed=asked.seed, max_tokens=max_tokens)
        super().__init__(order, trainable(asked.source), division, stage)

    def depends_on(self) -> list[bytes]:
        folder, here = self._asked.teacher.folder, Path(__file__)
        files = [folder / HEAD, folder / FACTS]
        files += [here.with_name(f"{name}.py") for name in ("distil", "distillation", "layers")]
        return [self._asked.student.encode(), *(file.read_bytes() for file in files)]

    def base(self) -> BaseModelInfo:
        return self._asked.teacher.facts.base

    def begin(self, examples: Examples, bounds: Bounds) -> Training:
        asked, stage = self._asked, self._stage
        teacher = open_teacher(asked.teacher)
        tried = choices(teacher, int(asked.student.removeprefix(LAYERS)))
        held_out = [examples.texts[i] for i in examples.held_out]
        with stage("choosing its layers", len(tried)) as advance:
            found = choose(teacher, tried, held_out, examples.labels[examples.held_out], advance)
        best = found[0].layers
        of, numbers = len(stack_of(teacher)), ", ".join(map(str, best))
        self.told = {
            "student": f"{len(best)} of the teacher's {of} layers kept ({numbers})",
            "layers": best,
            "choices": [
                {"layers": c.layers, "accuracy": c.accuracy, "surprise": c.surprise}
                for c in found[:_TOLD]
            ],
            "tried": len(found),
        }
        learn = [examples.texts[i] for i in examples.learn]
        with stage("asking the teacher", len(learn)) as advance:
            knowledge = ask(teacher, learn, self._folder, advance)
        return Distillation(
            cut(teacher, best),
            knowledge,
            examples,
            seed=asked.seed,
            bounds=bounds,
            folder=self._folder,
        )

    def _train(self, bounds: Bounds) -> tuple[Network, Progress]:
        network, progress = super()._train(bounds)
        taught = ", taught by it" if progress.best.step else _UNTAUGHT
        self.told["student"] += taught
        return network, progress

    def clean(self) -> None:
        super().clean()
        for name in (HIDDEN, LOGITS):
            (self._folder / name).unlink(missing_ok=True)
