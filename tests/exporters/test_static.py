"""A static model: its graph sums what was trained, order counts, and the same comes of the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeslm.ports import Request
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.model import load_model
from edgeslm.runtime.profiles import detect_profile
from edgeslm.runtime.tokenizer import Tokenizer
from exporters.data import Row
from exporters.export import Job, export
from exporters.sources import open_source
from exporters.sources.base import Encoder, read_encoder
from exporters.training import static
from exporters.training.divide import Division
from exporters.training.folder import read_trained
from exporters.training.network import one_thread
from exporters.training.static import DIM, PAIRS, NoVectorsError, Static
from tests.exporters.conftest import Stages, many_orders, write_lines

_TOKENS = 30


@pytest.fixture(scope="module")
def encoder(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tmp_path_factory.mktemp("encoder")
    open_source(str(toy_model), tokenizer=None).export(folder)
    return read_encoder(folder)


def division(texts: dict[str, str]) -> Division:
    rows = [Row(text, label) for text, label in texts.items()]
    return Division(rows, [], [], tuple(sorted(set(texts.values()))))


def trained(
    encoder: Encoder, texts: dict[str, str], teacher: NDArray[np.float32] | None = None
) -> Static:
    with one_thread():
        return static.train(
            encoder,
            division(texts),
            max_tokens=16,
            seed=0,
            advance=lambda _: None,
            teacher=teacher,
        )


def told(model: Static, encoder: Encoder, text: str, labels: tuple[str, ...]) -> str:
    """What the graph and the trained head say of a text."""
    ids = np.array([encoder_ids(encoder, text)])
    hidden = run(model, ids, np.ones_like(ids))[0].sum(axis=0)
    logits = hidden / np.linalg.norm(hidden) @ model.weight + model.bias
    return labels[int(logits.argmax())]


def encoder_ids(encoder: Encoder, text: str) -> list[int]:
    found: list[int] = Tokenizer(encoder.tokenizer, max_tokens=16).encode(text)[0]["input_ids"][0]
    return list(found)


def run(model: Static, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(
        model.graph().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    hidden: NDArray[np.float32] = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    return hidden


@pytest.fixture(scope="module")
def random_model() -> Static:
    random = np.random.default_rng(3)
    return Static(
        random.integers(0, 20, _TOKENS).astype(np.int32),
        random.normal(size=(20, 8)).astype(np.float32),
        random.normal(size=(PAIRS, 8)).astype(np.float32),
        random.normal(size=(8, 3)).astype(np.float32),
        np.zeros(3, np.float32),
    )


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, _TOKENS - 1), min_size=1, max_size=9), min_size=1, max_size=4)
)
def test_the_graph_sums_the_vectors_that_are_trained(
    random_model: Static, texts: list[list[int]]
) -> None:
    """Padded or not, and of one token too."""
    longest = max(map(len, texts))
    ids, mask = (np.zeros((len(texts), longest), np.int64) for _ in range(2))
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    summed = (run(random_model, ids, mask) * mask[..., None]).sum(axis=1)
    features = static.features([random_model.places[text] for text in texts], 20).numpy()
    table = np.concatenate([random_model.pieces, random_model.pairs, np.zeros((1, 8))])
    assert np.allclose(summed, table[features].sum(axis=1), atol=1e-4)


def test_the_order_of_words_counts(encoder: Encoder) -> None:
    texts = {"pump valve": "a", "valve pump": "b"} | {
        f"{before} {one} {other}": label
        for before in ("now", "please", "the", "start", "stop")
        for one, other, label in (("pump", "valve", "a"), ("valve", "pump", "b"))
    }
    model = trained(encoder, texts)
    labels = division(texts).labels
    for text, label in {"at pump valve": "a", "at valve pump": "b"}.items():
        assert told(model, encoder, text, labels) == label


def test_the_same_examples_give_the_same_bytes(encoder: Encoder) -> None:
    texts = {str(row["text"]): str(row["label"]) for row in many_orders()[:60]}
    one, other = trained(encoder, texts), trained(encoder, texts)
    assert one.graph().SerializeToString() == other.graph().SerializeToString()
    assert one.weight.tobytes() == other.weight.tobytes()


def test_pieces_that_no_example_has_are_read_as_one_that_some_has(encoder: Encoder) -> None:
    model = trained(encoder, {"pump now": "a", "valve now": "b", "pump please": "a"})
    known = {i for text in ("pump", "valve", "now", "please") for i in encoder_ids(encoder, text)}
    assert len(model.pieces) == len(known)
    assert set(model.places.tolist()) <= set(range(len(known)))
    assert model.pieces.shape[1] == DIM


def test_a_teacher_is_believed_more_than_labels(encoder: Encoder) -> None:
    texts = {str(row["text"]): str(row["label"]) for row in many_orders()[:60]}
    labels = division(texts).labels
    number = {label: i for i, label in enumerate(labels)}
    # It takes each label for the next one.
    teacher = np.full((len(texts), len(labels)), -8.0, np.float32)
    for row, label in enumerate(texts.values()):
        teacher[row, (number[label] + 1) % len(labels)] = 8.0
    model = trained(encoder, texts, teacher)
    text, label = next(iter(texts.items()))
    wanted = labels[(number[label] + 1) % len(labels)]
    assert told(model, encoder, text, labels) == wanted


def test_without_word_vectors_there_is_nothing_to_begin_with(
    encoder: Encoder, random_model: Static
) -> None:
    """A static model's own graph looks pieces up by another number."""
    with pytest.raises(NoVectorsError, match="in several"):
        trained(replace(encoder, model=random_model.graph()), {"pump": "a", "valve": "b"})


@pytest.mark.usefixtures("own_cache")
def test_an_export_with_train_static_is_a_bundle_that_answers(
    toy_model: Path, tmp_path: Path, stages: Stages
) -> None:
    data = write_lines(tmp_path / "orders.jsonl", many_orders())
    job = Job(
        task="intent",
        model=str(toy_model),
        data=data,
        profile=detect_profile().name,
        name="small",
        version=1,
        out=tmp_path / "out",
        share=0.05,
        train="static",
    )
    report = export(job, stages)
    assert report["fp32"]["accuracy"] > 95
    assert report["training"]["pairs"] == PAIRS
    assert not [note for note in report["cautions"] if "slower" in note]
    assert stages.steps["training the static model"] == stages.totals["training the static model"]
    bundle = open_bundle(job.out / "bundle")
    graph = bundle.manifest.artifacts[0]
    assert (graph.role, graph.batch_invariant) == ("graph", True)
    model = load_model(bundle.path)
    assert model.answer(Request("please start crane")).label == "start"
    facts = read_trained(job.out).facts
    assert facts.base.source == "toy.onnx"
    assert len(facts.held_out) > 15
    again = replace(job, out=tmp_path / "again")
    assert export(again, Stages())["bundle"] == report["bundle"]
