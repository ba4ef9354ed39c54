"""One signed repository for all tests of the service: none of them changes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.fleet.repository import Repository
from tests.fleet.service import kit
from tests.mosquitto import Mosquitto

Serve = Callable[..., kit.Running]
Play = Callable[..., kit.Devices]


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Three versions of a model, for one device profile."""
    return kit.repository_of(tmp_path_factory.mktemp("fleet"))


def _starter(repository: Repository, url: str, port: int) -> Iterator[Serve]:
    running: list[kit.Running] = []

    def start(**more: Any) -> kit.Running:
        running.append(kit.Running(repository, url, port, **more))
        return running[-1]

    yield start
    for each in running:
        each.stop()


@pytest.fixture
def serve(repository: Repository, database_url: str, mosquitto: Mosquitto) -> Iterator[Serve]:
    """Starts workers of one service, on a database of each kind."""
    yield from _starter(repository, database_url, mosquitto.port)


@pytest.fixture
def serve_quick(repository: Repository, sqlite_url: str, mosquitto: Mosquitto) -> Iterator[Serve]:
    """The same on SQLite alone, for what databases have no part in."""
    yield from _starter(repository, sqlite_url, mosquitto.port)


@pytest.fixture
def play(mosquitto: Mosquitto) -> Iterator[Play]:
    """Connects devices."""
    played: list[kit.Devices] = []

    def start(names: list[str], *more: Any, **named: Any) -> kit.Devices:
        played.append(kit.Devices(mosquitto.port, names, *more, **named))
        played[-1].say()
        return played[-1]

    yield start
    for each in played:
        each.close()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a database that is quickly made, for tests that are not about databases."""
    return f"sqlite:///{tmp_path / 'quick.db'}"
