"""Nothing leaves the plant, and nothing about it is gathered, that its owner has not asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "first", ["edgeslm.adapters.ort", "edgeslm.runtime.model", "edgeslm.cli.main", "exporters.cli"]
)
def test_the_runtimes_telemetry_is_off_whatever_is_imported_first(
    first: str, tmp_path: Path
) -> None:
    """With it on, importing ONNX Runtime leaves a device id and an upload queue behind."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in {"ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME"}
    }
    code = f"import {first}, onnxruntime"
    subprocess.run(
        [sys.executable, "-B", "-c", code],
        env={**env, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        check=True,
    )
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
