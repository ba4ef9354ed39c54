"""Texts share inferences only where that changes no bit of any answer."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeslm.adapters.ort import InferenceError, OrtSession
from edgeslm.ports import Request
from edgeslm.runtime.batches import (
    CHEAP,
    LARGEST,
    MASK,
    PADDING,
    groups,
    most_padding,
    stack,
)
from edgeslm.runtime.cache import Cache
from edgeslm.runtime.model import load_model
from tests.runtime import tiny

TEXTS = ["pump", "pump hot", "valve", "valve cold stuck", "motor", "pump", "red green blue hot"]


def masked_graph() -> onnx.ModelProto:
    """Sum of the embeddings of real tokens, one after another: free of padding and neighbours."""
    model = tiny.graph()
    graph = model.graph
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["column"]),
        helper.make_node("Mul", ["embedded", "column"], ["kept"]),
        helper.make_node("CumSum", ["kept", "along"], ["running"]),
        helper.make_node("Gather", ["running", "end"], ["logits"], axis=1),
    ]
    del graph.node[1:]
    graph.node.extend(nodes)
    for name, value in (("last", [-1]), ("along", 1), ("end", -1)):
        graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    return model


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    artifact = {"batch_invariant": True}
    return tiny.write_bundle(tmp_path / "marked", model=masked_graph(), artifact=artifact)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each inference."""
    seen: list[int] = []
    run = OrtSession.run

    def spy(session: OrtSession, feeds: Any) -> Any:
        seen.append(len(feeds["input_ids"]))
        return run(session, feeds)

    monkeypatch.setattr(OrtSession, "run", spy)
    return seen


@given(st.lists(st.integers(1, 128), max_size=60), st.sampled_from([1.0, PADDING, math.inf]))
def test_each_text_is_in_one_group_of_texts_alike(lengths: list[int], padding: float) -> None:
    found = groups(lengths, padding=padding)
    assert sorted(i for group in found for i in group) == list(range(len(lengths)))
    for group in found:
        assert 1 <= len(group) <= LARGEST
        own = [lengths[i] for i in group]
        assert max(own) <= padding * min(own)
    if padding == math.inf:
        assert all(len(group) == LARGEST for group in found[:-1])


def test_what_costs_little_is_padded_without_end() -> None:
    assert most_padding(["input_ids"], CHEAP - 1) == 1  # it could not tell what is padded
    assert most_padding(["input_ids", MASK], CHEAP - 1) == math.inf
    assert most_padding(["input_ids", MASK], CHEAP) == PADDING
    assert most_padding(["input_ids", MASK], 0) == PADDING  # nobody has counted


