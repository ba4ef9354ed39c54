"""The anomaly head: fitted by real code, attached to a real graph, read back by its task."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeslm.contract.manifest import FEATURES
from edgeslm.core.calibration import BudgetError
from edgeslm.core.template import readable, split
from edgeslm.ports import Answer, Request
from edgeslm.tasks.anomaly import Anomaly, load
from exporters.data import Row
from exporters.heads.anomaly import (
    MASKED,
    MAX_REFERENCES,
    OFF,
    REMEMBERS,
    SESSIONS,
    WINDOWS,
    AnomalyHead,
    TrainingDataError,
    fit,
)

DIM = 16
SEED = 11


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Bags of hashed words at length 1: near for texts that share words."""
    out = np.zeros((len(texts), DIM), np.float32)
    for row, text in zip(out, texts, strict=True):
        for word in text.split():
            row[hashlib.sha256(word.encode("utf-8", "replace")).digest()[0] % DIM] += 1
    length = np.sqrt((out * out).sum(axis=1, keepdims=True))
    return np.asarray(out / np.maximum(length, 1e-9), np.float32)


def fitted(rows: Sequence[Row], budget: float = 0.01) -> AnomalyHead:
    return fit(rows, embed, alarm_budget=budget, seed=0, advance=lambda _: None)


def answer(task: Anomaly, head: AnomalyHead, text: str, source: str = "") -> Answer:
    prepared = task.prepare(Request(text, source))
    assert prepared.model_text is not None
    distance = 1 - (head.references @ embed([prepared.model_text])[0]).max()
    return task.finish(prepared, {"distance": np.array(distance, np.float32)}, truncated=False)


def plant(n: int = 600) -> list[Row]:
    """Two pumps at different levels, and a valve."""
    rng = np.random.default_rng(SEED)
    valve = [f"valve {rng.integers(1, 9)} opened" for _ in range(n)]
    low, high = ([f"pump temp={x:.1f} C" for x in rng.normal(level, 1, n)] for level in (60, 90))
    said = {"pump0": low, "pump1": high, "valve": valve}
    return [
        Row(said[source][i], source=source, time=float(i))
        for i in range(n)
        for source in [list(said)[i % 3]]
    ]


@pytest.fixture(scope="module")
def head() -> AnomalyHead:
    return fitted(plant())


@pytest.fixture(scope="module")
def task(head: AnomalyHead) -> Anomaly:
    return load(head.parameters)


@pytest.mark.parametrize(
    ("text", "source", "label"),
    [
        ("pump temp=60.5 C", "pump0", "normal"),
        ("pump temp=90.5 C", "pump1", "normal"),
        ("pump temp=90.5 C", "pump0", "anomaly"),  # the other pump's level
        ("pump temp=nan C", "pump0", "anomaly"),
        ("pump temp=1e308 C", "pump0", "anomaly"),
        ("pump temp=60.5 F", "pump0", "anomaly"),
        ("valve 3 opened", "valve", "normal"),
        ("valve 99 opened", "valve", "anomaly"),
        ("valve 3 not opened", "valve", "anomaly"),
        ("valve 3 opened", "pump0", "anomaly"),  # a valve's words from a pump
    ],
)
def test_lines_of_a_plant(
    task: Anomaly, head: AnomalyHead, text: str, source: str, label: str
) -> None:
    got = answer(task, head, text, source)
    assert got.label == label
    assert got.source_known


def test_an_unknown_source_is_scored_by_all_sources_together(
    task: Anomaly, head: AnomalyHead
) -> None:
    got = answer(task, head, "pump temp=75.0 C", "pump9")
    assert (got.label, got.source_known) == ("normal", False)
    assert answer(task, head, "pump burst", "pump9").label == "anomaly"


def test_the_cause_is_the_lowest_channels(task: Anomaly, head: AnomalyHead) -> None:
    (number,) = answer(task, head, "pump temp=172.4 C", "pump0").explanation
    assert number["channel"] == "number"
    assert (number["slot"], number["value"]) == (0, "172.4")
    low, high = number["expected"].split(" to ")
    assert float(low) < 60 < float(high)
    (text,) = answer(task, head, "pump exploded", "pump0").explanation
    assert text == {"channel": "text", "token": "exploded", "near": ["pump temp=¤ C"]}
    both = answer(task, head, "pump exploded and burnt and fell", "pump0").explanation
    assert [each["token"] for each in both] == ["exploded", "and", "burnt"]
    assert ["near" in each for each in both] == [True, False, False]
    assert answer(task, head, "pump temp=60.0 C", "pump0").explanation == ()


def test_new_normal_lines_keep_the_budget() -> None:
    """A different draw of the same plant: at most 2 % alarm where 1 % may."""
    head = fitted(plant(1500))
    task = load(head.parameters)
    fresh = np.random.default_rng(SEED + 1)
    lines = [(f"pump temp={fresh.normal(60, 1):.1f} C", "pump0") for _ in range(1500)]
    alarms = sum(answer(task, head, *line).label == "anomaly" for line in lines)
    assert alarms < 0.02 * len(lines)


