"""Qualcomm's NPU on a device: what is missing is said; the emulator is chosen on purpose."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from edgeslm.adapters.ort import GraphError, hardware_problem, make_session
from edgeslm.contract.manifest import Artifact
from edgeslm.providers import qnn
from edgeslm.runtime.model import load_model
from edgeslm.runtime.variants import NoArtifactError
from tests.runtime import tiny


@pytest.fixture
def plugin() -> None:
    if (why := qnn.problem()) is not None:
        pytest.skip(why)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """What the HTP does not take: float32, of any length."""
    tiny.save_graph(tmp_path, tiny.graph())
    return tmp_path / "model.onnx"


def artifact() -> Artifact:
    return Artifact(role="graph", path="model.onnx", size=1, sha256="0" * 64)


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    bundle = tiny.write_bundle(tmp_path / "b", artifact={"provider": "qnn"})
    with pytest.raises(NoArtifactError, match=r"onnxruntime-qnn is not installed; pip install"):
        load_model(bundle)


@pytest.mark.usefixtures("plugin")
def test_a_device_without_an_npu_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert qnn.options(artifact()).hardware == "NPU"
    if sys.platform == "linux" and importlib.util.find_spec("onnxruntime_qnn") is not None:
        why = hardware_problem(qnn.options(artifact()))
        assert why is None or "finds no NPU" in why


@pytest.mark.usefixtures("plugin")
def test_contexts_are_bound_to_the_sdk_and_not_to_the_package() -> None:
    version = qnn.runtime().split(".")
    assert len(version) == 3
    assert all(part.isdecimal() for part in version)


@pytest.mark.usefixtures("plugin")
def test_a_graph_that_is_not_for_it_is_an_error_and_no_silent_fallback(graph: Path) -> None:
    if not qnn.emulated():
        pytest.skip("needs the emulator")
    options = qnn.options(artifact())
    strict = type(options)(
        **{name: getattr(options, name) for name in options.__slots__} | {"cpu_fallback": False}
    )
    with pytest.raises(GraphError, match="fallback"):
        make_session(graph, options=strict)


@pytest.mark.usefixtures("plugin")
def test_standard_output_stays_ours(graph: Path) -> None:
    if not qnn.emulated():
        pytest.skip("needs the emulator")
    program = (
        "import sys; from pathlib import Path; from edgeslm.adapters.ort import make_session; "
        "from edgeslm.providers.qnn import htp; "
        "make_session(Path(sys.argv[1]), options=htp({})); print('ours')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(graph)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "ours\n"
