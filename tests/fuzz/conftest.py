"""Counts the targets, so that they can share the time."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def targets(request: pytest.FixtureRequest) -> int:
    """How many fuzz targets this run has."""
    return sum(HERE in item.path.parents for item in request.session.items)
