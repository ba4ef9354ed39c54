"""How many texts it takes to tell so small a share of them as is to be rejected."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeslm.core import calibration
from edgeslm.errors import RejectedError
from exporters.data import OUT_OF_SCOPE, Row
from exporters.training.divide import TooFewError, divide
from exporters.training.folder import Trained
from exporters.tune.lock import Train


class RejectShareError(RejectedError):
    """The texts in scope are too few for the share of them that is to be rejected."""

    code = "calibration.reject_share"

    def __init__(self, *, file: str, share: float, texts: int, of: int) -> None:
        self.share = share
        self.texts = texts
        self.needed = texts_needed(share)
        held_out = f", held out of {of}" if of > texts else ""
        super().__init__(
            f"{file}: a reject share of {share:g} needs at least {self.needed} texts in scope to "
            f"calibrate on, and there are {texts}{held_out}; add texts, or allow a share of "
            f"{least_share(texts):g}"
        )


def texts_needed(share: float) -> int:
    """Return the fewest texts with which one can be further out than all but `share` of them.

    Of n texts and another like them, that one is the furthest out with a chance of 1 / (n + 1).
    """
    return math.ceil(1 / share) - 1


def least_share(texts: int) -> float:
    """Return the least share, of two digits, that so many texts can tell."""
    return calibration.least_share(texts + 1)


def check(  # noqa: PLR0913 -- all that decides which texts calibrate
    rows: Sequence[Row],
    *,
    file: str,
    share: float,
    train: Train,
    teacher: Trained | None = None,
    seed: int,
) -> list[str]:
    """Make sure that what calibrates supports the share to reject; return what one should know.

    Few texts are calibrated on all the same, coarsely: there are no more.

    Args:
        rows: labelled, to learn from.
        file: where they stand, for messages.
        share: of texts in scope, to reject.
        train: what learns from them; all of them calibrate a head, and what others hold out.
        teacher: of a student.
        seed: of the deal.

    Raises:
        RejectShareError: it does not; says how many texts would.
        TooFewError: nothing is left to calibrate on.
        TeacherError, OtherDataError: the teacher cannot have students of such examples.
    """
    inside = [row for row in rows if row.label != OUT_OF_SCOPE]
    if teacher is not None:
        from exporters.training.distil import (  # noqa: PLC0415 -- torch: seconds
            OtherDataError,
            divided,
        )

        try:
            texts = len(divided(teacher, rows).held_out)
        except OtherDataError as err:
            err.args = (f"{file}: {err}",)
            raise
    elif train in {"full", "few", "static"}:
        try:
            texts = len(divide(rows, seed=seed, way=train).held_out)
        except TooFewError as err:
            err.args = (f"{file}: {err}",)
            raise
    else:
        texts = len(inside)
    if texts >= texts_needed(share):
        return []
    if train == "few":
        return [_coarse(share, texts)]
    raise RejectShareError(file=file, share=share, texts=texts, of=len(inside))


def _coarse(share: float, texts: int) -> str:
    return (
        f"a reject share of {share:g} cannot be told by {texts} texts that calibrate, only one of "
        f"{least_share(texts):g} or more ({texts_needed(share)} would do): the threshold is where "
        "the furthest of them is; look at rejected_in_scope, with --eval, or give more texts"
    )
