"""A blob comes whole whatever happens on the way, and only as what was promised."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeslm.adapters.blocks import FileBlockStore, FileDownload
from edgeslm.adapters.clock import SystemClock
from edgeslm.contract.brokers import Broker
from edgeslm.contract.fleet import BLOCK_BYTES, Ask, Missing, TimeReply, Want
from edgeslm.contract.settings import UpdateSettings
from edgeslm.contract.topics import FleetTopics, Topics
from edgeslm.core import block as codec
from edgeslm.ports import DamagedBlobError, DiskFullError, Received
from edgeslm.updater import download
from edgeslm.updater.download import Fetcher, MissingBlobError, StalledError
from edgeslm.updater.mailbox import Mailbox, open_mailbox
from tests.fleet.served import ROOT, FakeServed, Running, hashes
from tests.mosquitto import Mosquitto
from tests.proxy import Proxy

pytestmark = pytest.mark.broker
FLEET = FleetTopics(ROOT)
ALWAYS_CLOSED = time.strftime("%H:%M", time.localtime(time.time() + 7200))
NONCE = "0123456789abcdef" * 2


class EnoughError(Exception):
    """What a check raises."""


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311 -- bytes like a model's


SMALL = noise(1000)
LARGE = noise(40 * BLOCK_BYTES + 99)


@dataclass
class Device:
    """A fetcher, and all that it said."""

    port: int
    folder: Path
    name: str = "dev"
    settings: UpdateSettings = field(default_factory=UpdateSettings)
    heard: list[Received] = field(default_factory=list)
    waits: list[str | None] = field(default_factory=list)
    advances: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        broker = Broker(host="127.0.0.1", port=self.port)
        self.mailbox: Mailbox = open_mailbox(f"{self.name}-updater", broker)
        self.store = FileBlockStore(self.folder / self.name)
        self.fetcher = Fetcher(
            self.mailbox,
            self.store,
            Topics(ROOT, self.name),
            settings=self.settings,
            clock=SystemClock(),
            heard=self.heard.append,
            waiting=self.waits.append,
        )

    def fetch(
        self,
        data: bytes,
        *,
        listed: Sequence[str] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> bytes:
        blob = hashlib.sha256(data).hexdigest()
        known = hashes(data) if listed is None else listed
        path = self.fetcher.fetch(blob, len(data), known, check=check, advance=self.advances.append)
        return path.read_bytes()


@pytest.fixture
def served(tmp_path: Path) -> FakeServed:
    return FakeServed(tmp_path / "repository")


@pytest.fixture
def server(served: FakeServed, mosquitto: Mosquitto) -> Iterator[Running]:
    running = Running(served, mosquitto.port)
    yield running
    running.stop()


@pytest.fixture
def devices(mosquitto: Mosquitto, tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """Make devices, and end them."""
    made: list[Device] = []

    def make(name: str = "dev", port: int | None = None, **settings: object) -> Device:
        update = UpdateSettings.model_validate(settings)
        made.append(Device(port or mosquitto.port, tmp_path, name, update))
        return made[-1]

    yield make
    for device in made:
        device.mailbox.close()


Devices = Callable[..., Device]


def test_a_blob_comes_whole(server: Running, served: FakeServed, devices: Devices) -> None:
    device = devices()
    for data in (SMALL, LARGE, noise(BLOCK_BYTES), noise(BLOCK_BYTES + 1)):
        served.add(data)
        assert device.fetch(data) == data
        assert device.advances[0] == 0
        assert device.advances[-1] == len(data)
        assert device.advances == sorted(device.advances)
        device.advances.clear()
    assert device.fetch(b"") == b""
    assert server.server.blocks == 1 + 41 + 1 + 2
    assert device.mailbox.wanted == frozenset()
    assert set(device.waits) <= {None, "broker"}


def test_what_was_fetched_before_is_not_fetched_again(
    server: Running, served: FakeServed, devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeslm.adapters.blocks.FLUSH_BYTES", BLOCK_BYTES)
    monkeypatch.setattr("edgeslm.updater.download.CHECK_S", 0.0)
    served.add(LARGE)
    device = devices()

    def check() -> None:
        if len(device.advances) > 15:
            raise EnoughError

    with pytest.raises(EnoughError):
        device.fetch(LARGE, check=check)
    assert device.mailbox.wanted == frozenset()
    done = device.advances[-1]
    sent = server.server.blocks
    device.advances.clear()
    assert device.fetch(LARGE) == LARGE
    assert device.advances[0] == done
    assert server.server.blocks <= sent + 41 - done // BLOCK_BYTES + 2


def test_what_is_here_needs_no_broker(
    server: Running, served: FakeServed, devices: Devices, mosquitto: Mosquitto
) -> None:
    served.add(LARGE)
    device = devices()
    assert device.fetch(LARGE) == LARGE
    mosquitto.stop()
    assert device.fetch(LARGE) == LARGE
    assert server.server.blocks == 41


def test_a_blob_that_the_server_has_not_is_said_to_be_missing(
    server: Running, devices: Devices
) -> None:
    began = time.monotonic()
    with pytest.raises(MissingBlobError, match="fleet publish"):
        devices().fetch(LARGE)
    assert time.monotonic() - began < 20
    assert server.server.refused["unknown_blob"] == download.MISSING


def test_a_blob_that_one_of_two_servers_has_comes_whole(
    server: Running, served: FakeServed, devices: Devices, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Where the folder was copied, a difference lies in one of the two alone."""
    served.add(LARGE)
    lacks = Running(FakeServed(tmp_path / "copy"), mosquitto.port)
    try:
        device = devices()
        for seed in range(2, 50):  # until it hears its share
            served.add(noise(1000, seed))
            assert device.fetch(noise(1000, seed)) == noise(1000, seed)
            if lacks.server.refused["unknown_blob"]:
                break
        assert lacks.server.refused["unknown_blob"], "it has its share of the requests"
        assert device.fetch(LARGE) == LARGE
        assert server.server.blocks
    finally:
        lacks.stop()


