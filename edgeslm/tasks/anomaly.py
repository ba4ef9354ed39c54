"""Anomaly: a text's template and numbers -> normal or anomaly, with a p-value and its cause.

Two channels. `text`: 0 for a template that this source used in training, else how new its words
are, how far its embedding lies from the known ones (the graph's output `distance`), and how
rarely this source says anything new. `number`: how surprising a line's numbers are, given the
history of their slots in this source and template. Each becomes a p-value on lines that its
statistics had not seen; the two are fused by weighted minimum and calibrated again, so
`p_value <= budget` means: among normal lines, at most that share.

The model reads every template once, the known ones too, although their scores do not depend on
it. That costs little (realistic traffic of 36,204 lines has 1,742 templates), and it lets the
golden file prove the model on a plant's ordinary lines. Statistics are frozen: an answer is a
pure function of text and source.

`score` is the fused score, -ln of the weighted minimum, in nats: it ranks as the p-value does,
and goes on where that ends. `confidence` is how far a line is from the alarm line:
1 - min(p, budget) / max(p, budget), 0 on that line and 1 far from it, on either side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Final, Self, cast

from pydantic import Field, model_validator

from edgeslm.contract.base import Typed, parse_json
from edgeslm.contract.messages import Cause
from edgeslm.core import calibration, numbers
from edgeslm.core.calibration import Fusion, Tail
from edgeslm.core.detector import Detector, Repertoire, Scores
from edgeslm.core.template import MARK, Split, readable, split
from edgeslm.ports import Answer, Memory, Prepared, Request, Tensor

DISTANCE: Final = "distance"
"""Name of the graph's output, float32 [batch]: 1 - largest cosine to a reference, in [0, 2]."""

LONGEST_QUOTE: Final = 80
"""Characters of a token or a number that an explanation quotes at most."""

