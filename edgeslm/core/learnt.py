"""What an anomaly bundle has learnt, as its `parameters` artifact says it: hostile until parsed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Final, Self

from pydantic import Field, field_validator, model_validator

from edgeslm.contract.base import Typed
from edgeslm.core import calibration, numbers, series, sessions
from edgeslm.core.calibration import Tail
from edgeslm.core.detector import Repertoire
from edgeslm.core.series import Gauge, Usual, View
from edgeslm.core.sessions import Habits
from edgeslm.core.template import MARK, MASKS

Count = Annotated[int, Field(ge=0, le=2**53)]
Index = Annotated[int, Field(ge=0, description="Into templates.")]
Place = Annotated[int, Field(ge=-1, description="Into templates; -1: none.")]
LogP = Annotated[float, Field(le=0, ge=-1e3)]
MAX_WINDOWS: Final = 8
MAX_VIEWS: Final = 8
MAX_FACTOR: Final = 1e9
"""Largest factor and mean, in scales of a slot: no sum of products of them overflows."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Step = Annotated[float, Field(ge=0, le=MAX_FACTOR)]


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


class ViewParameters(Typed):
    """Windows of one series; see `core.series.View`."""

    windows: Annotated[
        tuple[Annotated[int, Field(ge=1, le=series.MAX_READINGS)], ...],
        Field(min_length=1, max_length=MAX_WINDOWS),
    ]
    mean: tuple[Finite, ...]
    root: tuple[tuple[Finite, ...], ...]
    steps_low: tuple[Step, ...]
    steps_high: tuple[Step, ...]
    steps_spread: tuple[Annotated[float, Field(ge=1e-9, le=MAX_FACTOR)], ...]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not _ascending(self.windows):
            msg = "windows must ascend"
            raise ValueError(msg)
        if len(self.root) != len(self.mean) or any(len(r) != len(self.mean) for r in self.root):
            msg = "root must be as wide and as high as mean is long"
            raise ValueError(msg)
        if any(abs(value) > MAX_FACTOR for row in (self.mean, *self.root) for value in row):
            msg = f"mean and root must lie within {MAX_FACTOR:g}"
            raise ValueError(msg)
        if not len(self.steps_low) == len(self.steps_high) == len(self.steps_spread):
            msg = "steps_low, steps_high and steps_spread must be as long"
            raise ValueError(msg)
        if any(low > high for low, high in zip(self.steps_low, self.steps_high, strict=True)):
            msg = "steps_low must not lie above steps_high"
            raise ValueError(msg)
        return self


class SeriesParameters(Typed):
    """One series; see `core.series.Usual`."""

    source: str
    template: Index
    slots: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, max_length=series.MAX_SLOTS)
    ]
    centre: tuple[Annotated[float, Field(ge=-1e150, le=1e150)], ...]
    scale: tuple[Annotated[float, Field(ge=1e-300, le=1e150)], ...]
    low: tuple[Annotated[float, Field(ge=-MAX_FACTOR, le=MAX_FACTOR)], ...]
    high: tuple[Annotated[float, Field(ge=-MAX_FACTOR, le=MAX_FACTOR)], ...]
    spread: tuple[Annotated[float, Field(ge=1e-9, le=MAX_FACTOR)], ...]
    pause_s: Annotated[float, Field(gt=0)] | None = None
    views: Annotated[tuple[ViewParameters, ...], Field(min_length=1, max_length=MAX_VIEWS)]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        width = len(self.slots)
        if not _ascending(self.slots):
            msg = "slots must ascend"
            raise ValueError(msg)
        each = (self.centre, self.scale, self.low, self.high, self.spread)
        if {len(values) for values in each} != {width}:
            msg = "centre, scale, low, high and spread must be one per slot"
            raise ValueError(msg)
        if any(low > high for low, high in zip(self.low, self.high, strict=True)):
            msg = "low must not lie above high"
            raise ValueError(msg)
        if not _ascending([view.windows[-1] for view in self.views]):
            msg = "views must be of ever longer windows"
            raise ValueError(msg)
        if any(len(view.mean) != width * len(view.windows) for view in self.views):
            msg = "mean must be one per window and slot"
            raise ValueError(msg)
        if any(len(view.steps_low) != width for view in self.views):
            msg = "steps_low must be one per slot"
            raise ValueError(msg)
        return self

    def gauge(self) -> Gauge:
        """Return the gauge that these are the parameters of."""
        views = tuple(
            View(v.windows, v.mean, v.root, v.steps_low, v.steps_high, v.steps_spread)
            for v in self.views
        )
        return Gauge(
            Usual(
                self.slots,
                self.centre,
                self.scale,
                self.low,
                self.high,
                self.spread,
                self.pause_s,
                views,
            )
        )


