"""Anomaly: a text's template and numbers -> normal or anomaly, with a p-value and its cause.

Two channels. `text`: 0 for a template known from training, else how new its words are, and how
far its embedding lies from the known ones (the graph's output `distance`). `number`: how
surprising its numbers are, given the history of their slot in this source and template. Each
becomes a p-value on lines that its statistics had not seen; the two are fused by weighted minimum
and calibrated again, so `p_value <= budget` means: among normal lines, at most that share.

The model reads every template once, the known ones too, although their text score does not
depend on it: that costs one inference a template, and then the golden file of a bundle proves the
model on ordinary lines, and what the model says of them is there in the cache for its other
users. Statistics are frozen: an answer is a pure function of text and source.

`score` is the fused score, -ln of the weighted minimum, in nats: it ranks more finely than the
p-value, and agrees with it. `confidence` is how far a line is from the alarm line:
1 - min(p, budget) / max(p, budget), 0 on the line and 1 far from it, on either side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Final, Self, cast

from pydantic import Field, model_validator

from edgeslm.contract.base import Typed, parse_json
from edgeslm.contract.messages import Cause
from edgeslm.core import calibration, numbers
from edgeslm.core.calibration import MIN_P, Tail
from edgeslm.core.novelty import Vocabulary
from edgeslm.core.numbers import Slot
from edgeslm.core.template import MARK, Split, number, readable, split
from edgeslm.ports import Answer, Prepared, Request, Tensor

DISTANCE: Final = "distance"
"""Name of the graph's output, float32 [batch]: 1 - largest cosine to a reference, in [0, 2]."""

Count = Annotated[int, Field(ge=0, le=2**53)]
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
    scale: Annotated[float, Field(gt=0, le=1e300)]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if len(self.values) != len(self.counts):
            msg = "values and counts differ in length"
            raise ValueError(msg)
        if not _ascending(self.values) or not _ascending((0, *self.counts)):
            msg = "values and counts must ascend"
            raise ValueError(msg)
        return self


class TailParameters(Typed):
    """One channel's calibration; see `core.calibration.Tail`."""

    scores: tuple[Finite, ...] = Field(min_length=1, max_length=4 * calibration.EXACT)
    log_p: tuple[LogP, ...]
    log_p_above: tuple[LogP, ...]
    decay: Annotated[float, Field(ge=1e-9, le=1e9)]

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


class SourceHistories(Typed):
    """Histories of the slots of one template, in one source."""

    source: str
    template: Annotated[int, Field(ge=0, description="Index into templates.")]
    slots: tuple[HistoryParameters, ...]


class Parameters(Typed):
    """The `parameters` artifact of an anomaly bundle."""

    alarm_budget: Annotated[float, Field(gt=0, lt=1)]
    calibration_lines: Annotated[int, Field(ge=1)]
    sources: tuple[str, ...] = Field(description="Those of the training lines; empty if none.")
    templates: tuple[str, ...] = Field(min_length=1)
    pooled: tuple[tuple[HistoryParameters, ...], ...] = Field(
        description="Per template: slots over all sources, for a source that has none of its own."
    )
    histories: tuple[SourceHistories, ...]
    text: TailParameters
    number: TailParameters
    fused: TailParameters

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if len(self.pooled) != len(self.templates):
            msg = "pooled: one per template is needed"
            raise ValueError(msg)
        slots = [template.count(MARK) for template in self.templates]
        if any(len(p) != n for p, n in zip(self.pooled, slots, strict=True)):
            msg = "pooled: one history per slot of the template is needed"
            raise ValueError(msg)
        for h in self.histories:
            if h.template >= len(slots) or len(h.slots) != slots[h.template]:
                msg = "histories: one per slot of a known template is needed"
                raise ValueError(msg)
        return self


