"""Intent: which of the known requests a text is, or that it is none of them.

The graph gives calibrated logits and, where the bundle's score needs it, how near the text is to
those learnt from. Which score a bundle goes by was chosen on texts held out when it was made; in
each, higher is more out of scope. The plainest is the logits' free energy: it is low where some
label has much evidence, and rises where none has, whatever the others say.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgeslm.contract.base import Typed, parse_json
from edgeslm.core.memory import TextMemory
from edgeslm.core.overlay import Lesson
from edgeslm.errors import UnavailableError
from edgeslm.ports import Answer, Memory, Prepared, Request, Tensor

LOGITS: Final = "logits"
DISTANCE: Final = "distance"
"""Output beside the logits, float32 [batch]: 1 - cosine of the text's embedding to the nearest of
some that stand for those learnt from. Only where the bundle's score needs it."""
MAX_LABELS: Final = 10_000
"""Of one bundle: with 384 dimensions their last layer alone weighs 15 MB in float32."""
FEATURE: Final = "intent-scorer"
"""That a manifest names where the score is another than the energy."""
Scorer = Literal["softmax", "energy", "knn", "calibrated"]

# Bounded, so that no score overflows.
Weight = Annotated[float, Field(ge=-1e9, le=1e9)]


class NoNumberError(UnavailableError):
    """The model's outputs for this text are no numbers: it is damaged, or its chip overflows."""

    code = "inference.no_number"

    def __init__(self) -> None:
        super().__init__(
            "the graph of this model gave no number; check it with `edgeslm bundle verify`"
        )


class Mixture(Typed):
    """The `calibrated` score: log-odds of being out of scope, linear in the other three."""

    softmax: Weight
    energy: Weight
    knn: Weight
    bias: Weight


class IntentParameters(Typed):
    """The `parameters` artifact of an intent bundle."""

    schema_version: Literal[1] = 1
    labels: Annotated[
        tuple[str, ...],
        Field(min_length=2, max_length=MAX_LABELS, description="In the logits' order."),
    ]
    threshold: Annotated[float, Field(description="Texts scoring above it are rejected.")]
    reject_share: Annotated[float, Field(gt=0, lt=1, description="In-scope texts that do so.")]
    temperature: Annotated[float, Field(gt=0, description="By which the graph divides.")]
    calibration: Annotated[
        tuple[float, ...],
        Field(
            min_length=1,
            max_length=10_000,
            description="Scores of in-scope texts not fitted on, ascending.",
        ),
    ]
    scorer: Scorer = Field("energy", description="By what a text is held to be out of scope.")
    mixture: Mixture | None = Field(None, description="Of the calibrated score.")

    @model_validator(mode="after")
    def _is_ordered(self) -> IntentParameters:
        if len(set(self.labels)) != len(self.labels):
            msg = "labels: one is there twice"
            raise ValueError(msg)
        if any(a > b for a, b in zip(self.calibration, self.calibration[1:], strict=False)):
            msg = "calibration: not ascending"
            raise ValueError(msg)
        if (self.scorer == "calibrated") != (self.mixture is not None):
            msg = "mixture: of the calibrated score, and of no other"
            raise ValueError(msg)
        return self

    @property
    def needs_distance(self) -> bool:
        """Whether the graph must have the output `DISTANCE`."""
        return self.scorer in {"knn", "calibrated"}

    def to_bytes(self) -> bytes:
        """Return the artifact; of the plain score as readers of before know it."""
        plain = {"scorer", "mixture"} if self.scorer == "energy" else None
        return self.model_dump_json(exclude=plain).encode()