class WindowsParameters(Typed):
    """Windows over readings; see `core.series`."""

    series: Annotated[tuple[SeriesParameters, ...], Field(max_length=series.MAX_GAUGES)]
    views: Annotated[
        tuple[TailParameters, ...],
        Field(min_length=1, max_length=MAX_VIEWS, description="Of each view's distance."),
    ]
    channel: TailParameters = Field(description="Of what they say together.")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if any(len(one.views) != len(self.views) for one in self.series):
            msg = "every series must have as many views"
            raise ValueError(msg)
        return self

    def gauges(self) -> dict[tuple[str, int], Gauge]:
        """Return the gauge of each series, by source and template."""
        return {(one.source, one.template): one.gauge() for one in self.series}


class SessionsParameters(Typed):
    """Sessions; see `core.sessions.Habits`. -1 stands for no template."""

    triples: Annotated[
        tuple[tuple[Place, Place, Index], ...], Field(max_length=sessions.MAX_TRIPLES)
    ]
    ends: Annotated[tuple[tuple[Place, Index], ...], Field(max_length=sessions.MAX_TRIPLES)]
    most: dict[Index, Annotated[int, Field(ge=1, le=2**53)]]
    pause_s: Annotated[float, Field(gt=0)] | None = None
    channel: TailParameters = Field(description="Of a line in its session.")
    end: TailParameters = Field(description="Of the last line of a session, as its last.")

    def habits(self) -> Habits:
        """Return the habits that these are the parameters of."""
        return Habits(frozenset(self.triples), frozenset(self.ends), self.most, self.pause_s)


class DriftParameters(Typed):
    """How far readings of training depend on each other; see `core.drift`."""

    number: Annotated[float, Field(ge=0, le=1)] = Field(
        description="Independent lines that one is worth by its numbers; 0: training was too short."
    )


class Parameters(Typed):
    """The `parameters` artifact of an anomaly bundle."""

    alarm_budget: Annotated[float, Field(gt=0, lt=1)]
    calibration_lines: Annotated[int, Field(ge=1)]
    masks: int = Field(
        default=1,
        validate_default=True,
        description="By which the templates were split; see core.template.MASKS.",
    )
    templates: tuple[str, ...] = Field(min_length=1)
    everyone: RepertoireParameters = Field(description="All sources together.")
    sources: dict[str, RepertoireParameters] = Field(
        description="By name; lines without a source have the name ''."
    )
    text: TailParameters
    number: TailParameters
    fused: TailParameters
    ranks: bool = Field(
        default=False, description="See core.calibration.Fusion; bundles of before lack it."
    )
    windows: WindowsParameters | None = None
    sessions: SessionsParameters | None = None
    drift: DriftParameters | None = None

    @field_validator("masks")
    @classmethod
    def _is_ours(cls, masks: int) -> int:
        if masks != MASKS:
            msg = f"{masks}, this build splits by {MASKS}: it would take known lines for new"
            raise ValueError(msg)
        return masks

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
        for one in () if self.windows is None else self.windows.series:
            if one.template >= len(slots) or one.slots[-1] >= slots[one.template]:
                msg = "windows name a template or a slot that is not there"
                raise ValueError(msg)
        return self
