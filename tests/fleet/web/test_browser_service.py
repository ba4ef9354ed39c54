"""The page over a service that works: real broker, conductor, databases and browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.contract.fleet import Assignment
from edgeslm.core.rollout import DeviceState, State
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.service.shelf import RepositoryShelf
from tests.fleet.service import kit
from tests.fleet.web import fleet
from tests.fleet.web.chromium import MARKS, SLOW_MS, expect, signing_in
from tests.mosquitto import Mosquitto

pytestmark = [*MARKS, pytest.mark.broker]
NAMES = [f"dev-{number:03}" for number in range(20)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return kit.repository_of(tmp_path_factory.mktemp("fleet"))


@pytest.fixture
def running(
    repository: Repository, database_url: str, mosquitto: Mosquitto
) -> Iterator[kit.Running]:
    started = kit.Running(repository, database_url, mosquitto.port)
    fleet.add_account(started.engine, "ada", "operator")
    yield started
    started.stop()


@pytest.fixture
def opened(
    browser: Any,
    running: kit.Running,
    repository: Repository,
    tmp_path: Path,
) -> Iterator[Callable[..., Any]]:
    shelf = RepositoryShelf(repository)
    with (
        fleet.served(running.engine, shelf=shelf, folder=tmp_path) as served,
        signing_in(browser, served.url) as open_,
    ):
        yield open_


def begin(page: Any, version: int, **fields: str) -> None:
    """Fill in the form, look at the preview, and start."""
    page.goto("/rollouts/new")
    page.get_by_label("Model and version").select_option(f"{kit.MODEL} {version}")
    for label, text in {"Waves": "10%, 50%, 100%", "Deadline": "60", **fields}.items():
        page.get_by_label(label, exact=True).fill(text)
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("heading", name=f"{kit.MODEL} {version} to 20 devices")).to_be_visible()
    page.get_by_role("button", name="Start roll-out").click()
    expect(page.locator("#live")).to_have_text("live", timeout=SLOW_MS)


def test_what_is_started_on_the_page_is_carried_out_before_ones_eyes(
    opened: Callable[..., Any], running: kit.Running, mosquitto: Mosquitto
) -> None:
    devices = kit.Devices(mosquitto.port, NAMES)
    devices.say()
    kit.registered(running.engine, len(NAMES))
    page = opened()
    expect(page.locator("#devices")).to_contain_text(NAMES[0], timeout=SLOW_MS)
    begin(page, 2, Soak="2")
    for wave, total in ((1, 2), (2, 8), (3, 10)):
        expect(page.locator(f"#w-{wave}")).to_contain_text(
            f"{total} of {total} decided", timeout=SLOW_MS
        )
    expect(page.get_by_role("status")).to_contain_text("completed", timeout=SLOW_MS)
    assert kit.counted(running.engine, 1) == {DeviceState.SUCCEEDED: len(NAMES)}
    assert all(devices.seqs(name) == [1] for name in NAMES)
    devices.close()


def test_a_roll_out_under_way_is_aborted_and_what_has_moved_is_taken_back(
    opened: Callable[..., Any], running: kit.Running, mosquitto: Mosquitto
) -> None:
    devices = kit.Devices(mosquitto.port, NAMES)
    devices.say()
    kit.registered(running.engine, len(NAMES))
    page = opened()
    begin(page, 2, Soak="1h")
    expect(page.locator("#w-1")).to_contain_text("2 of 2 decided", timeout=SLOW_MS)
    page.get_by_role("link", name="Abort").click()
    page.get_by_role("button", name="Abort").click()
    expect(page.get_by_role("status").last).to_contain_text("aborted", timeout=SLOW_MS)
    assert kit.ended(running.engine, 1) is State.ABORTED
    assert {device.committed for device in devices.devices.values()} == {1}
    assert sum(len(devices.seqs(name)) == 2 for name in NAMES) == 2
    devices.close()


def test_a_bad_version_is_seen_to_stop_itself(
    opened: Callable[..., Any], running: kit.Running, mosquitto: Mosquitto
) -> None:
    def behave(_device: str, assignment: Assignment) -> str:
        wanted = assignment.models[kit.MODEL].version
        return "bundle.golden" if wanted == 3 else "good"

    devices = kit.Devices(mosquitto.port, NAMES, behave)
    devices.say()
    kit.registered(running.engine, len(NAMES))
    page = opened()
    begin(page, 3, Soak="2")
    expect(page.get_by_role("status").last).to_contain_text("aborted", timeout=SLOW_MS)
    expect(page.locator("main")).to_contain_text("failed")
    touched = [name for name in NAMES if devices.seqs(name)]
    assert len(touched) == 2
    devices.close()
