"""OpenVINO, CUDA and Core ML: exports of a layer of attention, run where the hardware is."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from edgeslm.adapters.ort import hardware_problem
from edgeslm.contract.manifest import Artifact, Manifest
from edgeslm.errors import ConfigError
from edgeslm.providers import coreml, cuda, openvino
from edgeslm.runtime.coverage import CoverageError
from edgeslm.runtime.model import load_model
from edgeslm.runtime.profiles import load_profile
from exporters import documented, targets
from exporters.export import Job, export
from exporters.shapes import BucketError, DynamicShapeError
from exporters.static_check import Rule
from exporters.targets.coreml import covered
from exporters.targets.openvino import NoBucketsError
from tests.exporters.attention import MAX_POSITIONS, attention_graph
from tests.exporters.conftest import WORDS, Stages

pytestmark = pytest.mark.usefixtures("own_cache")

_PROFILE = """\
name = "{name}"
description = "a test's"
providers = ["{provider}"]
max_tokens = 16
[{provider}]
{section}
[placement]
min_coverage = 1.0
cpu_fallback = false
max_partitions = 1
[requires]
[gate]
accuracy_drop_max = 100.0
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


def profile(job: Job, provider: str, section: str) -> Job:
    """Return `job` for a device whose one provider's section is `section`."""
    file = job.out.parent / f"{provider}.toml"
    file.write_text(_PROFILE.format(name=provider, provider=provider, section=section))
    return dataclasses.replace(job, profile=str(file))


def made(job: Job) -> tuple[dict[str, Any], Manifest]:
    """Export; return the quality report and the manifest."""
    report = export(job, Stages())
    manifest = Manifest.model_validate_json((job.out / "bundle" / "manifest.json").read_bytes())
    return report, manifest


def graphs(manifest: Manifest, variant: str) -> list[Artifact]:
    return [a for a in manifest.artifacts if a.role == "graph" and a.variant == variant]


def whole(found: list[Artifact]) -> bool:
    """Whether the provider takes all of each graph, in one piece."""
    took = [graph.coverage for graph in found]
    return all(c is not None and c.nodes == c.nodes_taken > 0 and c.partitions == 1 for c in took)


def absent() -> str | None:
    """Say why OpenVINO's processor device cannot be tried here."""
    return openvino.problem() or hardware_problem(openvino.on("CPU"))


def test_openvino_takes_the_whole_graph_and_answers_by_it(job: Job) -> None:
    if why := absent():
        pytest.skip(why)
    _, manifest = made(profile(job, "openvino", 'device = "CPU"'))
    [graph] = graphs(manifest, "openvino-int8")
    assert graph.verified == "silicon"
    assert graph.requires.accelerator == "CPU"
    assert whole([graph])
    model = load_model(job.out / "bundle")
    assert model.provider == "openvino"
    assert model.node_share == 1.0


def test_without_its_processor_openvino_is_checked_and_not_claimed(job: Job) -> None:
    _, manifest = made(profile(job, "openvino", 'device = "NPU"\nbuckets = [8, 16]'))
    found = graphs(manifest, "openvino-int8")
    assert [graph.verified for graph in found] == ["static", "static"]
    assert [graph.inputs[0].shape for graph in found] == [(1, 8), (1, 16)]
    assert whole(found)
    model = load_model(job.out / "bundle", stand_in="cpu")
    assert model.provider == "cpu"


def test_a_static_device_without_buckets_is_refused(job: Job) -> None:
    with pytest.raises(NoBucketsError, match=r"openvino\.buckets"):
        export(profile(job, "openvino", 'device = "NPU"'), Stages())


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_cuda_is_whole_by_its_documentation(job: Job, precision: str) -> None:
    section = f'compute_capability = "8.7"\nprecisions = ["{precision}"]\nbuckets = [8, 16]'
    report, manifest = made(profile(job, "cuda", section))
    found = graphs(manifest, f"cuda-{precision}")
    assert {graph.verified for graph in found} == {"silicon" if not cuda.problem() else "static"}
    assert whole(found)
    assert [a.path for a in manifest.artifacts if a.role == "weights"] == [
        f"cuda-{precision}/model.onnx.data"
    ]
    notes = report["variants"][f"cuda-{precision}"]["notes"]
    assert not any("TensorRT" in note for note in notes)
    assert load_model(job.out / "bundle", stand_in="cpu").node_share == 1.0


