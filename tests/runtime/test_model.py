"""A bundle on real ONNX Runtime: right answers, the same from the cache, and typed refusals."""

from __future__ import annotations

import json
import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import EdgeSLMError
from edgeslm.ports import Answer, Memory, Request
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.profiles import load_profile
from tests.runtime import tiny

TEXTS = [
    *(f"{a} {b} {c}" for a in tiny.WORDS[:3] for b in tiny.WORDS[3:6] for c in tiny.WORDS[6:]),
    "",
    "pump " * 100,
    "\0\U0001f600 \ud800",
    "no model",
]


def test_answers_with_what_the_graph_says(bundle: Path) -> None:
    model = load_model(bundle)
    rng = np.random.default_rng(7)
    table = rng.normal(size=(256, 3)).astype(np.float32)
    ids = [2, 4 + tiny.WORDS.index("pump"), 4 + tiny.WORDS.index("hot"), 3]
    logits = table[ids].mean(axis=0)
    answer = model.answer(Request("pump hot"))
    assert answer.label == tiny.LABELS[int(logits.argmax())]
    assert answer.score == pytest.approx(float(logits.max()), abs=1e-6)
    assert not answer.truncated


def test_says_what_it_is(bundle: Path) -> None:
    model = load_model(bundle)
    assert model.ref == {"name": "tiny", "version": 1, "hash": model.bundle.hash}
    assert (model.task, model.provider, model.node_share) == ("double", "cpu", 1.0)
    assert not model.batch_invariant


def test_cache_changes_no_bit_of_any_answer(bundle: Path) -> None:
    cached, uncached = load_model(bundle), load_model(bundle, cache_entries=0)
    asked = [Request(text) for text in TEXTS * 3]
    assert [cached.answer(r) for r in asked] == [uncached.answer(r) for r in asked]
    distinct = len(TEXTS) - 1  # "no model" asks none
    assert (cached.cache_misses, cached.cache_hits) == (distinct, 2 * distinct)
    assert (uncached.cache_misses, uncached.cache_hits) == (3 * distinct, 0)


def test_threads_get_the_same_bits(bundle: Path) -> None:
    model = load_model(bundle, cache_entries=8)
    want = {text: load_model(bundle).answer(Request(text)) for text in TEXTS}
    asked = [TEXTS[i * 7 % len(TEXTS)] for i in range(600)]
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda text: model.answer(Request(text)), asked))
    assert got == [want[text] for text in asked]
    assert model.cache_hits + model.cache_misses == len([t for t in asked if t != "no model"])


def test_what_the_cache_keeps_cannot_be_written(bundle: Path) -> None:
    model = load_model(bundle)
    outputs, _ = model._infer("pump")  # noqa: SLF001
    with pytest.raises(ValueError, match="read-only"):
        outputs["logits"][0] = 1
    assert outputs["logits"].shape == (3,)


def test_counts_tokens(bundle: Path) -> None:
    model = load_model(bundle)
    assert [model.tokens(Request(t)) for t in ("pump", "no model", "pump " * 99)] == [3, 0, 16]


def test_long_text_is_marked_truncated_from_the_cache_too(bundle: Path) -> None:
    model = load_model(bundle)
    assert [model.answer(Request("pump " * 99)).truncated for _ in range(2)] == [True, True]


def golden(model: Model, **changes: Any) -> bytes:
    lines = []
    for text in ("pump hot", "valve cold"):
        answer = model.answer(Request(text))
        expect = {"label": answer.label, "score": answer.score, "confidence": answer.confidence}
        lines.append(json.dumps(tiny.golden_line(text, **{**expect, **changes})))
    return "\n".join(lines).encode()


