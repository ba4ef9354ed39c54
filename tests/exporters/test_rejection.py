"""A share to reject that the texts cannot support is refused, and told what they can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.runtime.profiles import detect_profile
from exporters.data import Row
from exporters.export import Job, export
from exporters.heads.intent import ranks
from exporters.rejection import RejectShareError, check, least_share, texts_needed
from exporters.training.divide import TooFewError
from exporters.tune.lock import Train
from tests.exporters.conftest import Stages

pytestmark = pytest.mark.usefixtures("own_cache")


def rows_of(labels: int, each: int) -> list[Row]:
    return [Row(f"label{i} {n}", f"label{i}") for i in range(labels) for n in range(each)]


def checked(rows: list[Row], share: float, train: Train) -> list[str]:
    return check(rows, file="a.jsonl", share=share, train=train, seed=0)


@pytest.mark.parametrize(("train", "texts"), [("head", 280), ("full", 28), ("static", 28)])
def test_a_share_that_what_calibrates_cannot_tell_is_refused(train: Train, texts: int) -> None:
    rows = [*rows_of(7, 40), Row("weather", "oos")]
    with pytest.raises(
        RejectShareError, match=rf"a\.jsonl: .* at least 9999 .* there are {texts}\b"
    ) as caught:
        checked(rows, 0.0001, train)
    assert caught.value.code == "calibration.reject_share"
    assert (", held out of 280;" in str(caught.value)) is (train != "head")
    assert checked(rows, least_share(texts), train) == []
    assert str(caught.value).endswith(f"allow a share of {least_share(texts):g}")


def test_texts_too_few_to_hold_any_out_are_named_by_their_file() -> None:
    with pytest.raises(TooFewError, match=r"^a\.jsonl: --train full: "):
        checked(rows_of(2, 4), 0.05, "full")


def test_few_texts_are_calibrated_on_all_the_same_and_that_is_told() -> None:
    [note] = checked(rows_of(4, 8), 0.05, "few")
    assert "0.05 cannot be told by 8 texts" in note
    assert "0.12 or more (19 would do)" in note
    assert checked(rows_of(4, 8), 0.12, "few") == []


@given(st.floats(1e-4, 0.9), st.integers(1, 300))
def test_it_is_refused_where_the_threshold_would_be_above_all_scores(
    share: float, texts: int
) -> None:
    """The threshold is at the furthest text alone where one more text decides it."""
    exact = (1 - share) * (texts + 1)
    if abs(exact - round(exact)) > 1e-9:
        assert (texts < texts_needed(share)) == (np.ceil(exact) > texts)
    if texts < texts_needed(share):
        assert ranks(np.arange(float(texts)), share)[0] == texts - 1


@given(st.integers(0, 100_000))
def test_a_share_that_is_offered_is_supported(texts: int) -> None:
    offered = float(f"{least_share(texts):g}")
    assert texts_needed(offered) <= texts
    assert offered <= 1.11 / (texts + 1)


def test_an_export_refuses_it_before_any_work(
    toy_model: Path, orders: Path, tmp_path: Path, stages: Stages
) -> None:
    profile = detect_profile().name
    job = Job("intent", str(toy_model), orders, profile, "toy", 1, tmp_path / "out", 0.0001)
    with pytest.raises(RejectShareError, match="there are 60; add texts"):
        export(job, stages)
    assert stages.totals == {}
