"""What is measured of answers. Recipes make these; gate, reports and comparisons all read them.

A measure is a value with what it was counted from, so that its interval and its difference from
another model's on the same rows come from the same rows as the value itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from exporters.evaluation import chance
from exporters.evaluation.chance import Bools, Difference, Floats, Indices, Interval, Shape

POINTS: Final = 100.0
Metrics = dict[str, float | int | None]
"""Name -> value; None where the rows cannot tell."""


class Measure(Protocol):
    """One figure of one model on one set of rows."""

    @property
    def value(self) -> float | int | None:
        """None where the rows cannot tell."""

    @property
    def rows(self) -> int | None:
        """How many rows it is of; None: it is a number of rows, or was given."""

    def interval(self) -> Interval | None:
        """Return where the true value is, in the value's unit; None where nothing is chance."""

    def against(self, first: Measure) -> Difference | None:
        """Return this one minus another model's, `first`; None where they cannot be compared."""


Measures = Mapping[str, Measure]


def values(measures: Measures) -> Metrics:
    """Return the value of each."""
    return {name: measure.value for name, measure in measures.items()}


@dataclass(frozen=True, slots=True)
class Given:
    """A number of rows, or what was asked for."""

    value: float
    rows: None = None

    def interval(self) -> None:
        return None

    def against(self, first: Measure) -> None:
        del first


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """The share of some rows of which something holds.

    Args:
        hits: of which it does; bool [rows].
        of: which rows are looked at; bool [rows].
        unit: what all of them are.
    """

    hits: Bools
    of: Bools
    unit: float = POINTS

    @property
    def rows(self) -> int:
        return int(self.of.sum())

    @property
    def count(self) -> int:
        """Rows of which it holds."""
        return int((self.hits & self.of).sum())

    @property
    def value(self) -> float | None:
        return self.unit * self.count / self.rows if self.rows else None

    def interval(self) -> Interval | None:
        return _scaled(chance.wilson(self.count, self.rows), self.unit) if self.rows else None

    def against(self, first: Measure) -> Difference | None:
        """McNemar's test; where the two look at different rows, a paired bootstrap."""
        if not isinstance(first, Share) or not first.rows or not self.rows:
            return None
        if np.array_equal(first.of, self.of):
            found = chance.mcnemar(first.hits[self.of], self.hits[self.of])
        elif (by_bootstrap := chance.paired(first.ratio, self.ratio, len(self.of))) is None:
            return None
        else:
            found = by_bootstrap
        return _enlarged(found, self.unit)

    def ratio(self, rows: Indices) -> float:
        """Return the share among `rows`; nan where none is looked at."""
        of = self.of[rows]
        return float((self.hits[rows] & of).sum() / of.sum()) if of.any() else float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class Area:
    """How well a score tells some rows from others: the area under its ROC curve.

    Args:
        scores: finite, higher for the positive; float64 [rows].
        positive: bool [rows].
        unit: what a perfect one is.
    """

    scores: Floats
    positive: Bools
    unit: float = POINTS

    @property
    def rows(self) -> int:
        return len(self.positive)

    @property
    def told(self) -> bool:
        """Both kinds are there."""
        return bool(self.positive.any() and not self.positive.all())

    @property
    def value(self) -> float | None:
        return self.unit * chance.auroc(self.scores, self.positive) if self.told else None

    def interval(self) -> Interval | None:
        if not self.told:
            return None
        positives = int(self.positive.sum())
        area = chance.auroc(self.scores, self.positive)
        found = chance.newcombe(area, positives, self.rows - positives)
        return _scaled(found, self.unit)

    @property
    def few(self) -> int | None:
        """How many are of the rarer kind, where these are too few for a test; else None."""
        rarer = min(int(self.positive.sum()), int((~self.positive).sum()))
        return rarer if rarer < chance.LEAST else None

    def against(self, first: Measure) -> Difference | None:
        """Test of DeLong and others; None where too few are of either kind."""
        if not isinstance(first, Area) or self.few is not None:
            return None
        return _enlarged(chance.delong(first.scores, self.scores, self.positive), self.unit)


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """F1 of a label: how far the rows that are of it and those said to be are the same.

    Args:
        is_it: which are; bool [rows].
        said: which are said to be; bool [rows].
        unit: what 1 is.
    """

    is_it: Bools
    said: Bools
    unit: float = POINTS

    @property
    def rows(self) -> int:
        return int((self.is_it | self.said).sum())

    @property
    def value(self) -> float | None:
        if not self.is_it.any():
            return None
        return self.unit * self.ratio(np.arange(len(self.is_it)))

    def interval(self) -> Interval | None:
        if not self.is_it.any():
            return None
        both = int((self.is_it & self.said).sum())
        return _scaled(chance.f1(both, self.rows), self.unit)

    def against(self, first: Measure) -> Difference | None:
        """Paired bootstrap."""
        if not isinstance(first, Overlap) or self.value is None:
            return None
        found = chance.paired(first.ratio, self.ratio, len(self.is_it))
        return None if found is None else _enlarged(found, self.unit)

    def ratio(self, rows: Indices) -> float:
        """Return the F1 among `rows`, in [0, 1]; nan where none is of the label."""
        is_it, said = self.is_it[rows], self.said[rows]
        if not is_it.any():
            return float("nan")
        return float(2 * (is_it & said).sum() / (is_it.sum() + said.sum()))


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """Whatever else can be computed of rows, in [0, `unit`].

    Args:
        figure: of rows by their numbers, in [0, 1]; nan where they cannot tell.
        rows: how many there are.
        unit: what 1 is.
        shape: of its bootstrap.
    """

    figure: Callable[[Indices], float]
    rows: int
    unit: float = POINTS
    shape: Shape = "percentile"

    @property
    def value(self) -> float | None:
        found = self.figure(np.arange(self.rows)) if self.rows else float("nan")
        return None if np.isnan(found) else self.unit * found

    def interval(self) -> Interval | None:
        if self.value is None:
            return None
        found = chance.bootstrap(self.figure, self.rows, shape=self.shape)
        if found is None:
            return None
        inside = Interval(max(0.0, found.low), min(1.0, found.high), found.method)
        return _scaled(inside, self.unit)

    def against(self, first: Measure) -> Difference | None:
        """Paired bootstrap."""
        if not isinstance(first, Computed) or None in {self.value, first.value}:
            return None
        found = chance.paired(first.figure, self.figure, self.rows)
        return None if found is None else _enlarged(found, self.unit)


def _scaled(found: Interval, unit: float) -> Interval:
    return Interval(unit * found.low, unit * found.high, found.method)


def _enlarged(found: Difference, unit: float) -> Difference:
    value, low, high, p, method = found
    return Difference(unit * value, unit * low, unit * high, p, method)


def macro_f1(truth: Indices, said: Indices, rows: Indices) -> float:
    """Return the mean F1 of the labels that occur among `rows`, in [0, 1].

    Args:
        truth: number of each row's label.
        said: number of the label that each was given.
        rows: which rows.
    """
    true, given = truth[rows], said[rows]
    labels = int(max(truth.max(), said.max())) + 1
    right = np.bincount(true[true == given], minlength=labels)
    total = np.bincount(true, minlength=labels) + np.bincount(given, minlength=labels)
    occurs = total > 0
    return float((2 * right[occurs] / total[occurs]).mean())


def calibration_error(confidence: Floats, right: Bools, *, bins: int) -> float:
    """Mean gap between confidence and accuracy over equal bins, in [0, 1].

    Source:
        Guo et al. 2017, arXiv:1706.04599, eq. 3.
    """
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))