def energy(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Free energy of each row: minus the log of the summed exponentials.

    Args:
        logits: float32 [..., labels], finite.

    Returns:
        float64 [...]; higher is more out of scope.

    Source:
        Liu et al. 2020, arXiv:2010.03759, eq. 3 at temperature 1 of the calibrated logits.
    """
    wide = logits.astype(np.float64)
    top = wide.max(axis=-1)
    free: NDArray[np.float64] = -(top + np.log(np.exp(wide - top[..., None]).sum(axis=-1)))
    return free


def energy_of(logits: NDArray[np.float32], top: float) -> float:
    """Return the `energy` of one text: for each that is answered, so without what many need.

    Args:
        logits: float32 [labels], finite.
        top: the largest of them.
    """
    wide = logits.astype(np.float64)
    wide -= top
    np.exp(wide, out=wide)
    return -(top + math.log(np.add.reduce(wide)))


Values = TypeVar("Values", float, NDArray[np.float64])


def out_of_scope(
    parameters: IntentParameters, *, free: Values, top: Values, distance: Values | None
) -> Values:
    """Score of one text, or of many, by the scorer of `parameters`.

    Args:
        parameters: of the bundle.
        free: `energy` of the logits.
        top: the largest logit.
        distance: from the nearest, in [0, 2]; None where the scorer needs none.

    Returns:
        Higher is more out of scope. *softmax*: minus the log of the largest probability; *knn*:
        the distance; *calibrated*: see `Mixture`.
    """
    if parameters.scorer == "energy":
        return free
    unsure = -free - top
    if parameters.scorer == "softmax":
        return unsure
    assert distance is not None  # noqa: S101 -- the graph of such a bundle has it
    if (mixed := parameters.mixture) is None:
        return distance
    return mixed.softmax * unsure + mixed.energy * free + mixed.knn * distance + mixed.bias


def p_value(calibration: Sequence[float], score: float) -> float:
    """Share of in-scope texts at least as far out; the text itself counts as one of them.

    Args:
        calibration: scores of such texts, ascending.
        score: of the text.
    """
    behind = len(calibration) - bisect_left(calibration, score)
    return (behind + 1) / (len(calibration) + 1)


class Intent:
    """Implements `edgeslm.ports.Task`."""

    def __init__(self, parameters: IntentParameters) -> None:
        self._parameters = parameters
        self._labels = parameters.labels
        self._threshold = parameters.threshold
        self._calibration = parameters.calibration

    def memory(self) -> Memory:
        return TextMemory(self._labels)

    def prepare(self, request: Request) -> Prepared:
        return Prepared(request, request.text)  # words matter: the key is the exact text

    def finish(
        self,
        prepared: Prepared,
        outputs: Mapping[str, Tensor] | None,
        *,
        truncated: bool,
        memory: Memory | None = None,
    ) -> Answer:
        """See `edgeslm.ports.Task`.

        Raises:
            NoNumberError: the outputs are none, and say nothing.
        """
        assert outputs is not None  # noqa: S101 -- `prepare` always asks for the model
        logits = outputs[LOGITS].astype(np.float32, copy=False)
        best = int(logits.argmax())
        top = float(logits[best])
        if not math.isfinite(top):
            raise NoNumberError
        free = energy_of(logits, top)
        score = out_of_scope(
            self._parameters,
            free=free,
            top=top,
            distance=float(outputs[DISTANCE]) if self._parameters.needs_distance else None,
        )
        if not math.isfinite(score):
            raise NoNumberError
        answer = Answer(
            label=self._labels[best],
            # exp(best logit - log of the sum): the softmax's largest value
            confidence=min(1.0, math.exp(top + free)),
            score=score,
            accepted=score <= self._threshold,
            p_value=p_value(self._calibration, score),
            truncated=truncated,
        )
        lesson = None if memory is None else memory.overlay.of(prepared.request.text)
        return answer if lesson is None else self._taught(answer, lesson)

    def _taught(self, answer: Answer, lesson: Lesson) -> Answer:
        """Return the answer as an operator has it; one that this bundle cannot give is left."""
        if lesson.kind == "anomaly":
            return answer._replace(accepted=False, lesson=lesson.id)
        if lesson.label not in self._labels:
            return answer
        return answer._replace(label=lesson.label, confidence=1.0, accepted=True, lesson=lesson.id)


def load(parameters: bytes) -> Intent:
    """See `edgeslm.ports.TaskFactory`."""
    remedy = "Export the bundle again."
    return Intent(parse_json(IntentParameters, parameters, file="parameters.json", remedy=remedy))
