"""What the exporter makes runs here bit for bit the same: cached or not, alone or among threads."""

from __future__ import annotations

import gc
import json
import shutil
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeslm.ports import Request
from edgeslm.runtime.golden import parse_golden
from edgeslm.runtime.model import Model, load_model

DATA = Path(__file__).parents[1] / "data"


def requests(name: str) -> list[Request]:
    rows = [json.loads(line) for line in (DATA / f"{name}-eval.jsonl").read_text().splitlines()]
    return [Request(row["text"], row.get("source") or "") for row in rows[:150]]


@pytest.fixture(params=["anomaly", "intent"])
def kind(request: pytest.FixtureRequest) -> tuple[Path, list[Request]]:
    folder: Path = request.getfixturevalue(f"{request.param}_bundle")
    return folder, requests({"anomaly": "plant", "intent": "orders"}[request.param])


def test_cache_and_threads_change_no_bit(kind: tuple[Path, list[Request]]) -> None:
    folder, asked = kind
    uncached = load_model(folder, cache_entries=0)
    want = [uncached.answer(request) for request in asked]
    small, cached = load_model(folder, cache_entries=5), load_model(folder)
    for model in (uncached, small, cached):
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(model.answer, asked * 2)) == want * 2
    assert cached.cache_hits >= len(asked)
    assert uncached.cache_hits == 0


def test_all_of_the_graph_is_on_the_provider_and_golden_has_both_sides(
    kind: tuple[Path, list[Request]],
) -> None:
    model = load_model(kind[0])
    assert (model.provider, model.node_share) == ("cpu", 1.0)
    cases = parse_golden(model.files.read("golden"))
    assert 32 <= sum(not case.fault for case in cases) <= 64


def test_any_text_is_answered_soon(kind: tuple[Path, list[Request]]) -> None:
    model = load_model(kind[0], golden=False)
    hostile = [
        "",
        " ",
        "\0" * 1000,
        "\ud800",
        "1.1." * 25_000,
        "/" * 100_000,
        "\U0001f600" * 10_000,
    ]
    for text in [*hostile, "a " * 500_000, "deadbeef" * 125_000, "NaN 1e308 -0 1,234.5 12:30:01"]:
        start = time.process_time()
        answer = model.answer(Request(text))
        assert time.process_time() - start < 5
        assert 0 <= answer.confidence <= 1


def test_a_model_that_is_dropped_is_gone_at_once(kind: tuple[Path, list[Request]]) -> None:
    """Without help of the collector, which spares what was frozen: a reload must not leak."""
    folder, asked = kind
    gc.disable()
    try:
        model = load_model(folder)
        model.answer(asked[0])
        gone: list[weakref.ref[object]] = [weakref.ref(model), weakref.ref(model._session)]  # noqa: SLF001
        del model
        assert [reference() for reference in gone] == [None, None]
    finally:
        gc.enable()


def test_answers_are_read_alike_from_a_copy(
    kind: tuple[Path, list[Request]], tmp_path: Path
) -> None:
    folder, asked = kind
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    first, second = load_model(folder), load_model(copy)
    assert first.ref == second.ref

    def answers(model: Model) -> list[object]:
        return [model.answer(request) for request in asked]

    assert answers(first) == answers(second)