def test_one_who_says_that_it_is_missing_without_being_asked_ends_nothing(
    server: Running, served: FakeServed, devices: Devices
) -> None:
    served.add(LARGE)
    device, liar = devices(), devices("liar")
    blob = hashlib.sha256(LARGE).hexdigest()
    missing = Missing(schema=1, blob=blob).model_dump_json(by_alias=True).encode()

    def check() -> None:
        for _ in range(2 * download.MISSING):
            liar.mailbox.send(Topics(ROOT, "dev").answer("missing"), missing)
        liar.mailbox.wait(0.01)

    assert device.fetch(LARGE, check=check) == LARGE
    assert server.server.blocks >= 41


@pytest.mark.parametrize("ends", ["time", "hours", "stop"])
def test_what_came_is_on_disk_soon_and_at_every_pause(
    served: FakeServed,
    server: Running,
    devices: Devices,
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
) -> None:
    monkeypatch.setattr(download, "FLUSH_S", 0.5 if ends == "time" else 3600.0)
    served.add(LARGE)
    device = devices(rate_kb_s=200)
    blob = hashlib.sha256(LARGE).hexdigest()
    flushed: list[int] = []

    def check() -> None:
        if not device.advances or device.advances[-1] < 3 * BLOCK_BYTES:
            return
        if ends == "hours":
            monkeypatch.setattr(device.fetcher, "may_fetch", lambda: False)
        map_ = (tmp / f"{blob}.map").read_bytes()
        flushed.append(sum(byte.bit_count() for byte in map_[60:]))
        if ends == "stop" or flushed[-1] or len(flushed) > 12:
            raise EnoughError

    tmp = device.folder / device.name
    with pytest.raises(EnoughError):
        device.fetch(LARGE, check=check)
    if ends != "stop":
        assert flushed[-1] >= 2
    assert len(device.store.begin(blob, len(LARGE), hashes(LARGE)).here()) >= 3
    assert server.server.blocks


def test_that_another_server_has_it_not_is_no_matter(
    server: Running, served: FakeServed, devices: Devices
) -> None:
    served.add(LARGE)
    device = devices()
    liar = devices("liar")

    def check() -> None:
        answers = Topics(ROOT, "dev").answer("missing")
        blob = hashlib.sha256(LARGE).hexdigest()
        for payload in (f'{{"blob": "{blob}"}}', '{"blob": "x"}', "", f'{{"blob": "{"0" * 64}"}}'):
            liar.mailbox.send(answers, payload.encode())
        liar.mailbox.wait(0.01)

    assert device.fetch(LARGE, check=check) == LARGE
    assert server.server.blocks >= 41


