"""OpenVINO on an Intel processor that qemu shows, where this one is another maker's."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeslm.providers import openvino
from tests.conftest import DATA, ROOT, WEIGHTS, run_exporter, weights_folder

# A processor of 2015 without AVX-512, which qemu 7.2 does not know.
CPU = "Skylake-Client"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_plugin_takes_the_whole_graph_and_replays_its_golden_file(tmp_path: Path) -> None:
    """As a device does before it serves: placement without the CPU's help, and 48 answers."""
    weights_folder()
    if why := openvino.problem():
        pytest.skip(why)
    qemu = shutil.which("qemu-x86_64-static")
    if qemu is None or platform.machine() != "x86_64":
        pytest.skip("needs qemu-x86_64-static (Debian's qemu-user-static) on x86-64")
    bundle = tmp_path / "export" / "bundle"
    run_exporter(
        *("intent", "--data", str(DATA / "orders-train.jsonl")),
        *("--eval", str(DATA / "orders-eval.jsonl"), "--profile", "generic-openvino"),
        *("--model", f"package:{WEIGHTS}", "--name", "orders", "--version", "1"),
        *("--out", str(bundle.parent)),
    )
    verify = ("-m", "edgeslm", "bundle", "verify", str(bundle))
    done = subprocess.run(
        (qemu, "-cpu", CPU, sys.executable, *verify),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "100.0% of its nodes on openvino" in done.stdout
    assert "48 cases, answered as expected" in done.stdout