def test_rows_are_padded_to_the_longest() -> None:
    rows = [{"input_ids": np.array([[1, 2, 3]])}, {"input_ids": np.array([[4]])}]
    assert stack(rows)["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]


def test_together_and_alone_are_equal_to_the_last_bit(marked: Path, sizes: list[int]) -> None:
    model, other = load_model(marked), load_model(marked)
    assert model.batch_invariant
    sizes.clear()
    requests = [Request(text) for text in TEXTS]
    together = model.answer_all(requests)
    assert max(sizes) > 1
    assert together == [other.answer(request) for request in requests]
    assert (model.cache_misses, model.cache_hits) == (6, 1)
    assert model.answer_all(requests) == together
    assert (model.cache_misses, model.cache_hits) == (6, 8)


def test_what_is_not_marked_runs_a_text_at_a_time(tmp_path: Path, sizes: list[int]) -> None:
    model = load_model(tiny.write_bundle(tmp_path / "b", model=masked_graph()))
    model.answer_all([Request(text) for text in TEXTS])
    assert set(sizes) == {1}


def test_a_mark_that_does_not_hold_here_is_not_believed(tmp_path: Path, sizes: list[int]) -> None:
    """The plain graph takes the mean over padding too."""
    alone = load_model(tiny.write_bundle(tmp_path / "plain"))
    lines = []
    for text in ("pump hot stuck cold", "valve hot stuck cold red"):
        said = alone.answer(Request(text))
        expected = {"label": said.label, "score": said.score, "confidence": said.confidence}
        lines.append(json.dumps(tiny.golden_line(text, **expected)))
    golden = "\n".join(lines)
    folder = tiny.write_bundle(
        tmp_path / "claims",
        artifact={"batch_invariant": True},
        files={"golden.jsonl": golden.encode()},
    )
    model = load_model(folder, verdict_dir=tmp_path / "verdicts")
    assert not model.batch_invariant
    assert not load_model(folder, verdict_dir=tmp_path / "verdicts").batch_invariant
    sizes.clear()
    model.answer_all([Request(text) for text in TEXTS])
    assert set(sizes) == {1}


def test_one_failing_text_fails_alone(marked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(marked)
    run = OrtSession.run
    poison = 4 + tiny.WORDS.index("stuck")

    def brittle(session: OrtSession, feeds: Any) -> Any:
        if (feeds["input_ids"] == poison).any():
            msg = "no such row"
            raise InferenceError(msg)
        return run(session, feeds)

    monkeypatch.setattr(OrtSession, "run", brittle)
    texts = ["pump hot", "pump stuck", "valve hot"]
    first, second, third = model.answer_all([Request(text) for text in texts])
    assert isinstance(second, InferenceError)
    assert [first, third] == [model.answer(Request(text)) for text in texts[::2]]
    assert len(model._cache) == 2  # noqa: SLF001 -- an error is not kept


def test_many_threads_with_batches_get_the_same_bits(marked: Path) -> None:
    model = load_model(marked, cache_entries=4)
    want = {text: load_model(marked).answer(Request(text)) for text in TEXTS}
    batches = [[TEXTS[(i * 5 + j * 3) % len(TEXTS)] for j in range(1 + i % 6)] for i in range(200)]

    def ask(batch: list[str]) -> list[Any]:
        return model.answer_all([Request(text) for text in batch])

    with ThreadPoolExecutor(6) as threads:
        for batch, got in zip(batches, threads.map(ask, batches), strict=True):
            assert got == [want[text] for text in batch]
    assert model.cache_hits + model.cache_misses == sum(map(len, batches))


def upper(texts: Sequence[str]) -> list[str | Exception]:
    return [text.upper() if text != "bad" else ValueError(text) for text in texts]


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=8), max_size=12), st.integers(0, 4))
def test_a_cache_asked_for_many_is_the_cache_asked_for_each(
    asked: list[list[str]], capacity: int
) -> None:
    cache: Cache[str] = Cache(capacity)
    for texts in asked:
        assert cache.get_all(texts, upper) == [text.upper() for text in texts]
        assert len(cache) <= capacity
    assert cache.hits + cache.misses == sum(map(len, asked))


def test_a_cache_computes_each_new_text_once_and_keeps_no_error() -> None:
    cache: Cache[str] = Cache(8)
    computed: list[str] = []

    def compute(texts: Sequence[str]) -> list[str | Exception]:
        computed.extend(texts)
        return upper(texts)

    cache.get_all(["a"], compute)
    found = cache.get_all(["a", "b", "bad", "b"], compute)
    assert (found[0], found[1], found[3]) == ("A", "B", "B")
    assert isinstance(found[2], ValueError)
    assert computed == ["a", "b", "bad"]
    assert len(cache) == 2


def test_a_computation_that_fails_whole_leaves_nobody_waiting() -> None:
    cache: Cache[str] = Cache(8)

    def fail(_: Sequence[str]) -> list[str | Exception]:
        msg = "spoilt"
        raise OSError(msg)

    with pytest.raises(OSError, match="spoilt"):
        cache.get_all(["a", "b"], fail)
    assert cache.get("a", str.upper) == "A"


def test_a_batch_waits_for_what_another_computes_and_not_before_its_own_is_done() -> None:
    cache: Cache[str] = Cache(8)
    begun, go = threading.Event(), threading.Event()

    def slow(text: str) -> str:
        begun.set()
        assert go.wait(10)
        return text.upper()

    def own(texts: Sequence[str]) -> list[str | Exception]:
        assert list(texts) == ["b"]
        go.set()  # were "a" waited for first, both would hang
        return upper(texts)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.get, "a", slow)
        assert begun.wait(10)
        assert threads.submit(cache.get_all, ["a", "b"], own).result(10) == ["A", "B"]
        assert first.result(10) == "A"
