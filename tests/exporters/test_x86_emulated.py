"""Bundles for other x86-64 processors than this one, on those that qemu shows."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeslm.providers import openvino
from tests.conftest import DATA, ROOT, WEIGHTS, run_exporter, weights_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def verified(bundle: Path, profile: str, cpu: str) -> str:
    """Export the orders for `profile`; return what `bundle verify` says on processor `cpu`."""
    weights_folder()
    qemu = shutil.which("qemu-x86_64-static")
    if qemu is None or platform.machine() != "x86_64":
        pytest.skip("needs qemu-x86_64-static (Debian's qemu-user-static) on x86-64")
    run_exporter(
        *("intent", "--data", str(DATA / "orders-train.jsonl")),
        *("--eval", str(DATA / "orders-eval.jsonl"), "--profile", profile),
        *("--model", f"package:{WEIGHTS}", "--name", "orders", "--version", "1"),
        *("--out", str(bundle.parent)),
    )
    verify = ("-m", "edgeslm", "bundle", "verify", str(bundle))
    done = subprocess.run(
        (qemu, "-cpu", cpu, sys.executable, *verify),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_openvino_takes_the_whole_graph_and_replays_its_golden_file(tmp_path: Path) -> None:
    """As a device does before it serves: placement without the CPU's help, and 48 answers.

    On a processor of 2015 without AVX-512, which qemu 7.2 does not know.
    """
    if why := openvino.problem():
        pytest.skip(why)
    said = verified(tmp_path / "export" / "bundle", "generic-openvino", "Skylake-Client")
    assert "100.0% of its nodes on openvino" in said
    assert "48 cases, answered as expected" in said


def test_a_processor_without_vnni_replays_the_golden_file_of_this_one(tmp_path: Path) -> None:
    """7-bit weights: where sums of two products would saturate, they do not."""
    said = verified(tmp_path / "export" / "bundle", "generic-x86_64-avx2", "Haswell")
    assert "48 cases, answered as expected" in said