def test_calibration_has_seen_new_lines_where_normal_traffic_brings_them() -> None:
    """Scored by statistics that knew them, a tenth of new normal lines would all alarm."""

    def said(i: int) -> str:
        return "".join(chr(97 + i // 26**k % 26) for k in range(3)) if i % 10 == 0 else "pump ready"

    head = fitted([Row(said(i)) for i in range(1000)])
    task = load(head.parameters)
    new = [answer(task, head, said(i)) for i in range(2000, 3000, 10)]
    assert sum(a.label == "anomaly" for a in new) < 40


def test_a_model_without_sources_knows_the_empty_one() -> None:
    head = fitted([Row(f"motor temp={70 + i % 5} C") for i in range(120)])
    assert answer(load(head.parameters), head, "motor temp=72 C").source_known is True


def test_the_same_rows_give_the_same_bytes(head: AnomalyHead) -> None:
    again = fitted(plant())
    assert again.parameters == head.parameters
    assert again.references.tobytes() == head.references.tobytes()


def test_rows_with_times_may_come_in_any_order(head: AnomalyHead) -> None:
    shuffled = plant()
    order = np.random.default_rng(SEED).permutation(len(shuffled))
    assert fitted([shuffled[i] for i in order]).parameters == head.parameters


def test_anomalous_rows_do_not_teach() -> None:
    rows = [*plant(), *(Row("pump burst", "anomaly", f"pump{i % 2}", float(i)) for i in range(50))]
    assert fitted(rows).parameters == fitted(plant()).parameters


def test_no_normal_line_and_too_few_lines_are_refused() -> None:
    with pytest.raises(TrainingDataError, match="no normal lines"):
        fitted([Row("pump burst", "anomaly")] * 200)
    with pytest.raises(BudgetError, match="at least 1000 normal lines"):
        fitted(plant(), budget=0.001)


@pytest.mark.parametrize(
    "rows",
    [
        [Row("pump ready")] * 120,
        [Row("pump ready", source=str(i)) for i in range(120)],
        [Row(f"{'x' * i} y") for i in range(120)],
        [Row("")] * 120,
        [Row("\ud800 ¤ \0 nan")] * 120,
        [Row(f"n={10.0**i} {'9' * i}") for i in range(300)],
        [Row("t=5", time=0.0)] * 120,
    ],
    ids=["one-line", "source-per-line", "line-per-line", "empty", "odd", "huge", "same-time"],
)
def test_odd_data_still_makes_a_detector(rows: list[Row]) -> None:
    head = fitted(rows)
    task = load(head.parameters)
    for row in rows[:20]:
        got = answer(task, head, row.text, row.source)
        assert np.isfinite([got.score, got.confidence, got.p_value or -1]).all()


def encoder() -> onnx.ModelProto:
    """Token ids -> random vectors, float32 [batch, sequence, DIM]."""
    table = np.random.default_rng(SEED).normal(size=(64, DIM)).astype(np.float32)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["batch", "sequence", DIM])
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["hidden"], name="look")],
        "encoder",
        inputs,
        [output],
        [numpy_helper.from_array(table, "table")],
    )
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, ir_version=9, opset_imports=[opset])


def test_the_graph_gives_the_distance_to_the_nearest_reference_whatever_the_padding(
    head: AnomalyHead,
) -> None:
    model = head.attach(encoder())
    added = [node.name for node in model.graph.node][1:]
    assert all(name.startswith("head/") for name in added)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    table = numpy_helper.to_array(model.graph.initializer[0])
    ids = np.array([[3, 5, 0, 0], [1, 2, 3, 4]])
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])
    (got,) = session.run(["distance"], {"input_ids": ids, "attention_mask": mask})
    for row, real, distance in zip(ids, mask.astype(bool), got, strict=True):
        mean = table[row[real]].mean(axis=0)
        cosines = head.references @ (mean / np.linalg.norm(mean))
        assert distance == pytest.approx(1 - cosines.max(), abs=1e-5)


def test_references_are_bounded_and_the_most_frequent_are_kept() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(three) for three in itertools.product(letters, repeat=3)]
    # By one word alone they would be merged.
    rare = [Row(f"{word} {word}") for word in words[: MAX_REFERENCES + 100]]
    head = fitted([*rare, *[Row("often said")] * 50])
    assert head.references.shape == (MAX_REFERENCES, DIM)
    often = embed([readable(split("often said").template)])[0]
    assert (head.references @ often).max() == pytest.approx(1)


def test_progress_counts_every_template() -> None:
    steps: list[int] = []
    fit(plant(), embed, alarm_budget=0.01, seed=0, advance=steps.append)
    assert sum(steps) == 2


def test_lines_that_differ_by_addresses_alone_are_of_one_template() -> None:
    rows = [
        Row(f"up {i:02x}:1a:2b:3c:4d:5e at fe80::{i:x} for user{i}@plant.example, see http://x/{i}")
        for i in range(256)
    ]
    head = fitted(rows)
    task = load(head.parameters)
    assert json.loads(head.parameters)["templates"] == ["up ¤ at ¤ for ¤, see ¤"]
    new = "up AA:BB:CC:DD:EE:FF at 2001:db8::5 for bob@host.example, see file:///etc"
    assert answer(task, head, new).label == "normal"
    assert answer(task, head, new.replace("up", "down")).label == "anomaly"


def test_a_device_that_splits_otherwise_refuses_every_bundle(head: AnomalyHead) -> None:
    plain = fit(
        plant(), embed, alarm_budget=0.01, seed=0, advance=lambda _: None,
        options={WINDOWS: "none", SESSIONS: OFF},
    )  # fmt: skip
    assert set(head.requires) == {MASKED, REMEMBERS}
    assert plain.requires == (MASKED,)
    assert {*head.requires} <= FEATURES