Count = Annotated[int, Field(ge=0, le=2**53)]
Index = Annotated[int, Field(ge=0, description="Into templates.")]
LogP = Annotated[float, Field(le=0, ge=-1e3)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _ascending(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


class HistoryParameters(Typed):
    """One slot's history; see `core.numbers.History`."""

    values: tuple[Finite, ...] = Field(max_length=numbers.KNOTS)
    counts: tuple[Count, ...] = Field(max_length=numbers.KNOTS)
    once: Count
    others: Count
    effective: Annotated[float, Field(gt=0, le=2**53)]
    scale: Annotated[float, Field(ge=1e-300, le=1e300)]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if len(self.values) != len(self.counts):
            msg = "values and counts differ in length"
            raise ValueError(msg)
        if not _ascending(self.values) or not _ascending((0, *self.counts)):
            msg = "values and counts must ascend"
            raise ValueError(msg)
        return self

    def history(self) -> numbers.History:
        """Return the history that these are the parameters of."""
        return numbers.History(
            self.values, self.counts, self.once, self.others, self.effective, self.scale
        )


class RepertoireParameters(Typed):
    """What one source said; see `core.detector.Repertoire`."""

    lines: Annotated[int, Field(ge=1, le=2**53)]
    once: Count
    templates: tuple[Index, ...]
    histories: dict[Index, tuple[HistoryParameters, ...]]

    def repertoire(self) -> Repertoire:
        """Return the repertoire that these are the parameters of."""
        histories = {i: [h.history() for h in slots] for i, slots in self.histories.items()}
        return Repertoire(self.lines, self.once, frozenset(self.templates), histories)


class TailParameters(Typed):
    """One channel's calibration; see `core.calibration.Tail`."""

    scores: tuple[Finite, ...] = Field(min_length=1, max_length=4 * calibration.EXACT)
    log_p: tuple[LogP, ...]
    log_p_above: tuple[LogP, ...]
    decay: Annotated[float, Field(ge=calibration.MIN_DECAY, le=1e9)]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not len(self.scores) == len(self.log_p) == len(self.log_p_above):
            msg = "scores, log_p and log_p_above differ in length"
            raise ValueError(msg)
        steps = [p for both in zip(self.log_p, self.log_p_above, strict=True) for p in both]
        if not _ascending(self.scores) or any(a < b for a, b in pairwise(steps)):
            msg = "scores must ascend and p-values never rise"
            raise ValueError(msg)
        return self

    def tail(self) -> Tail:
        """Return the distribution that these are the parameters of."""
        return Tail(self.scores, self.log_p, self.log_p_above, self.decay)


class Parameters(Typed):
    """The `parameters` artifact of an anomaly bundle."""

    alarm_budget: Annotated[float, Field(gt=0, lt=1)]
    calibration_lines: Annotated[int, Field(ge=1)]
    templates: tuple[str, ...] = Field(min_length=1)
    everyone: RepertoireParameters = Field(description="All sources together.")
    sources: dict[str, RepertoireParameters] = Field(
        description="By name; lines without a source have the name ''."
    )
    text: TailParameters
    number: TailParameters
    fused: TailParameters

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        slots = [template.count(MARK) for template in self.templates]
        for repertoire in (self.everyone, *self.sources.values()):
            if any(i >= len(slots) for i in repertoire.templates):
                msg = "a repertoire names a template that is not there"
                raise ValueError(msg)
            if any(i >= len(slots) or len(h) != slots[i] for i, h in repertoire.histories.items()):
                msg = "histories must be one per slot of a template that is there"
                raise ValueError(msg)
        if any(count and i not in self.everyone.histories for i, count in enumerate(slots)):
            msg = "everyone must have histories of every template with slots"
            raise ValueError(msg)
        return self


class Anomaly:
    """The task of one bundle; immutable, so any thread may use it."""

    def __init__(self, parameters: Parameters) -> None:
        self._budget = parameters.alarm_budget
        self._detector = Detector(
            parameters.templates,
            parameters.everyone.repertoire(),
            {name: r.repertoire() for name, r in parameters.sources.items()},
        )
        self._fusion = Fusion(
            parameters.text.tail(), parameters.number.tail(), parameters.fused.tail()
        )

    def memory(self) -> None:
        """Return None: it has no windows and no sessions."""

    def prepare(self, request: Request) -> Prepared:
        """Split the text; what the model reads, and the cache's key, is its template."""
        parts = split(request.text)
        return Prepared(request, readable(parts.template), parts)

    def finish(
        self,
        prepared: Prepared,
        outputs: Mapping[str, Tensor] | None,
        *,
        truncated: bool,
        memory: Memory | None = None,
    ) -> Answer:
        """Score words and numbers, fuse and judge.

        Raises:
            ValueError: the outputs lack `distance` (the graph is not of this task).
        """
        del memory
        if outputs is None or DISTANCE not in outputs:
            msg = f"the graph gave no output {DISTANCE!r}"
            raise ValueError(msg)
        parts = cast("Split", prepared.context)
        source = prepared.request.source
        # Rounding may leave the range by an ulp, and an accelerator may overflow to NaN.
        distance = min(2.0, max(0.0, float(outputs[DISTANCE])))
        scores = self._detector.scores(parts, source, distance)
        verdict = self._fusion.verdict(scores.text, scores.number)
        p, budget = verdict.p_value, self._budget
        anomalous = p <= budget
        return Answer(
            label="anomaly" if anomalous else "normal",
            confidence=1 - (p / budget if anomalous else budget / p),
            score=verdict.score,
            p_value=p,
            channels=verdict.channels,
            source_known=self._detector.knows(source),
            truncated=truncated,
            explanation=(_cause(parts, scores, verdict.channel),) if anomalous else (),
        )


def _cause(parts: Split, scores: Scores, channel: str) -> Cause:
    """Return what made `channel` the lowest."""
    if channel == "number" and scores.line is not None:
        slot, expected = scores.line.worst(parts.slots)
        value = parts.slots[slot][:LONGEST_QUOTE]
        return {"channel": channel, "slot": slot, "value": value, "expected": expected}
    return {"channel": channel, "token": scores.unseen[:LONGEST_QUOTE]}


def load(parameters: bytes) -> Anomaly:
    """Return the task of a bundle from the bytes of its `parameters` artifact.

    Raises:
        InvalidFileError: the bytes are not parameters of this task; names each field.
    """
    return Anomaly(
        parse_json(
            Parameters,
            parameters,
            file="parameters.json",
            remedy="Export the bundle again with `edgeslm-export anomaly`.",
        )
    )
