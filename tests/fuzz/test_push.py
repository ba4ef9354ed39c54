"""What comes in over MQTT while a model is pushed, on a device and at the fleet's server."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from pathlib import Path

import bsdiff4
import zstandard

from edgeslm.adapters.blocks import FileBlockStore
from edgeslm.adapters.clock import SystemClock
from edgeslm.adapters.delta import DeltaError, patch
from edgeslm.contract.fleet import BLOCK_BYTES, Algorithm
from edgeslm.contract.topics import FleetTopics
from edgeslm.core import block as codec
from edgeslm.fleet.server import Server
from edgeslm.ports import Arrived, DamagedBlobError, Received, Up
from tests.fleet.served import ROOT, FakeServed
from tests.fleet.test_server import FakeLink
from tests.fuzz.harness import fuzz

NONCE = "0123456789abcdef" * 2
OLD = random.Random(1).randbytes(3000)  # noqa: S311 -- bytes like a model's
NEW = OLD[:1000] + b"a new head, as long" + OLD[1019:]


def test_blocks(tmp_path: Path, targets: int) -> None:
    """Nothing but the block itself is ever kept."""
    data = random.Random(2).randbytes(600)  # noqa: S311
    blob = hashlib.sha256(data).hexdigest()
    store = FileBlockStore(tmp_path / "download")

    def parse(raw: bytes) -> None:
        block = codec.unpack(raw)
        if block is None:
            return
        assert len(block.data) == codec.length_of(block.number, block.size) > 0
        download = store.begin(blob, len(data), ())
        try:
            if download.put(block.number, block.data):
                assert bytes(block.data) == data
                assert download.finish().read_bytes() == data
        finally:
            download.close()
            store.sweep()

    fuzz(parse, [codec.pack(0, len(data), data)], targets=targets)


def test_maps_of_what_is_here(tmp_path: Path, targets: int) -> None:
    """Whatever lies there, the blob comes out right or is known to be damaged."""
    data = random.Random(3).randbytes(9 * BLOCK_BYTES)  # noqa: S311
    blob = hashlib.sha256(data).hexdigest()
    folder = tmp_path / "download"
    store = FileBlockStore(folder)
    download = store.begin(blob, len(data), ())
    download.put(3, data[3 * BLOCK_BYTES :][:BLOCK_BYTES])
    download.flush()
    download.close()
    map_ = folder / f"{blob}.map"
    whole = map_.read_bytes()

    def parse(raw: bytes) -> None:
        if raw == whole or (zlib.crc32(raw[:56]) == zlib.crc32(whole[:56])):
            raw = whole[:60] + raw[60:62].ljust(2, b"\0")
        map_.write_bytes(raw)
        opened = store.begin(blob, len(data), ())
        try:
            assert opened.missing == 9 - len(opened.here())
            for block in {*range(9)} - set(opened.here()):
                opened.put(block, data[block * BLOCK_BYTES :][:BLOCK_BYTES])
            assert opened.finish().read_bytes() == data
        finally:
            opened.close()

    fuzz(parse, [whole], allowed=(DamagedBlobError,), targets=targets)


def fuzz_deltas(folder: Path, algorithm: Algorithm, delta: bytes, targets: int) -> None:
    old, change, new = folder / "old", folder / "delta", folder / "new"
    old.write_bytes(OLD)
    sha256 = hashlib.sha256(NEW).hexdigest()

    def parse(raw: bytes) -> None:
        new.unlink(missing_ok=True)
        change.write_bytes(raw)
        try:
            patch(algorithm, old, change, new, size=len(NEW), sha256=sha256)
        except DeltaError:
            assert not new.exists()
            raise
        assert new.read_bytes() == NEW

    fuzz(parse, [delta], allowed=(DeltaError,), targets=targets)


def test_differences_of_bytes(tmp_path: Path, targets: int) -> None:
    change = bytes((b - a) % 256 for a, b in zip(OLD, NEW, strict=True))
    fuzz_deltas(tmp_path, "bytes-zstd", zstandard.compress(change), targets)


def test_patches(tmp_path: Path, targets: int) -> None:
    fuzz_deltas(tmp_path, "bsdiff", bsdiff4.diff(OLD, NEW), targets)


def test_requests_at_the_server(tmp_path: Path, targets: int) -> None:
    """Each is answered, or counted; none is both, and no answer goes where no device can be."""
    served = FakeServed(tmp_path)
    blob = served.add(bytes(3 * BLOCK_BYTES))
    links: list[FakeLink] = []

    def connect(sink: object) -> FakeLink:
        links.append(FakeLink(sink))  # type: ignore[arg-type]
        return links[0]

    server = Server(served, connect, root=ROOT, clock=SystemClock(), publishes=False)
    topics = FleetTopics(ROOT)

    def step(report: Arrived | Up) -> None:
        links[0].sink(report)
        server.step()

    step(Up(1, session_present=False))

    def parse(raw: bytes) -> None:
        for topic in (topics.want(blob), topics.ask, topics.want("0" * 64)):
            message = Received(topic, raw, 1, 1, False, False, 1, 0.0)  # noqa: FBT003
            links[0].sent.clear()
            step(Arrived([message]))
            for letter in links[0].sent:
                assert letter.topic.startswith(f"{ROOT}/")
                assert not letter.retain
                assert not {"+", "#", ""} & set(letter.topic.split("/"))
        step(Up(1, session_present=False))

    seeds = [
        {"schema": 1, "device": "dev", "ranges": [[0, 1], [2, 2]], "again": True},
        {"schema": 1, "device": "dev", "nonce": NONCE, "time": True},
        {"device": "dev", "nonce": NONCE, "delta": {"want": blob, "have": ["0" * 64]}},
    ]
    try:
        fuzz(parse, [json.dumps(each).encode() for each in seeds], targets=targets)
    finally:
        server.close()