class Line:
    """The histories of a template's slots in one source (or pooled), ready to be asked."""

    __slots__ = ("slots", "varying")

    def __init__(self, histories: Sequence[numbers.History]) -> None:
        self.slots = tuple(Slot(history) for history in histories)
        self.varying = sum(slot.varies for slot in self.slots)

    def surprises(self, slots: Sequence[str]) -> list[float]:
        """Return the surprise of each slot, nats."""
        return [
            known.surprise(number(slot)) for known, slot in zip(self.slots, slots, strict=False)
        ]

    def score(self, slots: Sequence[str]) -> float:
        """Return the number score of a line, nats, 0 where it has no slots."""
        return numbers.combined(self.surprises(slots), self.varying) if self.slots else 0.0


class Anomaly:
    """The task of one bundle; immutable, so any thread may use it."""

    def __init__(self, parameters: Parameters) -> None:
        self._budget = parameters.alarm_budget
        self._sources = frozenset(parameters.sources)
        self._vocabulary = Vocabulary(parameters.templates)
        self._pooled = [_line(slots) for slots in parameters.pooled]
        self._lines = {(h.source, h.template): _line(h.slots) for h in parameters.histories}
        self._text = parameters.text.tail()
        self._number = parameters.number.tail()
        self._fused = parameters.fused.tail()
        self._weights = {name: math.log(w) for name, w in calibration.WEIGHTS.items()}

    def prepare(self, request: Request) -> Prepared:
        """Split the text; what the model reads, and the cache's key, is its template."""
        parts = split(request.text)
        return Prepared(request, readable(parts.template), parts)

    def finish(
        self, prepared: Prepared, outputs: Mapping[str, Tensor] | None, *, truncated: bool
    ) -> Answer:
        """Score words and numbers, fuse and judge.

        Raises:
            ValueError: the outputs lack `distance` (the graph is not of this task).
        """
        template, slots = cast("Split", prepared.context)
        source = prepared.request.source
        index = self._vocabulary.index(template)
        line = None
        text_score = number_score = 0.0
        if index is None:
            if outputs is None or DISTANCE not in outputs:
                msg = f"the graph gave no output {DISTANCE!r}"
                raise ValueError(msg)
            # An accelerator that overflows must not take the whole score with it.
            distance = min(max(float(outputs[DISTANCE]), 0.0), 2.0)
            text_score = self._vocabulary.score(template, distance)
        elif slots:
            line = self._lines.get((source, index)) or self._pooled[index]
            number_score = line.score(slots)
        log_text = self._text.log_p_value(text_score)
        log_number = self._number.log_p_value(number_score)
        score = max(self._weights["text"] - log_text, self._weights["number"] - log_number)
        p = max(math.exp(max(self._fused.log_p_value(score), -690.0)), MIN_P)
        budget = self._budget
        anomalous = p <= budget
        cause: Sequence[Cause] = ()
        if anomalous:
            by_text = self._weights["text"] - log_text == score
            cause = (self._text_cause(template) if by_text else _number_cause(line, slots),)
        return Answer(
            label="anomaly" if anomalous else "normal",
            confidence=1 - (p / budget if anomalous else budget / p),
            score=score,
            p_value=p,
            channels={"text": _p(log_text), "number": _p(log_number)},
            source_known=source in self._sources,
            truncated=truncated,
            explanation=cause,
        )

    def _text_cause(self, template: str) -> Cause:
        """Return what is new in `template`."""
        unseen = self._vocabulary.unseen(template)
        return {"channel": "text"} if unseen is None else {"channel": "text", "token": unseen}


def _line(slots: Sequence[HistoryParameters]) -> Line:
    return Line([
        numbers.History(s.values, s.counts, s.once, s.others, s.effective, s.scale) for s in slots
    ])  # fmt: skip


def _p(log_p: float) -> float:
    return max(math.exp(max(log_p, -690.0)), MIN_P)


def _number_cause(line: Line | None, slots: Sequence[str]) -> Cause:
    """Return the most surprising slot."""
    if line is None:
        return {"channel": "number"}
    surprises = line.surprises(slots)
    worst = surprises.index(max(surprises))
    return {
        "channel": "number",
        "slot": worst,
        "value": slots[worst][:80],
        "expected": line.slots[worst].expected,
    }


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