def test_cuda_runs_it(job: Job) -> None:
    if why := cuda.problem():
        pytest.skip(why)
    made(profile(job, "cuda", 'compute_capability = "8.7"\nbuckets = [8, 16]'))
    for variant in ("cuda-fp16", "cuda-int8"):
        model = load_model(job.out / "bundle", variant=variant)
        assert (model.provider, model.node_share) == ("cuda", 1.0)


@pytest.mark.parametrize(
    ("provider", "section"),
    [("cuda", 'compute_capability = "8.7"\n'), ("coreml", ""), ("openvino", 'device = "NPU"\n')],
)
def test_a_bucket_longer_than_the_model_is_refused(job: Job, provider: str, section: str) -> None:
    asked = profile(job, provider, f"{section}buckets = [8, {2 * MAX_POSITIONS}]")
    with pytest.raises(BucketError, match=rf"profile .*{2 * MAX_POSITIONS} tokens: .*`buckets`"):
        export(asked, Stages())


@pytest.mark.parametrize("capability", ["7.0", "Orin"])
def test_a_gpu_that_cuda_does_not_run_is_refused(job: Job, capability: str) -> None:
    with pytest.raises(ConfigError, match=f"cuda.compute_capability: {capability}"):
        export(profile(job, "cuda", f'compute_capability = "{capability}"'), Stages())


@pytest.mark.parametrize("precision", ["fp16", "int8-weights"])
def test_core_ml_is_whole_by_its_documentation(job: Job, precision: str) -> None:
    section = f'precisions = ["{precision}"]\nbuckets = [8, 16]'
    _, manifest = made(profile(job, "coreml", section))
    found = graphs(manifest, f"coreml-{precision}")
    assert {g.verified for g in found} == {"silicon" if not coreml.problem() else "static"}
    assert whole(found)
    assert not [a for a in manifest.artifacts if a.role == "weights"]  # each in its own file
    assert load_model(job.out / "bundle", stand_in="cpu").provider == "cpu"


def test_core_ml_runs_it(job: Job) -> None:
    if why := coreml.problem():
        pytest.skip(why)
    made(profile(job, "coreml", "buckets = [8, 16]"))
    for variant in ("coreml-fp16", "coreml-int8-weights"):
        model = load_model(job.out / "bundle", variant=variant)
        assert (model.provider, model.node_share) == ("coreml", 1.0)


@pytest.mark.parametrize(
    ("provider", "section"),
    [
        ("coreml", 'precisions = ["fp16"]'),
        ("cuda", 'compute_capability = "8.7"\nprecisions = ["int8"]'),
        ("openvino", 'device = "NPU"'),
    ],
)
def test_a_pruned_vocabulary_is_looked_up_by_the_provider(
    job: Job, provider: str, section: str
) -> None:
    asked = profile(job, provider, f"{section}\nbuckets = [8]")
    report, manifest = made(dataclasses.replace(asked, prune_vocab=1))
    [step] = report["reductions"]
    assert step["parameters"]["after"] < step["parameters"]["before"]
    assert whole([a for a in manifest.artifacts if a.role == "graph"])


