"""One small fleet, served; shared by the tests of a module."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from tests.fleet.web import fleet

DEVICES = 60


class Clock:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@dataclass
class World:
    """All that a test may need."""

    engine: Engine
    served: fleet.Served
    clock: Clock
    names: list[str]
    rollout: int

    def signed_in(self, name: str) -> contextlib.AbstractContextManager[httpx.Client]:
        return self.served.signed_in(name)

    def token(self, name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {fleet.add_token(self.engine, name)}"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for all tests of a module."""
    from tests.fleet.web import chromium  # noqa: PLC0415 -- it may not be there

    with chromium.launched() as found:
        yield found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fleet of its own, with a viewer (vic), an operator (ada), and a roll-out under way."""
    with _made(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Such a fleet, for all tests of a module that change nothing in it."""
    with _made(tmp_path_factory.mktemp("still")) as made:
        yield made


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[World]:
    engine, clock = fleet.opened(folder), Clock()
    now = clock()
    names = fleet.fill(engine, DEVICES, now)
    fleet.live_a_week(engine, names[0], now)
    fleet.add_account(engine, "ada", "operator")
    fleet.add_account(engine, "vic", "viewer")
    rollout = fleet.roll_out(engine, names[:20], now)
    with fleet.served(engine, clock=clock, folder=folder) as served:
        yield World(engine, served, clock, names, rollout)
    engine.dispose()
