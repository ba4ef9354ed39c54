"""What training holds out of few texts, and what a refusal asks for."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import get_args

import pytest

from exporters.data import Row, spread
from exporters.training.divide import TooFewError, Way, divide


def rows_of(**labels: int) -> list[Row]:
    return [Row(f"{label} {n}", label) for label, count in labels.items() for n in range(count)]


@pytest.mark.parametrize(
    ("labels", "each", "held_out"), [("abcd", 8, 8), ("abc", 8, 6), ("ab", 8, 6), ("ab", 7, 6)]
)
def test_eight_texts_of_a_label_are_enough_whatever_labels_there_are(
    labels: str, each: int, held_out: int
) -> None:
    """With seven, too: so many are left of eight where one judges the export."""
    rows = rows_of(**dict.fromkeys(labels, each))
    division = divide([*rows, *rows], seed=0, way="few")
    texts = {row.text for row in division.held_out}
    assert (len(texts), len(division.held_out)) == (held_out, 2 * held_out)
    assert not texts & {row.text for row in division.learn}
    learnt, judged = (
        Counter(row.label for row in part) for part in (division.learn, division.held_out)
    )
    assert all(learnt[label] > judged[label] > 0 for label in labels)


@pytest.mark.parametrize("way", get_args(Way))
def test_what_operators_taught_is_learnt_from(way: Way) -> None:
    rows = rows_of(a=60, b=60)
    held_out = {row.text for row in divide(rows, seed=0, way=way).held_out}
    confirmed = min(held_out)
    rows = [replace(row, taught=row.text == confirmed) for row in rows]
    after = divide(rows, seed=0, way=way)
    assert {row.text for row in after.held_out} == held_out - {confirmed}
    assert len(after.learn) + len(after.held_out) == len(rows)


@pytest.mark.parametrize("way", get_args(Way))
@pytest.mark.parametrize("labels", [2, 3, 4, 7, 30])
def test_as_many_texts_as_a_refusal_asks_for_are_enough(way: Way, labels: int) -> None:
    def rows(each: int) -> list[Row]:
        return rows_of(**{f"label{i}": each for i in range(labels)})

    with pytest.raises(TooFewError) as caught:
        divide(rows(2), seed=0, way=way)
    said = re.search(
        r"Give (\d+) texts of each label with --eval, (\d+) without", str(caught.value)
    )
    assert said is not None
    alone, shared = map(int, said.groups())
    divide(rows(alone), seed=0, way=way)
    with pytest.raises(TooFewError):
        divide(rows(alone - 1), seed=0, way=way)
    parts = spread(rows(shared), 5, seed=0)  # as where the export is judged by a fifth of them
    assert 4 in parts
    left = [row for row, part in zip(rows(shared), parts, strict=True) if part != 4]
    divide(left, seed=0, way=way)
