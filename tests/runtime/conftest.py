"""A task of the tests' own, and a small bundle for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm import tasks
from tests.runtime import tiny


@pytest.fixture(autouse=True)
def _double_task() -> Iterator[None]:
    folder = str(Path(__file__).parent / "tasks")
    tasks.__path__.append(folder)
    yield
    tasks.__path__.remove(folder)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny.write_bundle(tmp_path / "tiny")
