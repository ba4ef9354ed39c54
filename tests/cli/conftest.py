"""Commands as processes, with the tests' own task among the others, and a small bundle for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtime import tiny

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "tests/runtime/with_double.py")]
# The same, with a provider that takes no node as well.
WITH_IDLE = [sys.executable, str(ROOT / "tests/agent/with_brittle.py")]
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny.write_bundle(tmp_path / "tiny")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Verdicts go to a folder of the test's own."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    return _runner(COMMAND, environment)


@pytest.fixture
def run_idle(environment: dict[str, str]) -> Run:
    return _runner(WITH_IDLE, environment)


def _runner(command: list[str], environment: dict[str, str]) -> Run:
    def run_command(*args: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        whole = [*command, *map(str, args)]
        done = subprocess.run(
            whole, input=stdin, capture_output=True, env=environment, timeout=60, check=False
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done

    return run_command
