"""Counts the targets, so that they can share the time."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def targets(request: pytest.FixtureRequest) -> int:
    """How many fuzz targets this run has."""
    return sum("targets" in getattr(item, "fixturenames", ()) for item in request.session.items)
