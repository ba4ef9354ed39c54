"""What a broker holds is taken as it is, bounded, and believed by signature alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from edgeslm.adapters.clock import SystemClock
from edgeslm.adapters.delta import DeltaError
from edgeslm.contract.fleet import MAX_SIGNED_BYTES, Ask, BlobFile, DeltaOffer
from edgeslm.contract.settings import AgentSettings, UpdateSettings
from edgeslm.contract.topics import FleetTopics
from edgeslm.core.trust import ClockUntrustedError
from edgeslm.core.update import SupersededError
from edgeslm.errors import EdgeSLMError
from edgeslm.ports import (
    DamagedBlobError,
    DiskFullError,
    NotThereError,
    Received,
    TrustedMetadata,
)
from edgeslm.updater import broker
from edgeslm.updater.broker import BrokerSource, BrokerSupply, MetadataAwayError
from edgeslm.updater.download import MissingBlobError, StalledError
from tests.runtime import tiny
from tests.updater.offers import offer

SETTINGS = AgentSettings(device_id="d")
FLEET = FleetTopics(SETTINGS.topics.root)
ASSIGNMENT = SETTINGS.topics.assignment
TIMESTAMP = FLEET.metadata("timestamp.json")


def received(topic: str, payload: bytes) -> Received:
    return Received(topic, payload, 1, 1, False, True, 1, 0.0, {})  # noqa: FBT003 -- by place


class Box:
    """A mailbox that holds what a test puts into it."""

    def __init__(self) -> None:
        self.connected = True
        self.held: frozenset[str] = frozenset()
        self.wanted: frozenset[str] = frozenset()
        self.coming: list[Received] = []
        self.there: dict[str, bytes] = {}
        self.asked: list[str] = []

    def subscribe(self, filters: frozenset[str]) -> None:
        self.wanted = self.held = filters

    def wait(self, timeout_s: float) -> list[Received]:
        del timeout_s
        came, self.coming = self.coming, []
        return came

    def retained(self, topic: str, *, timeout_s: float, max_bytes: int) -> bytes | None:
        del timeout_s, max_bytes
        self.asked.append(topic)
        return self.there.get(topic)


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Box:
    made = Box()
    monkeypatch.setattr(broker, "open_mailbox", lambda *_: made)
    monkeypatch.setattr(broker, "RETAINED_S", 0.02)
    return made


@pytest.fixture
def source(box: Box, tmp_path: Path) -> BrokerSource:
    del box
    return BrokerSource(SETTINGS, UpdateSettings(), downloads=tmp_path / "d", clock=SystemClock())


def test_news_is_what_differs_and_the_index_is_none(box: Box, source: BrokerSource) -> None:
    for topic, payload, news in (
        (TIMESTAMP, b"1", True),
        (TIMESTAMP, b"1", False),  # comes anew with each connection
        (FLEET.index, b"{}", False),
        (ASSIGNMENT, b"a", True),
        (ASSIGNMENT, b"", True),
        ("elsewhere", b"x", False),
        (ASSIGNMENT, bytes(MAX_SIGNED_BYTES + 1), False),
    ):
        box.coming.append(received(topic, payload))
        assert source.listen(0.0) == news


def test_an_assignment_that_was_taken_away_is_none(box: Box, source: BrokerSource) -> None:
    assert source.assignment() is None
    box.coming = [received(ASSIGNMENT, b"a")]
    source.listen(0.0)
    assert source.assignment() == b"a"
    box.coming = [received(ASSIGNMENT, b"")]
    source.listen(0.0)
    assert source.assignment() is None


def is_ready(source: BrokerSource) -> bool:
    return source.ready


def test_it_is_ready_when_connected_subscribed_and_there_is_a_repository(
    box: Box, source: BrokerSource
) -> None:
    assert not is_ready(source)
    box.coming = [received(TIMESTAMP, b"1")]
    source.listen(0.0)
    assert is_ready(source)
    box.connected = False
    assert not is_ready(source)
    box.connected, box.held = True, box.held - {ASSIGNMENT}
    assert not is_ready(source)


def test_the_timestamp_is_waited_for_and_whoever_waits_is_asked(
    box: Box, source: BrokerSource
) -> None:
    checks = []
    source.check = lambda: checks.append(1)
    with pytest.raises(MetadataAwayError, match="fleet publish"):
        source.metadata("timestamp.json", 1000)
    assert checks
    box.coming = [received(TIMESTAMP, b"1")]
    assert source.metadata("timestamp.json", 1000) == b"1"
    assert not box.asked, "it is one of the session's own"


@pytest.mark.parametrize(
    ("index", "asks"),
    [
        (b'{"schema":1,"root":2}', False),
        (b'{"schema":1,"root":3}', True),
        (b"", True),
        (b"no index", True),
        (b'{"schema":1,"root":"2"}', True),
        (None, True),
    ],
)
def test_the_end_of_the_roots_is_known_by_the_index_or_looked_for(
    box: Box,
    source: BrokerSource,
    index: bytes | None,
    asks: bool,  # noqa: FBT001 -- a column
) -> None:
    if index is not None:
        box.coming = [received(FLEET.index, index)]
    with pytest.raises(NotThereError):
        source.metadata("3.root.json", 1000)
    assert box.asked == ([FLEET.metadata("3.root.json")] if asks else [])


def test_what_is_named_and_not_there_is_away_for_now(box: Box, source: BrokerSource) -> None:
    box.there[FLEET.metadata("7.snapshot.json")] = b"7"
    assert source.metadata("7.snapshot.json", 1000) == b"7"
    with pytest.raises(MetadataAwayError, match=r"8\.snapshot\.json"):
        source.metadata("8.snapshot.json", 1000)


class Clocks:
    """Trusts times that name the device and the nonce."""

    time_floor = 100.0

    def time_of(self, envelope: bytes, *, device: str, nonce: str) -> float:
        said = json.loads(envelope)
        if (said["device"], said["nonce"]) != (device, nonce):
            msg = "for another question"
            raise ClockUntrustedError(msg)
        time: float = said["time"]
        return time


class Server:
    """A fetcher whose servers answer as a test says."""

    def __init__(self, answers: Callable[[Ask], list[bytes]] = lambda _: []) -> None:
        self.answers = answers
        self.asks: list[Ask] = []
        self.delta: DeltaOffer | None = None
        self.fetched: list[str] = []
        self.failing: dict[str, EdgeSLMError] = {}
        self.file = Path()

    def ask(
        self, _kind: str, ask: Ask, read: Callable[[bytes], Any], *, timeout_s: float
    ) -> float | None:
        del timeout_s
        self.asks.append(ask)
        for answer in self.answers(ask):
            try:
                return cast("float", read(answer))
            except ValueError:
                continue
        return None

    def ask_delta(self, want: str, have: Sequence[str], *, timeout_s: float) -> DeltaOffer | None:
        del want, have, timeout_s
        return self.delta

    def fetch(  # noqa: PLR0913 -- as the real one
        self,
        blob: str,
        size: int,
        blocks: Sequence[str] = (),
        *,
        check: Callable[[], None],
        advance: Callable[[int], None] = lambda _: None,
        stall_s: float | None = None,
    ) -> Path:
        del blocks
        check()
        self.fetched.append(blob)
        if blob in self.failing:
            assert stall_s is not None, "a difference is not waited for as long as the blocks are"
            assert stall_s <= broker.DELTA_STALL_S
            raise self.failing[blob]
        for done in (0, size // 3, size):
            advance(done)
        return self.file


def served(source: BrokerSource, server: Server) -> Server:
    source.fetcher = server  # type: ignore[assignment] # as far as it is used here
    return server


def reply(ask: Ask, time: float, **more: str) -> bytes:
    return json.dumps({"device": ask.device, "nonce": ask.nonce, "time": time, **more}).encode()


def test_time_is_asked_for_once_and_other_answers_are_passed_over(
    source: BrokerSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    uptime = 50.0
    monkeypatch.setattr(broker, "since_boot", lambda: uptime)
    waits: list[str | None] = []
    source.waiting = waits.append
    server = served(
        source, Server(lambda ask: [reply(ask, 5e9, nonce="0" * 32), reply(ask, 1000.0)])
    )
    trust = cast("TrustedMetadata", Clocks())
    assert source.now(trust) == 1000.0
    assert waits == ["time", None]
    uptime += 60.0
    assert source.now(trust) == 1060.0
    assert len(server.asks) == 1
    uptime += broker.SETTLED_S
    assert source.now(trust) == 1000.0
    assert len({ask.nonce for ask in server.asks}) == 2, "a nonce serves once"


def test_without_an_answer_there_is_no_time(source: BrokerSource) -> None:
    served(source, Server())
    with pytest.raises(ClockUntrustedError, match="fleet publish"):
        source.now(cast("TrustedMetadata", Clocks()))


# Files.

LARGE = BlobFile(
    path="model.onnx",
    size=broker.DELTA_FROM_BYTES,
    sha256="c" * 64,
)


class Bringing:
    """One file on its way, and a bundle that has one of the same name."""

    def __init__(self, source: BrokerSource, folder: Path) -> None:
        self.server = served(source, Server())
        self.near = tiny.write_bundle(folder / "near")
        self.into = folder / "into"
        self.server.file = folder / "blob"
        self.moved: list[str] = []
        self.advanced: list[int] = []
        self.patched: list[str] = []
        self.swept = 0
        self._source = source
        trust = cast("TrustedMetadata", Clocks())
        self._supply = BrokerSupply(source, trust, offer())

    def run(self, file: BlobFile = LARGE) -> None:
        self._supply.bring(file, self.into, near=[self.near], advance=self.advanced.append)


@pytest.fixture
def bringing(source: BrokerSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bringing:
    made = Bringing(source, tmp_path)

    class Store:
        def held(self, sha256: str) -> int:
            del sha256
            return 0

        def move(self, sha256: str, into: Path) -> None:
            made.moved.append(sha256)
            assert not into.exists(), "nothing of a difference that failed is left"

        def sweep(self, keep: set[str]) -> None:
            assert LARGE.sha256 in keep
            made.swept += 1

    monkeypatch.setattr(source, "store", Store())
    return made


def difference(size: int) -> DeltaOffer:
    said = {"schema": 1, "nonce": "0" * 32, "want": LARGE.sha256, "have": "a" * 64}
    said |= {"blob": "d" * 64, "size": size, "algorithm": "bsdiff"}
    return DeltaOffer.model_validate_json(json.dumps(said))


def test_a_file_is_made_of_a_difference_where_that_is_short(
    bringing: Bringing, monkeypatch: pytest.MonkeyPatch
) -> None:
    bringing.server.delta = difference(LARGE.size // 10)
    monkeypatch.setattr(broker, "patch", lambda *_, sha256, **__: bringing.patched.append(sha256))
    bringing.run()
    assert (bringing.server.fetched, bringing.patched) == (["d" * 64], [LARGE.sha256])
    assert (bringing.advanced, bringing.moved) == ([LARGE.size], [])


def test_a_difference_that_saves_too_little_is_not_fetched(bringing: Bringing) -> None:
    bringing.server.delta = difference(LARGE.size // 2 + 1)
    bringing.run()
    assert bringing.server.fetched == bringing.moved == [LARGE.sha256]


def test_a_difference_that_is_none_leaves_the_blocks(
    bringing: Bringing, monkeypatch: pytest.MonkeyPatch
) -> None:
    bringing.server.delta = difference(LARGE.size // 10)

    def patch(_algorithm: str, _base: Path, _delta: Path, into: Path, **_: object) -> None:
        into.write_bytes(b"half")
        msg = "not it"
        raise DeltaError(msg)

    monkeypatch.setattr(broker, "patch", patch)
    bringing.run()
    assert bringing.server.fetched == ["d" * 64, LARGE.sha256]
    assert sum(bringing.advanced) == LARGE.size


@pytest.mark.parametrize("error", [MissingBlobError, StalledError, DiskFullError, DamagedBlobError])
def test_a_difference_that_does_not_come_leaves_the_blocks(
    bringing: Bringing, error: type[EdgeSLMError]
) -> None:
    bringing.server.delta = difference(LARGE.size // 10)
    bringing.server.failing["d" * 64] = error("not now")
    bringing.run()
    assert bringing.server.fetched == ["d" * 64, LARGE.sha256]
    assert bringing.moved == [LARGE.sha256]
    assert bringing.swept == 1, "what was fetched of it is gone"


def test_a_newer_assignment_ends_a_difference_and_all_else(bringing: Bringing) -> None:
    bringing.server.delta = difference(LARGE.size // 10)
    bringing.server.failing["d" * 64] = SupersededError("another")
    with pytest.raises(SupersededError):
        bringing.run()
    assert bringing.server.fetched == ["d" * 64]


def test_a_difference_for_which_there_is_no_room_beside_the_file_is_not_fetched(
    bringing: Bringing, monkeypatch: pytest.MonkeyPatch
) -> None:
    bringing.server.delta = difference(LARGE.size // 10)
    asked: list[int] = []

    def missing(_folder: Path, needed: int) -> int:
        asked.append(needed)
        return 1

    monkeypatch.setattr(broker, "missing_bytes", missing)
    bringing.run()
    assert bringing.server.fetched == [LARGE.sha256]
    assert asked == [LARGE.size + LARGE.size // 10 + UpdateSettings().min_free_mb * 2**20]


def test_a_short_file_comes_whole(bringing: Bringing) -> None:
    bringing.server.delta = difference(1)
    bringing.run(LARGE.model_copy(update={"size": LARGE.size - 1}))
    assert bringing.server.fetched == [LARGE.sha256]


def test_what_is_told_adds_up_to_the_file(bringing: Bringing) -> None:
    bringing.run(LARGE)
    assert bringing.advanced == [0, LARGE.size // 3, LARGE.size - LARGE.size // 3]