def test_int8_weights_are_whole_only_once_they_are_unpacked(job: Job) -> None:
    """Which is why float16 is the first choice: it is whole as it lies in the file."""
    _, manifest = made(profile(job, "coreml", "buckets = [8]"))
    bundle = job.out / "bundle"
    packed = bundle / "coreml-int8-weights" / "model-8.onnx"
    as_it_lies = covered(packed, "fp16")
    assert {fallen.operator for fallen in as_it_lies.fallen} == {"DequantizeLinear"}
    assert covered(packed, "int8-weights").fallen == ()
    assert covered(bundle / "coreml-fp16" / "model-8.onnx", "fp16").fallen == ()
    # What a device does when it loads the graph: nothing of int8 is left for Core ML to refuse.
    [graph] = graphs(manifest, "coreml-int8-weights")
    options = coreml.options(graph)
    native = onnxruntime.SessionOptions()
    native.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    for key, value in options.config.items():
        native.add_session_config_entry(key, value)
    assert options.optimize
    session = onnxruntime.InferenceSession(str(packed), native, providers=["CPUExecutionProvider"])
    nodes = [n for p in session.get_provider_graph_assignment_info() for n in p.get_nodes()]
    assert "DequantizeLinear" not in {node.op_type for node in nodes}


def test_an_operator_that_is_not_documented_stops_the_export(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {k: v for k, v in documented.CUDA.rules.items() if k != "Erf"}
    monkeypatch.setattr(
        "exporters.targets.cuda.CUDA", dataclasses.replace(documented.CUDA, rules=rules)
    )
    asked = profile(job, "cuda", 'compute_capability = "8.7"\nbuckets = [8]')
    with pytest.raises(CoverageError, match="1 Erf"):
        export(asked, Stages())


def test_pieces_beyond_the_profile_stop_the_export(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {k: v for k, v in documented.CUDA.rules.items() if k != "Erf"} | {"Neg": Rule()}
    monkeypatch.setattr(
        "exporters.targets.cuda.CUDA", dataclasses.replace(documented.CUDA, rules=rules)
    )
    asked = profile(job, "cuda", 'compute_capability = "8.7"\nbuckets = [8]')
    file = Path(asked.profile)
    file.write_text(file.read_text().replace("min_coverage = 1.0", "min_coverage = 0.5"))
    with pytest.raises(CoverageError, match=r"2 pieces.*1 are allowed.*1 Erf"):
        export(asked, Stages())


def test_a_model_whose_shapes_follow_the_text_is_refused_on_a_static_target(job: Job) -> None:
    model = onnx.load(job.model)
    # As many rows as there are real tokens, which no length fixes; multiplied away by nought.
    graph = model.graph
    index = next(i for i, node in enumerate(graph.node) if node.name == "sum")
    extra = [
        onnx.helper.make_node("NonZero", ["attention_mask"], ["where"], name="where"),
        onnx.helper.make_node("Cast", ["where"], ["where_f"], name="where_f", to=1),
        onnx.helper.make_node("ReduceSum", ["where_f"], ["rows"], name="rows", keepdims=0),
        onnx.helper.make_node("Sub", ["rows", "rows"], ["nought"], name="nought"),
        onnx.helper.make_node("Add", ["vectors", "nought"], ["vectors_"], name="vectors_"),
    ]
    for offset, node in enumerate(extra):
        graph.node.insert(index + offset, node)
    next(node for node in graph.node if node.name == "sum").input[0] = "vectors_"
    onnx.save(model, job.model)
    with pytest.raises(DynamicShapeError, match="where"):
        export(profile(job, "coreml", "buckets = [8]"), Stages())


@pytest.mark.parametrize(
    "name",
    [
        "apple-silicon",
        "generic-cuda",
        "generic-openvino",
        "intel-core-ultra",
        "jetson-agx-orin",
        "jetson-orin-nano",
    ],
)
def test_a_shipped_profile_asks_for_what_can_be_made(name: str) -> None:
    shipped = load_profile(name)
    plans = [plan for key in shipped.providers for plan in targets.load(key).plans(shipped)]
    assert {plan.provider for plan in plans} == set(shipped.providers)
    assert shipped.verified == ("emulated" if name == "generic-openvino" else "static")
    assert shipped.placement.max_partitions == 1
