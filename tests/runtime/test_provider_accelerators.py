"""OpenVINO, CUDA and Core ML on a device: what is missing is said, and the next variant serves."""

from __future__ import annotations

import importlib.util
import json
import platform
from pathlib import Path

import onnxruntime
import pytest

from edgeslm.adapters.ort import GraphError, hardware_problem, make_session
from edgeslm.contract.manifest import Artifact, Requirements
from edgeslm.ports import SessionOptions
from edgeslm.providers import coreml, cuda, openvino
from edgeslm.runtime.model import load_model
from edgeslm.runtime.variants import NoArtifactError
from tests.runtime import tiny

OPENVINO = "onnxruntime_ep_openvino"


def graph(accelerator: str | None = None, precision: str | None = None) -> Artifact:
    return Artifact(
        role="graph",
        path="model.onnx",
        size=1,
        sha256="0" * 64,
        requires=Requirements(accelerator=accelerator),
        precision=precision,
    )


@pytest.fixture
def plugin() -> None:
    if importlib.util.find_spec(OPENVINO) is None:
        pytest.skip("onnxruntime-ep-openvino is not installed")


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    bundle = tiny.write_bundle(tmp_path / "b", artifact={"provider": "openvino"})
    with pytest.raises(NoArtifactError, match=r"onnxruntime-ep-openvino is not installed; pip"):
        load_model(bundle)


@pytest.mark.parametrize(
    ("provider", "ep"), [("cuda", "CUDAExecutionProvider"), ("coreml", "CoreMLExecutionProvider")]
)
def test_a_build_without_the_provider_is_refused_with_a_remedy(
    provider: str, ep: str, tmp_path: Path
) -> None:
    if ep in onnxruntime.get_available_providers():
        pytest.skip(f"this build has {ep}")
    bundle = tiny.write_bundle(tmp_path / "b", artifact={"provider": provider})
    with pytest.raises(NoArtifactError, match="this ONNX Runtime has no"):
        load_model(bundle)


def test_a_driver_without_a_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(cuda, "_DRIVER", "libno-such-driver.so.1")
    assert cuda.problem() == "the NVIDIA driver shows no GPU; look at nvidia-smi"


@pytest.mark.usefixtures("plugin")
def test_hardware_that_is_not_here_gives_way(tmp_path: Path) -> None:
    if hardware_problem(openvino.on("NPU")) is None:
        pytest.skip("this machine has an NPU")
    bundle = tiny.write_bundle(
        tmp_path / "b", artifact={"provider": "openvino", "requires": {"accelerator": "NPU"}}
    )
    with pytest.raises(NoArtifactError, match=r"finds no NPU here.* `edgeslm doctor` names"):
        load_model(bundle)


@pytest.mark.usefixtures("plugin")
def test_a_session_on_hardware_that_is_not_here_is_refused(tmp_path: Path) -> None:
    if hardware_problem(openvino.on("NPU")) is None:
        pytest.skip("this machine has an NPU")
    tiny.save_graph(tmp_path, tiny.graph())
    with pytest.raises(GraphError, match="finds no NPU here"):
        make_session(tmp_path / "model.onnx", options=openvino.on("NPU"))


def test_a_plugin_that_does_not_load_is_a_reason_and_no_crash(tmp_path: Path) -> None:
    broken = tmp_path / "libbroken.so"
    broken.write_bytes(b"not a library")
    options = SessionOptions(provider="x", ep="XExecutionProvider", plugin=("x", str(broken)))
    problem = hardware_problem(options)
    assert problem is not None
    assert problem.startswith("XExecutionProvider does not load: ")


@pytest.mark.usefixtures("plugin")
def test_openvino_runs_in_float32_and_one_thread_for_an_inference_on_the_processor() -> None:
    options = openvino.options(graph())
    assert options.hardware == "CPU"
    [config] = json.loads(options.ep_options["load_config"]).values()
    assert config["INFERENCE_PRECISION_HINT"] == "f32"
    assert config["NUM_STREAMS"] == config["INFERENCE_NUM_THREADS"]
    npu = openvino.options(graph("NPU"))
    assert (npu.hardware, dict(npu.ep_options)) == ("NPU", {})


def test_core_ml_unpacks_int8_weights_and_nothing_else() -> None:
    packed = coreml.options(graph(precision="int8-weights"))
    assert (packed.optimize, dict(packed.config)) == (True, {"session.disable_quant_qdq": "1"})
    plain = coreml.options(graph(precision="fp16"))
    assert (plain.optimize, dict(plain.config)) == (False, {})
    assert plain.ep_options["ModelFormat"] == "MLProgram"


def test_core_ml_takes_a_graph_where_it_is(tmp_path: Path) -> None:
    if why := coreml.problem():
        pytest.skip(why)
    assert platform.system() == "Darwin"
    tiny.save_graph(tmp_path, tiny.graph())
    session = make_session(tmp_path / "model.onnx", options=coreml.options(graph()))
    assert session.provider == "coreml"
