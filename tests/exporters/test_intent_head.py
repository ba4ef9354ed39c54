"""The intent head: fitted, calibrated on other texts, and put into a graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgeslm.ports import Request
from edgeslm.tasks.intent import DISTANCE, LOGITS, energy, load
from exporters.data import Row
from exporters.heads import intent
from exporters.heads.intent import IntentHead, fit, steps
from exporters.sources.base import tidy_encoder
from tests.exporters.conftest import DIM, toy_graph

LABELS = ["fault", "start", "stop", "status"]


class Clusters:
    """Texts "label/number", embedded as noisy points around their label's centre.

    All lie to one side of the origin, as sentences do in a real model.
    """

    def __init__(self, *, noise: float, seed: int = 3) -> None:
        self._random = np.random.default_rng(seed)
        self._noise = noise
        self._centres = {label: self._random.normal(size=DIM) for label in [*LABELS, "oos"]}

    def rows(self, per_label: int, labels: Sequence[str] = LABELS) -> list[Row]:
        first = int(self._random.integers(1 << 40))
        dealt = enumerate(label for label in labels for _ in range(per_label))
        return [Row(f"{label}/{first + i}", label) for i, label in dealt]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        points = []
        for text in texts:
            label, number = text.split("/")
            noise = np.random.default_rng(int(number)).normal(size=DIM)
            points.append(1 + self._centres[label] + self._noise * noise)
        return np.array([p / np.linalg.norm(p) for p in points], np.float32)


def logits_of(head: IntentHead, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(x @ head.weight + head.bias, np.float32)


class Beyond(Clusters):
    """What is out of scope lies beyond one label: its logits are the surest of all, and wrong."""

    def __init__(self, *, noise: float) -> None:
        super().__init__(noise=noise)
        self._centres["oos"] = 4 * self._centres[LABELS[0]]


def scores_of(head: IntentHead, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the score of each text, as a device has it."""
    task = load(head.parameters)
    outputs = {LOGITS: logits_of(head, x)}
    if head.references is not None:
        outputs[DISTANCE] = 1 - (x @ head.references.T).max(axis=1)
    prepared = task.prepare(Request("x"))
    rows = [{name: value[i] for name, value in outputs.items()} for i in range(len(x))]
    return np.array([task.finish(prepared, row, truncated=False).score for row in rows])


def fitted(clusters: Clusters, rows: Sequence[Row], *, share: float = 0.05) -> IntentHead:
    return fit(rows, clusters.embed, reject_share=share, seed=0, advance=lambda _: None)


@pytest.mark.parametrize("labels", [LABELS, LABELS[:2]], ids=["four labels", "two labels"])
def test_what_was_learnt_holds_for_other_texts(labels: list[str]) -> None:
    clusters = Clusters(noise=0.6)
    head = fitted(clusters, clusters.rows(40, labels))
    other = clusters.rows(50, labels)
    said = logits_of(head, clusters.embed([row.text for row in other])).argmax(axis=1)
    right = [head.settings.labels[i] == row.label for i, row in zip(said, other, strict=True)]
    assert np.mean(right) > 0.95


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_the_threshold_rejects_the_stated_share_of_other_texts(share: float) -> None:
    clusters = Clusters(noise=1.0)
    head = fitted(clusters, clusters.rows(100), share=share)
    other = clusters.embed([row.text for row in clusters.rows(500)])
    rejected = (energy(logits_of(head, other)) > head.settings.threshold).mean()
    # 400 texts calibrate it: one standard error is sqrt(share (1 - share) / 400).
    assert rejected == pytest.approx(share, abs=4 * (share * (1 - share) / 400) ** 0.5)


def test_confidence_is_calibrated_on_other_texts() -> None:
    """With so few examples a layer is sure of those it was fitted on, and wrong on others."""
    sure, right = [], []
    for seed in range(4):
        clusters = Clusters(noise=1.4, seed=seed)
        head = fitted(clusters, clusters.rows(15))
        other = clusters.rows(200)
        logits = logits_of(head, clusters.embed([row.text for row in other]))
        sure += list(np.exp(logits.max(axis=1) + energy(logits)))
        labels = [head.settings.labels[i] for i in logits.argmax(axis=1)]
        right += [label == row.label for label, row in zip(labels, other, strict=True)]
    assert 0.6 < np.mean(right) < 0.95  # else it would prove nothing
    assert np.mean(sure) == pytest.approx(np.mean(right), abs=0.05)


def test_labels_that_texts_tell_nothing_of_get_no_confidence() -> None:
    """A layer explains the noise it was fitted on; calibration and penalty must not believe it."""
    clusters = Clusters(noise=1e6)
    rows = clusters.rows(15)
    head = fitted(clusters, rows)
    other = logits_of(head, clusters.embed([row.text for row in clusters.rows(50)]))
    assert np.exp(other.max(axis=1) + energy(other)).mean() == pytest.approx(0.25, abs=0.05)
    x, folds = clusters.embed([row.text for row in rows]), np.arange(len(rows)) % 5
    y = np.array([LABELS.index(str(row.label)) for row in rows])
    strength, _ = intent._choose(x, y, folds, lambda _: None)  # noqa: SLF001 -- shows nowhere else
    assert strength == min(intent._GRID)  # noqa: SLF001


