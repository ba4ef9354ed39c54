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
_COUNTED: Final[Mapping[str, tuple[str, ...]]] = {
    "accuracy": ("in_scope",),
    "oos_auroc": ("in_scope", "out_of_scope"),
    "auroc": ("normal", "anomalies"),
    "false_alarm_rate": ("normal",),
}
"""Which rows what may be lost is of, by the metrics that count them; of all where nothing is said.
Of two kinds it is of how they lie to each other: one row of n may move it by 1 / n, or less."""
_ROWS: Final = {
    "in_scope": "texts in scope",
    "out_of_scope": "texts out of scope",
    "normal": "normal lines",
    "anomalies": "anomalies",
}


class QualityError(RejectedError):
    """The artifact is worse than the profile allows.

    Args:
        lost: points lost, by name of what was compared.
        limit: points that may be.
        rows: how many held-out rows were judged.
        fp32: of the original.
        artifact: of what is worse.
        setting: of the profile, which says the limit.
        more: how more rows would be judged.
    """

    code = "quality.drop"

    def __init__(  # noqa: PLR0913 -- by name
        self,
        lost: Mapping[str, float],
        *,
        limit: float,
        rows: int,
        fp32: Metrics,
        artifact: Metrics,
        setting: str = "accuracy_drop_max",
        more: str = "give more with --eval",
    ) -> None:
        parts = []
        beyond = {name: points for name, points in lost.items() if points > limit}
        for name, points in beyond.items():
            before, after = fp32.get(name), artifact.get(name)
            known = before is not None and after is not None
            numbers = f" ({before:.2f} -> {after:.2f})" if known else ""
            parts.append(f"{name} {points:.2f}{numbers}")
        few = _too_few(max(beyond, key=beyond.__getitem__), limit, rows, fp32)
        super().__init__(
            f"on {rows} held-out rows the artifact is worse than fp32 by more than the {limit:g} "
            f"points allowed: {', '.join(parts)}. {f'{few}: {more}, raise' if few else 'Raise'} "
            f"{setting} in the profile, or pass --allow-drop."
        )
        self.lost = lost
        self.limit = limit


def _too_few(lost: str, limit: float, rows: int, metrics: Metrics) -> str:
    """Return what one row counts where that is more than may be lost, else nothing."""
    counted = {kind: int(metrics.get(kind) or 0) for kind in _COUNTED.get(lost, ())}
    fewest, what = min(((n, _ROWS[kind]) for kind, n in counted.items() if n), default=(rows, ""))
    one = POINTS / fewest
    if not 0 < limit < one:
        return ""
    at_most = "up to " * (len(counted) > 1)
    return f"One of {fewest} {what or 'held-out rows'} is {at_most}{one:.2g} points of {lost}"


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
