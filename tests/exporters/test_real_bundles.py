"""Bundles of the real model: small, fast, whole, and as good as what they were made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeslm.ports import Request
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.golden import parse_golden
from edgeslm.runtime.model import load_model


def report(bundle: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle.parent / f"{name}.json").read_text())
    assert found["bundle"] == open_bundle(bundle).hash
    return found


@pytest.mark.parametrize("bundle", ["anomaly_bundle", "intent_bundle"])
def test_int8_is_about_a_quarter_of_fp32(request: pytest.FixtureRequest, bundle: str) -> None:
    folder: Path = request.getfixturevalue(bundle)
    [measured] = report(folder, "measurements")["variants"].values()
    assert measured["size_ratio"] <= 0.27
    weights = [a for a in open_bundle(folder).manifest.artifacts if a.role == "weights"]
    assert weights[0].size > 20e6  # outside the graph, so that a device can map them


@pytest.mark.parametrize("bundle", ["anomaly_bundle", "intent_bundle"])
def test_the_golden_file_holds_what_devices_need(
    request: pytest.FixtureRequest, bundle: str
) -> None:
    opened = open_bundle(request.getfixturevalue(bundle))
    [variant] = opened.manifest.variants()
    files = opened.of(variant)
    cases = parse_golden(files.read("golden"))
    assert 32 <= sum(not case.fault for case in cases) <= 64
    verdicts = {case.expect.accepted or case.expect.label == "normal" for case in cases}
    assert verdicts == {True, False}
    sure = [case for case in cases if not case.near_threshold]
    assert len(sure) >= 32
    [golden] = files.artifacts("golden")
    assert golden.tolerance is not None
    assert golden.tolerance.verified == "measured"


def test_intents_are_told_apart_as_well_as_by_fp32(intent_bundle: Path) -> None:
    [quality] = report(intent_bundle, "quality")["variants"].values()
    assert quality["passed"] is True
    assert quality["artifact"]["accuracy"] >= 97
    assert quality["artifact"]["oos_auroc"] >= 0.85


def test_faults_are_found_as_well_as_by_fp32(anomaly_bundle: Path) -> None:
    [quality] = report(anomaly_bundle, "quality")["variants"].values()
    assert quality["passed"] is True
    assert quality["artifact"]["auroc"] >= 98
    assert quality["artifact"]["recall"] >= 90
    assert quality["artifact"]["false_alarm_rate"] <= 2.5


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("fire up the mixer please", "start_machine"),
        ("conveyor two must be halted", "stop_machine"),
        ("water drips out of oven two", "report_fault"),
        ("we have no more labels at line three", "order_material"),
    ],
)
def test_words_never_seen_are_understood(intent_bundle: Path, text: str, label: str) -> None:
    assert load_model(intent_bundle).answer(Request(text)).label == label


def test_what_is_no_order_is_rejected(intent_bundle: Path) -> None:
    answer = load_model(intent_bundle).answer(Request("who wrote the odyssey"))
    assert answer.accepted is False
    assert answer.p_value is not None
    assert answer.p_value < 0.06