def test_labels_told_apart_without_a_fault_are_not_made_certain() -> None:
    clusters = Clusters(noise=0.01)
    rows = clusters.rows(10)
    head = fitted(clusters, rows)
    logits = logits_of(head, clusters.embed([row.text for row in rows]))
    confidence = np.exp(logits.max(axis=1) + energy(logits))
    assert 0.9 < confidence.mean() < 0.999


def test_out_of_scope_examples_teach_no_label() -> None:
    clusters = Clusters(noise=0.5)
    rows = clusters.rows(20)
    with_oos = rows + clusters.rows(20, ["oos"])
    one, other = fitted(clusters, with_oos), fitted(clusters, rows)
    assert one.settings == other.settings
    np.testing.assert_array_equal(one.weight, other.weight)


def test_texts_out_of_scope_choose_the_score() -> None:
    """Neither logits nor distances are of layers and references that have seen the text."""
    clusters = Beyond(noise=0.6)
    head = fitted(clusters, clusters.rows(40) + clusters.rows(40, ["oos"]))
    assert head.settings.needs_distance
    assert head.requires == ("intent-scorer",)
    inside = clusters.embed([row.text for row in clusters.rows(100)])
    outside = clusters.embed([row.text for row in clusters.rows(100, ["oos"])])
    assert (
        energy(logits_of(head, outside)) > np.median(energy(logits_of(head, inside)))
    ).mean() < 0.1
    assert (scores_of(head, outside) > head.settings.threshold).mean() > 0.9
    rejected = (scores_of(head, inside) > head.settings.threshold).mean()
    # 160 texts calibrate it, and each stands for itself among the references.
    assert rejected == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 160) ** 0.5)


def test_where_nothing_is_better_the_head_is_as_before() -> None:
    """The plain score, which agents of before know, without another output of the graph."""
    clusters = Clusters(noise=0.3)
    head = fitted(clusters, clusters.rows(40) + clusters.rows(40, ["oos"]))
    assert head.settings.scorer == "energy"
    assert (head.references, head.requires) == (None, ())


def test_far_texts_score_higher_than_known_ones() -> None:
    clusters = Clusters(noise=0.4)
    head = fitted(clusters, clusters.rows(40))
    inside = energy(logits_of(head, clusters.embed([r.text for r in clusters.rows(50)])))
    outside = energy(logits_of(head, clusters.embed([r.text for r in clusters.rows(50, ["oos"])])))
    assert np.median(outside) > np.quantile(inside, 0.95)


def test_the_same_examples_give_the_same_bytes() -> None:
    clusters = Clusters(noise=0.8)
    rows = clusters.rows(15)
    one, two = fitted(clusters, rows), fitted(clusters, rows)
    assert one.parameters == two.parameters
    assert one.weight.tobytes() == two.weight.tobytes()


def test_a_text_under_two_labels_is_no_obstacle() -> None:
    clusters = Clusters(noise=0.5)
    rows = clusters.rows(4, LABELS[:2])
    rows += [Row(rows[0].text, "stop"), Row(rows[1].text, "stop")]
    assert set(fitted(clusters, rows).settings.labels) == {"fault", "start", "stop"}


def test_progress_adds_up() -> None:
    clusters = Clusters(noise=0.5)
    rows = clusters.rows(70) + clusters.rows(3, ["oos"])
    done: list[int] = []
    fit(rows, clusters.embed, reject_share=0.05, seed=0, advance=done.append)
    assert sum(done) == steps(rows)


def test_the_graph_says_what_the_head_says() -> None:
    """Through ONNX Runtime, the task and its parameters, for a padded row too."""
    clusters = Clusters(noise=0.5)
    head = fitted(clusters, clusters.rows(20))
    encoder = tidy_encoder(toy_graph(30), file="toy")
    graph = head.attach(encoder)
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ids = np.array([[1, 2, 3], [4, 0, 0]])
    mask = np.array([[1, 1, 1], [1, 0, 0]])
    (logits,) = session.run([LOGITS], {"input_ids": ids, "attention_mask": mask})
    hidden = onnxruntime.InferenceSession(
        encoder.SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, {"input_ids": ids, "attention_mask": mask})[0]
    total = (hidden * mask[..., None]).sum(axis=1)
    expected = logits_of(head, total / np.linalg.norm(total, axis=1, keepdims=True))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    task = load(head.parameters)
    answer = task.finish(task.prepare(Request("x")), {LOGITS: logits[0]}, truncated=False)
    assert answer.label == head.settings.labels[int(expected[0].argmax())]