def test_a_server_that_lacks_it_beside_one_that_has_it_is_no_end(devices: Devices) -> None:
    """Each request is answered by both: they share the work, and one is behind."""
    blob = hashlib.sha256(LARGE).hexdigest()
    device, both = devices(), devices("both")
    done = threading.Event()

    def serve() -> None:
        both.mailbox.subscribe(frozenset({FLEET.want(blob)}))
        while not done.is_set():
            for message in both.mailbox.wait(0.05):
                missing = Missing(schema=1, blob=blob).model_dump_json(by_alias=True).encode()
                for first, last in Want.model_validate_json(message.payload).ranges:
                    both.mailbox.send(Topics(ROOT, "dev").answer("missing"), missing)
                    for block in range(first, last + 1):
                        data = LARGE[block * BLOCK_BYTES :][:BLOCK_BYTES]
                        both.mailbox.send(FLEET.blob(blob), codec.pack(block, len(LARGE), data))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert device.fetch(LARGE) == LARGE
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("broker", [True, False])
def test_nothing_for_too_long_is_an_end(
    mosquitto: Mosquitto, devices: Devices, *, broker: bool
) -> None:
    if not broker:
        mosquitto.stop()
    device = devices(stall_s=1.0)
    with pytest.raises(StalledError, match=r"nothing came for 1 s"):
        device.fetch(LARGE)
    assert device.waits[-1] is None
    assert ("server" if broker else "broker") in [*device.waits, "server"]


def test_it_waits_for_a_server_that_begins_later(
    served: FakeServed, devices: Devices, mosquitto: Mosquitto
) -> None:
    served.add(SMALL)
    device = devices()
    started: list[Running] = []

    def check() -> None:
        if "server" in device.waits and not started:
            started.append(Running(served, mosquitto.port))

    device.mailbox.subscribe(frozenset({FLEET.index}))
    assert device.fetch(SMALL, check=check) == SMALL
    started[0].stop()
    assert device.waits[-1] is None
    assert {message.topic for message in device.heard} == {FLEET.index}


def test_bytes_that_are_not_the_blobs_are_ignored(
    server: Running, served: FakeServed, devices: Devices
) -> None:
    blob = served.add(LARGE)
    device, liar = devices(), devices("liar")
    size = len(LARGE)
    wrong = [
        b"",
        b"noise",
        codec.pack(0, size, bytes(BLOCK_BYTES)),
        codec.pack(39, size, bytes(BLOCK_BYTES)),
        codec.pack(41, size + 10 * BLOCK_BYTES, bytes(BLOCK_BYTES)),
        codec.pack(0, 5, b"12345"),
        codec.pack(2**32 - 1, size, b""),
    ]
    stop = threading.Event()

    def lie() -> None:
        while not stop.is_set():
            for payload in wrong:
                liar.mailbox.send(FLEET.blob(blob), payload, qos=0)
            liar.mailbox.wait(0.005)

    thread = threading.Thread(target=lie)
    thread.start()
    try:
        assert device.fetch(LARGE) == LARGE
    finally:
        stop.set()
        thread.join()
    assert device.fetcher.ignored > 0
    assert server.server.blocks <= 41 + 4


def test_without_a_list_a_wrong_block_shows_in_the_whole_and_all_comes_again(
    served: FakeServed, devices: Devices, mosquitto: Mosquitto
) -> None:
    data = noise(3 * BLOCK_BYTES)
    blob = served.add(data)
    device, liar = devices(), devices("liar")
    servers: list[Running] = []

    def lie() -> None:
        if device.advances[-1:] == [0] and not servers:
            liar.mailbox.send(FLEET.blob(blob), codec.pack(1, len(data), bytes(BLOCK_BYTES)))
            liar.mailbox.wait(0.1)
        elif not servers:
            servers.append(Running(served, mosquitto.port))

    assert device.fetch(data, listed=(), check=lie) == data
    assert servers[0].server.blocks >= 5
    servers[0].stop()


def test_bytes_that_are_never_it_are_an_end(
    server: Running, served: FakeServed, devices: Devices
) -> None:
    data = noise(3 * BLOCK_BYTES)
    other = noise(3 * BLOCK_BYTES, seed=2)
    blob = hashlib.sha256(data).hexdigest()
    (served.blobs / blob).write_bytes(other)
    with pytest.raises(DamagedBlobError, match=blob):
        devices().fetch(data, listed=())
    assert server.server.blocks == 6


def test_outside_its_hours_nothing_is_asked_for(
    server: Running, served: FakeServed, devices: Devices
) -> None:
    served.add(LARGE)
    hour = int(ALWAYS_CLOSED[:2])
    device = devices(hours=[f"{hour:02}:00-{hour:02}:01"], stall_s=1.0)
    until = time.monotonic() + 1.5

    def check() -> None:
        if time.monotonic() > until:
            raise EnoughError

    with pytest.raises(EnoughError):
        device.fetch(LARGE, check=check)
    assert "window" in device.waits
    assert server.server.blocks == 0


