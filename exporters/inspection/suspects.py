"""Lines that look mislabelled: a model that has not seen their labels is sure of others.

Source:
    Northcutt, Jiang, Chuang 2021, "Confident learning: estimating uncertainty in dataset labels",
    arXiv:1911.00068, section 3.1: a line counts against its label where the probability of another
    reaches what lines of that other label get on average, by models not fitted on them. Here the
    other label must be the likeliest of all, too, which makes the list shorter and surer; and it is
    ordered by that probability.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from edgeslm.ports import Answer
from exporters.data import OUT_OF_SCOPE, Row
from exporters.heads.intent import Opinions


@dataclass(frozen=True, slots=True)
class Suspect:
    """A line, the label that it looks like, and the probability of that one."""

    row: Row
    label: str
    sure: float


def suspects(
    opinions: Opinions, held_out: Sequence[Row], answers: Sequence[Answer]
) -> list[Suspect]:
    """Return the lines that look mislabelled, those that do so most first.

    Args:
        opinions: on the lines learnt from, each by a layer not fitted on it.
        held_out: lines that nothing was fitted on; those out of scope have no label to doubt.
        answers: to them, of a model fitted on the others.
    """
    of_label: defaultdict[str, list[float]] = defaultdict(list)
    for row, given in zip(opinions.rows, opinions.given.tolist(), strict=True):
        of_label[str(row.label)].append(given)
    usual = {label: fmean(given) for label, given in of_label.items()}
    judged = [*zip(opinions.rows, opinions.said, opinions.sure.tolist(), strict=True)]
    for row, answer in zip(held_out, answers, strict=True):
        if row.label != OUT_OF_SCOPE:
            judged.append((row, answer.label, answer.confidence))
    found = [
        Suspect(row, said, sure)
        for row, said, sure in judged
        if said != row.label and sure >= usual[said]
    ]
    return sorted(found, key=lambda one: (-one.sure, one.row.file, one.row.line))
