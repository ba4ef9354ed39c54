"""The gate: a bundle must do its task nearly as well as the original it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from edgeslm.errors import RejectedError
from edgeslm.ports import Answer, Request
from edgeslm.runtime.model import Model, Reading
from exporters.data import Row
from exporters.evaluation.measures import POINTS, Metrics
from exporters.heads.base import Advance

_THREADS: Final = 2  # callers of one session
_DIGITS: Final = 6


class QualityError(RejectedError):
    """The artifact is worse than the profile allows.

    Args:
        lost: points lost, by name of what was compared.
        limit: points that may be.
        rows: how many held-out rows were judged.
    """

    code = "quality.drop"

    def __init__(
        self,
        lost: Mapping[str, float],
        *,
        limit: float,
        rows: int,
        fp32: Metrics,
        artifact: Metrics,
    ) -> None:
        parts = []
        for name, points in lost.items():
            before, after = fp32.get(name), artifact.get(name)
            known = before is not None and after is not None
            numbers = f" ({before:.2f} -> {after:.2f})" if known else ""
            parts.append(f"{name} {points:.2f}{numbers}")
        one = POINTS / rows
        more = f"One of so few is {one:.2g} points: give more with --eval, raise"
        super().__init__(
            f"on {rows} held-out rows the artifact is worse than fp32 by more than the {limit:g} "
            f"points allowed: {', '.join(parts)}. {more if 0 < limit < one else 'Raise'} "
            "accuracy_drop_max in the profile, or pass --allow-drop."
        )
        self.lost = lost
        self.limit = limit


def request_of(row: Row) -> Request:
    """What the device would be asked."""
    return Request(row.text, row.source, row.time, row.key)


def answer_all(model: Model, rows: Sequence[Row], advance: Advance) -> list[Answer]:
    """Return the answers of `model` to `rows`, asked in their order and nothing before them."""
    memory = model.memory()

    def one(row: Row) -> Reading | Exception:
        (reading,) = model.read([request_of(row)])
        advance(1)
        return reading

    answers: list[Answer] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for answer in model.judge(list(pool.map(one, rows)), memory):
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
    return answers


def tidy(metrics: Mapping[str, float | int | None]) -> dict[str, float | int | None]:
    """Return `metrics` as reports show them: `short`."""
    return {k: short(v) if isinstance(v, float) else v for k, v in metrics.items()}


def short(value: float) -> float:
    """Return `value` to as many digits as reports show."""
    return float(f"{value:.{_DIGITS}g}")