def test_a_rate_is_kept(server: Running, served: FakeServed, devices: Devices) -> None:
    data = noise(8 * BLOCK_BYTES)
    served.add(data)
    device = devices(rate_kb_s=512, window_kb=256)
    began = time.monotonic()
    assert device.fetch(data) == data
    assert time.monotonic() - began >= 7 / 4 - 1.1  # a second's worth may be saved up
    assert server.server.blocks == 8


def test_devices_share_what_is_sent(server: Running, served: FakeServed, devices: Devices) -> None:
    data = noise(100 * BLOCK_BYTES)
    served.add(data)
    made = [devices(f"dev{i}") for i in range(4)]
    found: dict[str, bytes] = {}

    def run(device: Device) -> None:
        found[device.name] = device.fetch(data)

    threads = [threading.Thread(target=run, args=[device]) for device in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[device.name] == data for device in made)
    assert server.server.blocks <= 130


def test_it_goes_on_after_each_lost_connection(
    server: Running,
    served: FakeServed,
    devices: Devices,
    mosquitto: Mosquitto,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What was asked for on a lost connection is known to be lost, without waiting for it.
    monkeypatch.setattr("edgeslm.core.block_window.SILENCE_S", 100.0)
    monkeypatch.setattr("edgeslm.core.block_window.LONGEST_S", 100.0)
    data = noise(200 * BLOCK_BYTES)
    served.add(data)
    proxy = Proxy(mosquitto.port)
    device = devices(port=proxy.port)
    cuts = [0.2, 0.5, 0.8]

    def check() -> None:
        if cuts and device.advances[-1] > cuts[0] * len(data):
            cuts.pop(0)
            proxy.cut()

    assert device.fetch(data, check=check) == data
    proxy.close()
    assert server.server.blocks <= 200 + 3 * 20


def test_a_full_disk_is_told_and_nothing_is_left_subscribed(
    server: Running, served: FakeServed, devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.add(LARGE)
    device = devices()

    def full(*_: object) -> bool:
        msg = "no room"
        raise DiskFullError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(FileDownload, "put", full)
        with pytest.raises(DiskFullError):
            device.fetch(LARGE)
    assert device.mailbox.wanted == frozenset()
    assert device.fetch(LARGE) == LARGE
    del server


def test_the_time_is_asked_for_until_an_answer_is_taken(
    served: FakeServed, devices: Devices, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeslm.updater.download.ASK_AGAIN_S", 0.2)
    device, liar = devices(), devices("liar")
    servers: list[Running] = []

    def read(payload: bytes) -> float | None:
        reply = TimeReply.model_validate_json(payload)
        return reply.time if reply.nonce == NONCE else None

    def begin() -> None:
        time.sleep(0.5)
        for payload in (
            b"noise",
            TimeReply(device="dev", nonce="0" * 32, time=1.0).model_dump_json().encode(),
        ):
            liar.mailbox.send(Topics(ROOT, "dev").answer("time"), payload)
        liar.mailbox.wait(0.1)
        servers.append(Running(served, mosquitto.port))

    thread = threading.Thread(target=begin)
    thread.start()
    ask = Ask(device="dev", nonce=NONCE, time=True)
    found = device.fetcher.ask("time", ask, read, timeout_s=10)
    thread.join()
    servers[0].stop()
    assert found == pytest.approx(time.time(), abs=10)
    assert device.fetcher.ignored >= 1
    assert device.fetcher.ask("time", ask, read, timeout_s=0.3) is None


def test_a_delta_is_offered_where_it_is_much_shorter(
    server: Running, served: FakeServed, devices: Devices
) -> None:
    device = devices()
    changed = bytearray(LARGE)
    changed[1000:1100] = bytes(100)
    new = bytes(changed)
    have, want, other = served.add(LARGE), served.add(new), served.add(noise(len(LARGE), seed=3))
    offer = device.fetcher.ask_delta(want, ["0" * 64, have], timeout_s=20)
    assert offer is not None
    assert (offer.have, offer.algorithm) == (have, "bytes-zstd")
    assert offer.size < len(LARGE) / 100
    assert offer.blob is not None
    path = device.fetcher.fetch(offer.blob, offer.size)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == offer.blob
    assert device.fetcher.ask_delta(want, [other], timeout_s=20) is None
    assert device.fetcher.ask_delta(want, ["1" * 64], timeout_s=20) is None
    assert device.fetcher.ask_delta("2" * 64, [have], timeout_s=20) is None
    assert server.server.refused == {}
