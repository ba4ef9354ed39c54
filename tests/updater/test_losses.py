"""Networks that lose, fall silent and break: a blob comes whole, and little of it twice."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeslm.adapters.blocks import FileBlockStore
from edgeslm.adapters.clock import SystemClock
from edgeslm.contract.brokers import Broker
from edgeslm.contract.fleet import BLOCK_BYTES
from edgeslm.contract.settings import UpdateSettings
from edgeslm.contract.topics import Topics
from edgeslm.updater.download import Fetcher
from edgeslm.updater.mailbox import open_mailbox
from tests.fleet.served import ROOT, FakeServed, Running, hashes
from tests.mosquitto import Mosquitto
from tests.proxy import LossyProxy

pytestmark = pytest.mark.broker
HERE = Path(__file__).parents[2]
MODEL_BYTES = 140_000_000
SILENT_S = 30.0


class Journey:
    """A fetch through a lossy network, with trouble at parts of the way."""

    def __init__(self, mosquitto: Mosquitto, folder: Path, size: int, percent: int) -> None:
        rng = random.Random(percent)  # noqa: S311 -- which messages are lost
        self.data = rng.randbytes(size)
        self.served = FakeServed(folder / "repository")
        self.blob = self.served.add(self.data)
        self.mosquitto = mosquitto
        self.running = Running(self.served, mosquitto.port)
        self.proxy = LossyProxy(mosquitto.port, lambda: rng.random() < percent / 100)
        broker = Broker(host="127.0.0.1", port=self.proxy.port)
        self.mailbox = open_mailbox("dev-updater", broker)
        self.here = 0
        self.silent_until: float | None = None
        self.fetcher = Fetcher(
            self.mailbox,
            FileBlockStore(folder / "download"),
            Topics(ROOT, "dev"),
            settings=UpdateSettings(),
            clock=SystemClock(),
        )

    def restart_broker(self) -> None:
        self.mosquitto.stop()
        self.mosquitto.start()

    def fall_silent(self) -> None:
        self.proxy.silence(silent=True)
        self.silent_until = time.monotonic() + SILENT_S

    def run(self, *trouble: tuple[float, Callable[[], None]]) -> None:
        """Fetch; once that share is here, each trouble happens in turn."""
        left = list(trouble)

        def advance(here: int) -> None:
            self.here = here

        def check() -> None:
            if self.silent_until is not None and time.monotonic() >= self.silent_until:
                self.silent_until = None
                self.proxy.silence(silent=False)
            if left and self.here >= left[0][0] * len(self.data):
                left.pop(0)[1]()

        known = hashes(self.data)
        path = self.fetcher.fetch(self.blob, len(self.data), known, check=check, advance=advance)
        assert path.read_bytes() == self.data
        assert not left

    @property
    def ratios(self) -> tuple[float, float]:
        """What the server sent, and what the broker sent to the device, by what was wanted."""
        size = len(self.data)
        return self.running.server.sent_bytes / size, self.proxy.bytes / size

    def close(self) -> None:
        self.mailbox.close()
        self.proxy.close()
        self.running.stop()


Begin = Callable[[int, int], Journey]


@pytest.fixture
def begin(mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    monkeypatch.setattr("edgeslm.updater.download.CHECK_S", 0.0)
    made: list[Journey] = []

    def make(size: int, percent: int) -> Journey:
        made.append(Journey(mosquitto, tmp_path, size, percent))
        return made[-1]

    yield make
    for journey in made:
        journey.close()


@pytest.mark.parametrize(("percent", "most"), [(5, 1.2), (20, 1.6)])
def test_lost_messages_are_repaired_and_nothing_else_is_sent_twice(
    begin: Begin, percent: int, most: float
) -> None:
    journey = begin(200 * BLOCK_BYTES - 9, percent)
    journey.run()
    assert journey.proxy.lost > 200 * percent / 100 / 2
    assert max(journey.ratios) <= most


@pytest.mark.slow
@pytest.mark.parametrize(("percent", "most"), [(5, 1.2), (20, 1.6)])
def test_losses_a_partition_and_five_restarts_of_the_broker_in_one_transfer(
    begin: Begin, percent: int, most: float
) -> None:
    journey = begin(MODEL_BYTES, percent)
    restarts = [(part / 10, journey.restart_broker) for part in (1, 2, 4, 6, 8)]
    journey.run(*restarts[:3], (0.5, journey.fall_silent), *restarts[3:])
    assert journey.mailbox.reconnects >= 5
    assert max(journey.ratios) <= most


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("percent", "most"), [(5, 1.2), (20, 1.6)])
def test_a_network_that_loses_packets(tmp_path: Path, percent: int, most: float) -> None:
    """By nft, in a network namespace of its own: what TCP sends again counts, too."""
    namespace = f"edgeslm-{os.getpid()}-{percent}"
    if shutil.which("nft") is None or os.geteuid() != 0:
        pytest.skip("needs nft, and root")
    made = subprocess.run(["ip", "netns", "add", namespace], check=False, capture_output=True)
    if made.returncode:
        pytest.skip("may make no network namespace here")
    try:
        argv = ["ip", "netns", "exec", namespace, sys.executable, "-m"]
        argv += ["tests.updater.lossy_network", str(percent), str(80 * BLOCK_BYTES), str(tmp_path)]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=HERE)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["sha256"] == hashlib.sha256(bytes(80 * BLOCK_BYTES)).hexdigest()
        assert found["wire"] <= most * 80 * BLOCK_BYTES
    finally:
        subprocess.run(["ip", "netns", "delete", namespace], check=True)
