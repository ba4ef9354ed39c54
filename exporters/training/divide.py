"""Which examples training learns from, and which it is judged by while it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from edgeslm.errors import RejectedError
from exporters.data import OUT_OF_SCOPE, Row, spread

_PARTS: Final = (10, 5)  # one of them is held out: of the first number that leaves enough
LEAST: Final = 20  # held-out texts: fewer see no difference of less than 5 points
_LEAST_FEW: Final = 5  # where they do not say when to stop, and only calibrate
_SHOWN: Final = 5


Way = Literal["full", "few", "static"]
"""What `--train` says."""
_INSTEAD: Final[dict[Way, str]] = {"full": "few or head", "few": "head", "static": "head"}
"""What else it may say, where texts are too few."""


class TooFewError(RejectedError):
    """The examples are too few to train on."""

    code = "train.too_few"


@dataclass(frozen=True, slots=True)
class Division:
    """Examples by what training does with them; the first two share no text.

    Args:
        learn: in scope; trained on.
        held_out: in scope; all calibration is decided by them, and of `full` when to stop.
        outside: labelled `oos`: the network never sees them, the calibrator of scores may.
        labels: of `learn`, ascending.
        cautions: what the user should know, a sentence each.
    """

    learn: list[Row]
    held_out: list[Row]
    outside: list[Row]
    labels: tuple[str, ...]
    cautions: list[str] = field(default_factory=list)


def divide(rows: Sequence[Row], *, seed: int, way: Way = "full") -> Division:
    """Deal labelled rows; a label with few texts keeps them all for training.

    Args:
        rows: examples.
        seed: of the deal.
        way: what trains on them. Of `few`, what is held out only calibrates: a handful will do.

    Raises:
        TooFewError: they leave too few to judge by.
    """
    outside = [row for row in rows if row.label == OUT_OF_SCOPE]
    inside = [row for row in rows if row.label != OUT_OF_SCOPE]
    few = way == "few"
    for parts in _PARTS:
        dealt = spread(inside, parts, seed=seed)
        held_out = [row for row, part in zip(inside, dealt, strict=True) if part == parts - 1]
        texts = len({row.text for row in held_out})
        if texts >= LEAST or (few and parts == _PARTS[-1] and texts >= _LEAST_FEW):
            break
    else:
        least = _LEAST_FEW if few else LEAST
        msg = (
            f"--train {way}: {len({row.text for row in inside})} different texts leave {texts} to "
            f"judge by, and {least} are needed. Give about {least * _PARTS[-1]} texts, at least "
            f"{_PARTS[-1]} of most labels, or take --train {_INSTEAD[way]}."
        )
        raise TooFewError(msg)
    learn = [row for row, part in zip(inside, dealt, strict=True) if part != parts - 1]
    known = Counter(str(row.label) for row in learn)
    unseen = sorted(known.keys() - {row.label for row in held_out})
    cautions = []
    if unseen:
        shown = ", ".join(repr(label) for label in unseen[:_SHOWN])
        more = ", ..." if len(unseen) > _SHOWN else ""
        cautions.append(
            f"labels with fewer than {parts} different texts: {len(unseen)} ({shown}{more}): "
            "training learns them, but "
            + (
                "neither when it stops nor what is calibrated heeds them"
                if way == "full"
                else "what is calibrated does not heed them"
            )
        )
    return Division(learn, held_out, outside, tuple(sorted(known)), cautions)