def test_replays_the_golden_file_once(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = golden(load_model(bundle))
    whole = tiny.write_bundle(tmp_path / "whole", files={"golden.jsonl": lines})
    verdicts = tmp_path / "verdicts"
    model = load_model(whole, verdict_dir=verdicts)
    assert (model.cache_hits, model.cache_misses) == (0, 0), "the replay leaves no trace"
    asked: list[Request] = []
    answer = Model.answer

    def spy(model: Model, request: Request, memory: Memory | None = None) -> Answer:
        asked.append(request)
        return answer(model, request, memory)

    monkeypatch.setattr(Model, "answer", spy)
    load_model(whole, verdict_dir=verdicts)
    assert not asked
    load_model(whole)
    assert len(asked) == 2


def test_replays_it_anew_where_that_is_asked_for(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = golden(load_model(bundle))
    whole = tiny.write_bundle(tmp_path / "whole", files={"golden.jsonl": lines})
    verdicts = tmp_path / "verdicts"
    load_model(whole, verdict_dir=verdicts)
    asked: list[Request] = []

    def other(_: Model, request: Request, memory: Memory | None = None) -> Answer:
        del memory
        asked.append(request)
        return Answer("other", 0.0, 0.0)

    monkeypatch.setattr(Model, "answer", other)
    with pytest.raises(EdgeSLMError, match="2 of 2 golden cases differ"):
        load_model(whole, verdict_dir=verdicts, anew=True)
    assert len(asked) == 2


def test_replays_it_past_the_cache_while_it_serves(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = golden(load_model(bundle))
    whole = tiny.write_bundle(tmp_path / "whole", files={"golden.jsonl": lines})
    model = load_model(whole)
    model.answer(Request("pump hot"))
    assert len(model.replay_golden()) == 2
    assert (model.cache_hits, model.cache_misses) == (0, 1)
    astray = ({"logits": np.zeros(3, np.float32)}, False)  # what a provider may come to say
    monkeypatch.setattr(model, "_infer", lambda _: astray)
    with pytest.raises(EdgeSLMError, match="2 of 2 golden cases differ"):
        model.replay_golden()
    (whole / "golden.jsonl").write_bytes(lines.replace(b"pump", b"stop"))
    with pytest.raises(EdgeSLMError, match=r"golden\.jsonl is not the file that was loaded"):
        model.replay_golden()


def test_another_bundle_than_the_one_expected_is_refused(bundle: Path) -> None:
    found = load_model(bundle).bundle.hash
    assert load_model(bundle, expected=found).ref["hash"] == found
    with pytest.raises(EdgeSLMError, match="should be there") as caught:
        load_model(bundle, expected="0" * 64)
    assert caught.value.code == "bundle.wrong"


def test_a_device_that_answers_otherwise_is_refused(bundle: Path, tmp_path: Path) -> None:
    lines = golden(load_model(bundle), score=99.0)
    wrong = tiny.write_bundle(tmp_path / "wrong", files={"golden.jsonl": lines})
    for _ in range(2):  # a failure is not remembered as a pass
        with pytest.raises(EdgeSLMError, match="2 of 2 golden cases differ") as caught:
            load_model(wrong, verdict_dir=tmp_path)
        assert caught.value.code == "golden.failed"
    assert load_model(wrong, golden=False).task == "double"


def other_outputs() -> onnx.ModelProto:
    model = tiny.graph()
    model.graph.node[-1].output[0] = "strange"
    model.graph.output[0].name = "strange"
    return model


def failing() -> onnx.ModelProto:
    """Looks up ids beyond its table, so that every inference fails."""
    model = tiny.graph()
    del model.graph.initializer[0]
    table = numpy_helper.from_array(np.zeros((1, 300), np.float32), "table")
    model.graph.initializer.append(table)
    return model


LINES = b'{"request": {"text": "pump"}, "expect": {"label": "x", "score": 0, "confidence": 0}}'
SPOILT: dict[str, tuple[dict[str, Any], str, str]] = {
    "graph is empty": ({"files": {"model.onnx": b""}}, "bundle.graph", "model.onnx"),
    "graph is garbage": ({"files": {"model.onnx": b"\x08garbage"}}, "bundle.graph", "model.onnx"),
    "weights are cut": ({"files": {"model.onnx.data": b"12345"}}, "bundle.graph", "model.onnx"),
    "graph wants more": ({"model": tiny.graph(("input_ids", "pixels"))}, "bundle.graph", "pixels"),
    "graph gives other outputs": (
        {"model": other_outputs(), "files": {"golden.jsonl": LINES}},
        "golden.failed",
        "KeyError",
    ),
    "graph fails at every text": (
        {"model": failing(), "files": {"golden.jsonl": LINES}},
        "golden.failed",
        "ONNX Runtime failed",
    ),
    "tokenizer is garbage": ({"files": {"tokenizer.json": b"{}"}}, "bundle.tokenizer", "tokenizer"),
    "parameters are garbage": ({"files": {"parameters.json": b"{"}}, "file.invalid", "parameters"),
    "golden is garbage": ({"files": {"golden.jsonl": b"{"}}, "golden.invalid", "golden.jsonl:1"),
    "unknown task": ({"task": "translate"}, "task.unknown", "update edgeslm"),
    "task that is a module elsewhere": ({"task": "os"}, "task.unknown", "os"),
    "other architecture": (
        {"artifact": {"requires": {"arch": "riscv64"}}},
        "bundle.no_artifact",
        f"needs riscv64, this is {platform.machine()}",
    ),
    "CPU feature": (
        {"artifact": {"requires": {"cpu_features": ["amx_ng"]}}},
        "bundle.no_artifact",
        "amx_ng",
    ),
    "one of some CPU features": (
        {"artifact": {"requires": {"cpu_features_any": ["amx_ng", "sve9"]}}},
        "bundle.no_artifact",
        "amx_ng or sve9",
    ),
    "SoC": ({"artifact": {"requires": {"soc": "SM9999"}}}, "bundle.no_artifact", "SM9999"),
    "runtime": (
        {"artifact": {"requires": {"runtime": "0.1"}}},
        "bundle.no_artifact",
        "runtime 0.1",
    ),
    "provider": ({"artifact": {"provider": "abacus"}}, "bundle.no_artifact", "abacus"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_cannot_run_here_is_refused_with_a_reason(case: str, tmp_path: Path) -> None:
    changes, code, says = SPOILT[case]
    folder = tiny.write_bundle(tmp_path / "spoilt", **changes)
    with pytest.raises(EdgeSLMError, match=says) as caught:
        load_model(folder)
    assert caught.value.code == code
    assert len(str(caught.value)) < 1000


def test_weights_outside_the_bundle_are_refused(tmp_path: Path) -> None:
    """The manifest lists the graph with its right hash; the graph itself points outside."""
    model = tiny.graph()
    folder = tmp_path / "a" / "bundle"
    tiny.write_bundle(folder, model=model)
    outside = tmp_path / "a" / "outside.data"
    (folder / "model.onnx.data").rename(outside)
    graph = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../outside.data"
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    (folder / "model.onnx.data").write_bytes(b"")
    tiny.seal(folder)
    with pytest.raises(EdgeSLMError) as caught:
        load_model(folder)
    assert caught.value.code == "bundle.graph"


def test_the_runtime_an_artifact_is_bound_to_may_name_a_part_of_its_version(tmp_path: Path) -> None:
    import onnxruntime  # noqa: PLC0415 -- only for its version

    major = onnxruntime.__version__.partition(".")[0]
    artifact = {"requires": {"runtime": major, "arch": platform.machine()}}
    assert load_model(tiny.write_bundle(tmp_path / "b", artifact=artifact)).provider == "cpu"


def with_two_graphs(folder: Path, *, first: str, second: str) -> Path:
    tiny.write_bundle(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    [graph] = [a for a in manifest["artifacts"] if a["role"] == "graph"]
    data = (folder / "model.onnx").read_bytes()
    (folder / "second.onnx").write_bytes(data)
    graph["provider"] = first
    graph["variant"] = "first"
    other = {
        **graph,
        "path": "second.onnx",
        "variant": "second",
        "provider": second,
        "batch_invariant": True,
    }
    manifest["artifacts"].append(other)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def profile(*providers: str) -> DeviceProfile:
    return load_profile("generic-x86_64").model_copy(update={"providers": providers})


def test_runs_the_first_graph_that_this_device_can(tmp_path: Path) -> None:
    folder = with_two_graphs(tmp_path / "b", first="coreml", second="cpu")
    assert load_model(folder).variant == "second"
    assert load_model(folder, profile=profile("coreml", "cpu")).variant == "second"
    with pytest.raises(EdgeSLMError, match="for the providers of profile") as caught:
        load_model(folder, profile=profile("coreml"))
    assert caught.value.code == "bundle.no_artifact"


def test_two_who_ask_the_same_new_text_run_the_model_once(bundle: Path) -> None:
    model = load_model(bundle)
    barrier = threading.Barrier(8)

    def ask(_: int) -> Answer:
        barrier.wait(10)
        return model.answer(Request("motor stuck"))

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(8)))
    assert all(a == answers[0] for a in answers)
    assert (model.cache_misses, model.cache_hits) == (1, 7)
