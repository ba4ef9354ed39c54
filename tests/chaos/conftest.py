"""The agent's fixtures, and a second broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.conftest import agent, brittle, make_agent, plant  # noqa: F401 -- fixtures
from tests.mosquitto import Mosquitto


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Mosquitto]:
    """A second broker, running."""
    broker = Mosquitto(tmp_path / "upstream")
    broker.start()
    yield broker
    broker.kill()
