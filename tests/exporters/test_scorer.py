"""The out-of-scope score: chosen by texts that nothing was fitted on."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from edgeslm.tasks.intent import DISTANCE, LOGITS, IntentParameters
from exporters.data import Row
from exporters.heads.intent import IntentHead
from exporters.heads.scorer import (
    LEAST_OUTSIDE,
    REFERENCES,
    Choice,
    Evidence,
    choose,
    nearest,
    references,
)
from exporters.heads.trained import TrainedFitter
from exporters.sources.base import tidy_encoder
from tests.exporters.conftest import DIM, toy_graph
from tests.exporters.test_intent_head import LABELS, Clusters, scores_of

Floats = NDArray[np.float32]
PARAMETERS = IntentParameters(
    labels=tuple("abcd"), threshold=0.0, reject_share=0.05, temperature=1.0, calibration=(0.0,)
)


def evidence(logits: Any, cosines: Any = None) -> Evidence:
    if cosines is None:
        cosines = np.full((len(logits), logits.shape[1]), 0.5, np.float32)
    return Evidence(logits.astype(np.float32), cosines.astype(np.float32))


def sure(n: int, *, height: float, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Logits of four labels, the right one that much higher; and the right ones."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % 4
    logits = random.normal(size=(n, 4))
    logits[np.arange(n), y] += height
    return logits.astype(np.float32), y


def test_what_separates_best_is_chosen() -> None:
    """Out of scope, logits are as sure of themselves, and cosines lower."""
    inside, y = sure(200, height=6, seed=0)
    outside, _ = sure(60, height=6, seed=1)
    random = np.random.default_rng(2)
    near = random.uniform(0.8, 0.9, (200, 4))
    far = random.uniform(0.2, 0.3, (60, 4))
    choice = choose(evidence(inside, near), y, evidence(outside, far), np.arange(4), seed=0)
    assert choice.scorer == "knn"
    assert choice.auroc["knn"] == 1.0 > choice.auroc["energy"]


def test_a_mixture_sees_what_no_score_sees_alone() -> None:
    random = np.random.default_rng(3)
    n, m = 400, 200
    either = random.normal(size=(n + m, 2)) + np.repeat([[0.0, 0.0], [1.2, 1.2]], [n, m], axis=0)
    logits = np.zeros((n + m, 4), np.float32)
    logits[:, 0] = 6 - either[:, 0]
    cosines = np.repeat((0.5 - 0.1 * either[:, 1:]), 4, axis=1)
    whole = evidence(logits, cosines)
    inside, outside = (whole.of(np.arange(n + m) < n), whole.of(np.arange(n + m) >= n))
    choice = choose(inside, np.zeros(n, int), outside, np.arange(4), seed=0)
    assert choice.scorer == "calibrated"
    assert choice.mixture is not None
    truth = np.repeat([0, 1], [n, m])
    scores = np.concatenate([choice.scores(PARAMETERS, part) for part in (inside, outside)])
    assert roc_auc_score(truth, scores) == pytest.approx(choice.auroc["calibrated"], abs=0.01)
    assert choice.auroc["calibrated"] > max(choice.auroc[one] for one in ("energy", "knn")) + 0.02


def test_without_texts_out_of_scope_labels_stand_in_for_them() -> None:
    """Strangers are far from all references and yet please some label."""
    random = np.random.default_rng(4)
    y = np.arange(300) % 6
    cosines = random.uniform(0.1, 0.3, (300, 6))
    cosines[np.arange(300), y] = random.uniform(0.8, 0.9, 300)
    logits = random.normal(scale=4, size=(300, 6))
    logits[np.arange(300), y] += 3
    none = evidence(np.zeros((LEAST_OUTSIDE - 1, 6), np.float32))
    choice = choose(evidence(logits, cosines), y, none, np.arange(6), seed=0)
    assert choice.scorer == "knn"
    assert "calibrated" not in choice.auroc


@pytest.mark.parametrize("labels", [2, 3])
def test_of_few_labels_none_can_stand_in(labels: int) -> None:
    logits = np.random.default_rng(5).normal(size=(40, labels)).astype(np.float32)
    none = evidence(logits[:0])
    choice = choose(evidence(logits), np.arange(40) % labels, none, np.arange(labels), seed=0)
    assert choice == Choice("energy", None, {})


def test_references_are_bounded_and_each_label_has_one() -> None:
    random = np.random.default_rng(6)
    x = random.normal(size=(3000, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for labels in (2, 100, 1000):
        y = np.arange(3000) % labels
        vectors, owners = references(x, y, seed=0)
        assert len(vectors) <= max(REFERENCES, labels)
        assert set(owners) == set(range(labels))
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
        again, _ = references(x, y, seed=0)
        assert again.tobytes() == vectors.tobytes()


def test_the_nearest_of_each_label_is_found_and_of_a_label_without_any_none() -> None:
    """A label whose every text lies in the fold left out has no reference."""
    random = np.random.default_rng(7)
    x, y = random.normal(size=(40, 8)).astype(np.float32), np.repeat([0, 1, 3], [20, 15, 5])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    vectors, owners = references(x, y, seed=0)
    assert set(owners) == {0, 1, 3}
    cosines = x @ vectors.T
    found = nearest(cosines, owners, 4)
    for label in (0, 1, 3):
        np.testing.assert_array_equal(found[:, label], cosines[:, owners == label].max(axis=1))
    assert (found[:, 2] == -1).all()


def fitter(clusters: Clusters, *, weight: Any = None) -> TrainedFitter:
    if weight is None:  # the centres themselves: as good a head as there is
        centres = [clusters.embed([row.text for row in clusters.rows(50, [label])]).mean(axis=0)
                   for label in LABELS]  # fmt: skip
        weight = 20 * np.stack(centres, axis=1)
    return TrainedFitter(
        clusters.rows(60), clusters.rows(40), clusters.rows(50, ["oos"]), LABELS,
        weight.astype(np.float32), np.zeros(len(LABELS), np.float32),
    )  # fmt: skip


def fitted(made: TrainedFitter, clusters: Clusters, done: list[int] | None = None) -> IntentHead:
    steps: list[int] = [] if done is None else done
    return made.fit([], clusters.embed, share=0.1, seed=0, advance=steps.append)


def test_a_trained_head_is_calibrated_on_what_was_held_out() -> None:
    clusters = Clusters(noise=1.0)
    made, done = fitter(clusters), list[int]()
    head = fitted(made, clusters, done)
    assert sum(done) == made.steps([])
    assert len(head.settings.calibration) == len(made.held_out)
    other = clusters.embed([row.text for row in clusters.rows(400)])
    rejected = (scores_of(head, other) > head.settings.threshold).mean()
    # 160 texts calibrate it: one standard error is sqrt(.1 * .9 / 160) = .024.
    assert rejected == pytest.approx(0.1, abs=0.05)
    told = clusters.embed([row.text for row in made.held_out])
    np.testing.assert_allclose(np.sort(scores_of(head, told)), head.settings.calibration, rtol=1e-4)


def test_a_head_that_training_spoilt_gives_way_to_one_fitted_anew() -> None:
    clusters = Clusters(noise=0.5)
    useless = np.random.default_rng(0).normal(size=(DIM, len(LABELS)))
    head = fitted(fitter(clusters, weight=useless), clusters)
    other = clusters.rows(50)
    x = clusters.embed([row.text for row in other])
    said = (x @ head.weight + head.bias).argmax(axis=1)
    assert np.mean([LABELS[i] == row.label for i, row in zip(said, other, strict=True)]) > 0.95


def test_the_graph_gives_the_distance_that_the_score_asks_for() -> None:
    clusters = Clusters(noise=0.5)
    head = fitted(fitter(clusters), clusters)
    with_all = IntentHead(
        head.weight, head.bias, head.settings.model_copy(update={"scorer": "knn"}),
        np.eye(3, DIM, dtype=np.float32),
    )  # fmt: skip
    encoder = tidy_encoder(toy_graph(30), file="toy")
    session = onnxruntime.InferenceSession(
        with_all.attach(encoder).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {"input_ids": np.array([[1, 2, 3], [4, 0, 0]]),
             "attention_mask": np.array([[1, 1, 1], [1, 0, 0]])}  # fmt: skip
    _, distance = session.run([LOGITS, DISTANCE], feeds)
    hidden = onnxruntime.InferenceSession(
        encoder.SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, feeds)[0]
    total = (hidden * feeds["attention_mask"][..., None]).sum(axis=1)
    unit = total / np.linalg.norm(total, axis=1, keepdims=True)
    np.testing.assert_allclose(distance, 1 - unit[:, :3].max(axis=1), rtol=1e-4, atol=1e-5)
    assert with_all.requires == ("intent-scorer",)


def test_rows_of_a_split_are_not_read_again() -> None:
    """Training has dealt them; whatever the pipeline hands over, the same head comes out."""
    clusters = Clusters(noise=0.5)
    made = fitter(clusters)
    one, other = (
        fitted(made, clusters),
        made.fit([Row("x", "y")], clusters.embed, share=0.1, seed=0, advance=lambda _: None),
    )
    assert one.parameters == other.parameters


def test_texts_that_are_one_but_for_roundings_are_no_trouble() -> None:
    """As where words are the same in another order: it is a warning to nobody."""
    base = np.random.default_rng(0).normal(size=(30, 24)).astype(np.float32)
    x = np.concatenate([base, np.nextafter(base, np.float32(2))])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    vectors, owners = references(x, np.zeros(len(x), np.int64), seed=0)
    assert len(vectors) == len(owners)
