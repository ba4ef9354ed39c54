"""What every recipe gives the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from edgeslm.contract.manifest import Tolerance
from edgeslm.ports import Answer
from exporters.data import Row, Split
from exporters.evaluation.measures import POINTS, Measures, Metrics

if TYPE_CHECKING:  # `edgeslm-export --help` asks recipes, and does without what fits heads
    from exporters.heads.base import Advance, Embed, FittedHead


class Fitter(Protocol):
    """Makes heads: a recipe, or what stands in for it where the encoder was trained."""

    def steps(self, rows: Sequence[Row]) -> int:
        """Return by how much `fit` will advance in all."""

    def fit(
        self, rows: Sequence[Row], embed: Embed, *, share: float, seed: int, advance: Advance
    ) -> FittedHead:
        """Fit the head."""


class Option(NamedTuple):
    """A choice of one recipe: what it means, what it is without being given, and its check."""

    help: str
    default: str
    check: Callable[[str], object]
    """Raises RejectedError, which says what to give."""


class Recipe(Fitter, Protocol):
    """One module of exporters/recipes/."""

    HELP: str
    """What the task does, for `edgeslm-export --help`."""
    SHARE: tuple[str, str]
    """(option, what it means) of the task's one number: a share of normal traffic."""
    DEFAULT_SHARE: float
    TRAINABLE: bool
    """Whether an encoder can be trained for it."""
    OPTIONS: Mapping[str, Option]
    """By name, without the dashes."""
    PROMISE: tuple[str, str]
    """Two measures: the share that was asked for, and what came of it."""

    def fitter(self, options: Mapping[str, str]) -> Fitter:
        """Return what makes its heads, by these of its `OPTIONS`."""

    def split(self, data: Path, evaluation: Path | None, *, share: float, seed: int) -> Split:
        """Read, check and divide the user's examples.

        Raises:
            DataError: they cannot be used.
            BudgetError: they are too few for `share`.
        """

    def texts(self, rows: Sequence[Row]) -> list[str]:
        """Return the different texts that the model reads to answer `rows`."""

    def measures(self, rows: Sequence[Row], answers: Sequence[Answer], *, share: float) -> Measures:
        """Judge `answers` to the held-out `rows`; `share` is what was asked for."""

    def measure(self, rows: Sequence[Row], answers: Sequence[Answer], *, share: float) -> Metrics:
        """Return the values of `measures`."""

    def primary(self, measured: Metrics) -> str:
        """Return the measure by which two models are compared first."""

    def promised(self, parameters: bytes) -> float:
        """Return the share that a bundle was made for, of its `parameters`."""

    def check(self, rows: Sequence[Row], parameters: bytes, file: str) -> list[str]:
        """Make sure that a bundle can be judged on `rows`; return what the user should know.

        Raises:
            DataError: it cannot; names each line, up to a bound.
        """

    def cautions(self, artifact: Metrics, *, limit: float) -> list[str]:
        """Return what the user should know of these metrics, a sentence each.

        `limit` is the number of points that the gate lets an artifact lose.
        """

    def losses(
        self,
        reference: tuple[Metrics, Sequence[Answer]],
        artifact: tuple[Metrics, Sequence[Answer]],
    ) -> Mapping[str, float]:
        """Return what the artifact lost, in points, by name: what the quality gate compares."""

    def surety(self, answer: Answer, parameters: bytes, allowed: Tolerance) -> float:
        """Return how far from another label or verdict `answer` is, in units of `allowed`.

        At 1 or less a device that differs by what is allowed may say something else.
        """


def too_few(rows: int, *, limit: float) -> list[str]:
    """Return a caution if one changed verdict of `rows` is more than `limit` points."""
    one = POINTS / max(rows, 1)
    if one <= limit:
        return []
    caution = (
        f"{rows} held-out rows are few: one changed verdict is {one:.2g} points, more than the "
        f"{limit:g} that the gate allows; give more with --eval"
    )
    return [caution]
