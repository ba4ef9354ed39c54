"""Two models as one: the first answers what it is sure of, the second all else.

The first is small and fast, and is asked everything. Where it would reject a text, or is less sure
of its answer than a threshold that the exporter has calibrated, the second answers in its place.
What is further out of scope than another threshold, where the exporter found one, the first
rejects for good.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal, NamedTuple, cast, get_args

from pydantic import Field

from edgeslm.contract.base import Typed, parse_json
from edgeslm.contract.manifest import Stage, Verified
from edgeslm.errors import RejectedError
from edgeslm.ports import Answer, Memory, Prepared, Request
from edgeslm.runtime.bundle import Bundle
from edgeslm.runtime.model import Model, Part, Reading
from edgeslm.runtime.tokenizer import Recent

_TOGETHER: Final = 8  # texts: more brought nothing, and the first waits for what is handed over


class CascadeError(RejectedError):
    """The stages of a cascade cannot go together."""

    code = "cascade.unfit"


class Bounds(NamedTuple):
    """Of what the first stage says, what stands.

    Args:
        confidence: that it must exceed where it accepts a text; see `sureness`.
        rejects_above: score that it must exceed where it rejects one; None: no score is enough.
        p_exponent: of the p-value, which the confidence counts times: what is unlike the texts
            learnt from is trusted less. None: it counts alone.
    """

    confidence: float
    rejects_above: float | None = None
    p_exponent: float | None = None


class CascadeParameters(Typed):
    """The `cascade` artifact of a bundle."""

    schema_version: Literal[1] = 1
    confidence: Annotated[
        float, Field(ge=0, le=1, description="The first answers where it has more than this.")
    ]
    rejects_above: Annotated[
        float | None,
        Field(description="What scores more the first rejects for good; null: nothing."),
    ] = None
    p_exponent: Annotated[
        float | None,
        Field(gt=0, le=1, description="The confidence counts times the p-value to this power."),
    ] = None
    lose_points: Annotated[
        float, Field(ge=0, description="Accuracy that the hand-over may cost, as was asked.")
    ]

    @property
    def bounds(self) -> Bounds:
        """Of the answers of the first stage that stand."""
        return Bounds(self.confidence, self.rejects_above, self.p_exponent)

    def to_bytes(self) -> bytes:
        """Return the artifact."""
        return self.model_dump_json(exclude_none=True).encode() + b"\n"


def read_parameters(raw: bytes) -> CascadeParameters:
    """Return what the `cascade` artifact says.

    Raises:
        InvalidFileError: these are no parameters of a cascade.
    """
    remedy = "Export the bundle again."
    return parse_json(CascadeParameters, raw, file="cascade.json", remedy=remedy)


def sureness(answer: Answer, p_exponent: float | None) -> float:
    """Return how sure the first stage is of an answer, to be held against a threshold.

    Args:
        answer: of the first stage.
        p_exponent: of `Bounds`.
    """
    if p_exponent is None or answer.p_value is None:
        return answer.confidence
    return float(answer.confidence * answer.p_value**p_exponent)


def is_sure(answer: Answer | Exception, bounds: Bounds) -> bool:
    """Whether the first stage answers so that the second need not be asked."""
    if isinstance(answer, Exception):
        return False
    if answer.accepted is False:
        return bounds.rejects_above is not None and answer.score > bounds.rejects_above
    return sureness(answer, bounds.p_exponent) > bounds.confidence


def cascade(parameters: bytes, first: Part, second: Part) -> Callable[[], Model]:
    """Return what loads the cascade of two stages.

    Args:
        parameters: bytes of its `cascade` artifact.
        first: is asked first.
        second: answers what the first is not sure of.

    Raises:
        InvalidFileError: these are no parameters of a cascade.
        CascadeError: an answer of the task depends on what was asked before: it would depend on
            who answered that.
    """
    found = read_parameters(parameters)
    if any(_is_ordered(part) for part in (first, second)):
        msg = f"a cascade of {second.bundle.manifest.task}: its answers depend on earlier texts"
        raise CascadeError(msg)

    def load() -> Model:
        return second.load(partial(Cascade, first=first.load(), bounds=found.bounds))

    return load


class Cascade(Model):
    """A `Model` whose own parts are those of the second stage.

    Args:
        bundle: of both.
        first: the first stage.
        bounds: of the answers of the first stage that stand.
        parts: those of `Model`.
    """

    def __init__(self, bundle: Bundle, *, first: Model, bounds: Bounds, **parts: Any) -> None:
        super().__init__(bundle, **parts)
        self._first = first
        self._bounds = bounds
        self._counting = threading.Lock()
        self._answered = self._handed = 0
        if first.encoder is self.encoder:  # which need not read a text twice
            first.encoder = self.encoder = Recent(self.encoder)
        stages = {"first": first.coverages, "second": self.coverages}
        self.coverages = {
            f"{stage}/{graph}": took for stage, of in stages.items() for graph, took in of.items()
        }
        if first.node_share < self.node_share:
            self.coverage, self.node_share = first.coverage, first.node_share
        self.verified = max(first.verified, self.verified, key=get_args(Verified).index)

    @property
    def together(self) -> int:
        """See `Model.together`; the second stage may run one at a time what is left of them."""
        if self.batch_invariant:
            return super().together
        return _TOGETHER if self._first.batch_invariant else 1

    @property
    def handed_over(self) -> float | None:
        return self._handed / self._answered if self._answered else None

    @property
    def cache_hits(self) -> int:
        """Of both stages."""
        return self._first.cache_hits + super().cache_hits

    @property
    def cache_misses(self) -> int:
        """Of both stages."""
        return self._first.cache_misses + super().cache_misses

    def answer(self, request: Request, memory: Memory | None = None) -> Answer:
        """See `Model.answer`."""
        [said] = self.answer_all([request], memory)
        if isinstance(said, Exception):
            raise said
        return said

    def answer_anew(self, request: Request, memory: Memory | None = None) -> Answer:
        """See `Model.answer_anew`."""
        if is_sure(self._first.answer_anew(request), self._bounds):
            return self._first.answer_anew(request, memory)._replace(stage="first")
        return super().answer_anew(request, memory)._replace(stage="second")

    def read(self, requests: Sequence[Request]) -> list[Reading | Exception]:
        """Have each answered: the second stage is asked when it is known what the first says."""
        readings = self._first.read(requests)
        said = self._first.judge(readings)
        left = [i for i, one in enumerate(said) if not is_sure(one, self._bounds)]
        others = super().read([requests[i] for i in left]) if left else []
        stages = [_of("first", *each) for each in zip(requests, readings, said, strict=True)]
        for i, one in zip(left, others, strict=True):
            stages[i] = _of("second", requests[i], one)
        with self._counting:
            self._answered += len(said)
            self._handed += len(left)
        return stages

    def judge(
        self, readings: Sequence[Reading | Exception], memory: Memory | None = None
    ) -> list[Answer | Exception]:
        """See `Model.judge`: each by the stage that has read it."""
        judges: dict[str, Callable[..., list[Answer | Exception]]] = {
            "first": self._first.judge,
            "second": super().judge,
        }
        # A memory of which no answer depends on what came before changes what it was taught alone.
        taught = memory is not None and len(memory.overlay) > 0
        answers: list[Answer | Exception] = []
        for one in readings:
            if isinstance(one, Exception):
                answers.append(one)
                continue
            stage, reading, said = cast("_Read", one.prepared.context)
            if said is None or taught:
                [said] = judges[stage]([reading], memory)
            answers.append(said if isinstance(said, Exception) else said._replace(stage=stage))
        return answers

    def check_batches(self, requests: Sequence[Request]) -> bool:
        """See `Model.check_batches`; of both stages."""
        holds = self._first.check_batches(requests)
        return super().check_batches(requests) and holds

    def resize(self, cache_entries: int) -> None:
        """See `Model.resize`; of both stages."""
        self._first.resize(cache_entries)
        super().resize(cache_entries)

    def forget(self) -> None:
        """See `Model.forget`; of both stages."""
        self._first.forget()
        super().forget()
        with self._counting:
            self._answered = self._handed = 0


def _is_ordered(part: Part) -> bool:
    memory = part.task.memory()
    return memory is not None and memory.ordered


class _Read(NamedTuple):
    """Who has read a text, what, and the answer to it where that is known already."""

    stage: Stage
    reading: Reading
    said: Answer | Exception | None


def _of(
    stage: Stage,
    request: Request,
    read: Reading | Exception,
    said: Answer | Exception | None = None,
) -> Reading | Exception:
    if isinstance(read, Exception):
        return read
    context = _Read(stage, read, said)
    return Reading(Prepared(request, None, context=context), None, truncated=False)
