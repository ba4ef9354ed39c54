"""A fleet that gives certificates, on a database of each kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from edgeslm.fleet.authority import Authority
from edgeslm.fleet.repository import Repository
from tests.fleet import kit as fleet_kit
from tests.provision.kit import Device, Fleet, Site
from tests.provision.live import Running


@pytest.fixture(scope="session")
def fleet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an authority, to be copied."""
    folder = tmp_path_factory.mktemp("fleet") / "repository"
    return fleet_kit.make(folder).folder


@pytest.fixture
def repository(fleet_folder: Path, tmp_path: Path) -> Repository:
    """A repository of the test's own."""
    shutil.copytree(fleet_folder, tmp_path / "repository")
    return Repository(tmp_path / "repository", fleet_kit.passphrases())


@pytest.fixture
def fleet(repository: Repository, database: Engine) -> Fleet:
    """A fleet on a database of each kind."""
    return Fleet(repository, database)


@pytest.fixture
def device(fleet: Fleet, tmp_path: Path) -> Callable[..., Device]:
    """Makes devices."""

    def make(name: str, **more: Any) -> Device:
        return Device(tmp_path / name, fleet, **more)

    return make


@pytest.fixture
def site(repository: Repository, tmp_path: Path) -> Iterator[Site]:
    """A broker set up as we say."""
    Authority(repository).make()
    made = Site(tmp_path / "site", repository)
    made.start()
    yield made
    made.broker.kill()


@pytest.fixture
def service(site: Site, tmp_path: Path) -> Iterator[Running]:
    """The service beside it."""
    running = Running(site, f"sqlite:///{tmp_path / 'repository' / 'fleet.db'}")
    yield running
    running.stop()
