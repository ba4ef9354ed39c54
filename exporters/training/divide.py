"""Which examples training learns from, and which it is judged by while it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from edgeslm.errors import RejectedError
from exporters.data import OUT_OF_SCOPE, Row, spread

_PARTS: Final = (10, 5)  # one of them is held out: of the first number that leaves enough
LEAST: Final = 20  # held-out texts: fewer see no difference of less than 5 points
_LEAST_FEW: Final = 5  # where they do not say when to stop, and only calibrate
_EXPORT_PARTS: Final = 5  # one of them judges the export where no --eval is given
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
    """Deal labelled rows; a label with few texts keeps them all for training, and what was taught.

    Args:
        rows: examples.
        seed: of the deal.
        way: what trains on them. Of `few`, what is held out only calibrates: a handful will do.
            What is given to judge the export by stands in for none of it: it would flatter itself.

    Raises:
        TooFewError: they leave too few to judge by.
    """
    outside = [row for row in rows if row.label == OUT_OF_SCOPE]
    inside = [row for row in rows if row.label != OUT_OF_SCOPE]
    ranks = spread(inside, max(1, len(inside)), seed=seed)  # of texts among those of their label
    taught = {row.text for row in inside if row.taught}  # to be learnt from
    for least, spared in _deals(way, len(inside)):
        judges = [
            rank in spared and row.text not in taught
            for row, rank in zip(inside, ranks, strict=True)
        ]
        held_out = [row for row, judge in zip(inside, judges, strict=True) if judge]
        texts = len({row.text for row in held_out})
        if texts >= least:
            break
    else:
        raise TooFewError(_too_few(inside, texts, way))
    learn = [row for row, judge in zip(inside, judges, strict=True) if not judge]
    known = Counter(str(row.label) for row in learn)
    unseen = sorted(known.keys() - {row.label for row in held_out})
    cautions = []
    if unseen:
        shown = ", ".join(repr(label) for label in unseen[:_SHOWN])
        more = ", ..." if len(unseen) > _SHOWN else ""
        cautions.append(
            f"labels with fewer than {spared.start + 1} different texts: {len(unseen)} "
            f"({shown}{more}): training learns them, but "
            + (
                "neither when it stops nor what is calibrated heeds them"
                if way == "full"
                else "what is calibrated does not heed them"
            )
        )
    return Division(learn, held_out, outside, tuple(sorted(known)), cautions)


def _deals(way: Way, texts: int) -> Iterator[tuple[int, range]]:
    """Yield how many texts are enough to judge by, and which of a label's `texts` they would be.

    Where one in five of each label are too few of few, it is the fewest of each that are enough,
    and fewer than are left to learn from.
    """
    for parts in _PARTS:
        enough = way == "few" and parts == _PARTS[-1]
        yield _LEAST_FEW if enough else LEAST, range(parts - 1, texts, parts)
    if way == "few":
        for each in range(1, _LEAST_FEW + 1):
            yield _LEAST_FEW, range(2, 2 * each + 1, 2)


def _too_few(inside: Sequence[Row], held_out: int, way: Way) -> str:
    """Say how many texts of each label would do, of which so many can be held out as it is."""
    least, parts, kept = (_LEAST_FEW, 2, 1) if way == "few" else (LEAST, _PARTS[-1], 0)
    each = -(-least // max(1, len({row.label for row in inside}))) * parts + kept
    more = max(_EXPORT_PARTS, each + (each - 1) // (_EXPORT_PARTS - 1))
    return (
        f"--train {way}: {len({row.text for row in inside})} different texts to learn from leave "
        f"{held_out} to calibrate by, and {least} are needed. Give {each} texts of each label with "
        f"--eval, {more} without it, or take --train {_INSTEAD[way]}."
    )
