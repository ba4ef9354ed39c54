"""Files of our own, as a power cut, a full disk or a stranger may leave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeslm.adapters.outbox import SqliteOutbox
from edgeslm.adapters.ring import Ring, digest
from edgeslm.core.backlog import Thinner, to_expire
from edgeslm.ports import OutboxUnavailableError
from tests.fuzz.harness import fuzz


def test_ring_files(tmp_path: Path, targets: int) -> None:
    file = tmp_path / "ring"
    ring = Ring(file, unacknowledged=1)
    for mid in range(1, 50):
        ring.record(mid, digest("t", b"payload"))
    ring.close()
    whole = file.read_bytes()

    def parse(raw: bytes) -> None:
        # The size is kept: with another the file is simply made anew.
        file.write_bytes(raw.ljust(len(whole), b"\0")[: len(whole)] if raw else raw)
        opened = Ring(file, unacknowledged=1)
        try:
            sequence = opened.record(7, digest("t", b"new"))
            assert opened.find(7, digest("t", b"new")) == sequence
            opened.begin(sequence)
            assert opened.attempts(sequence) == 1
            opened.done(sequence)
        finally:
            opened.close()

    head = whole[:64]
    fuzz(parse, [head, whole[:1024]], targets=targets)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_outbox_files(tmp_path: Path, targets: int) -> None:
    file = tmp_path / "outbox.db"
    outbox = SqliteOutbox(file, max_rows=100, max_bytes=100_000)
    for alert in (True, False):
        row = ("t", b"payload" * 20, {"UserProperty": [["a", "b"]]})
        outbox.append([row] * 20, alert=alert)
    outbox.give_up([1], reason="evicted", results=1)
    outbox.close()
    whole = file.read_bytes()

    def parse(raw: bytes) -> None:
        for left in tmp_path.iterdir():
            left.unlink()
        file.write_bytes(raw)
        opened = SqliteOutbox(file, max_rows=100, max_bytes=100_000)
        try:
            thinner = Thinner(60.0)
            opened.thin(thinner.take(opened.peek(10, after=0, alert=False)), reason="thinned")
            opened.give_up([], reason="evicted", results=1)
            assert opened.given_up["evicted"] >= 1
            to_expire(opened.oldest(100, after=0), max_age_s=60)
            for alert in (True, False):
                rows = opened.peek(100, after=0, alert=alert)
                opened.remove([row[0] for row in rows], alert=alert)
                assert opened.append([("t", b"x", {})], alert=alert)
        finally:
            opened.close()

    fuzz(parse, [whole], allowed=(OutboxUnavailableError,), targets=targets)


def test_rows_that_are_summed_up(targets: int) -> None:
    """No page of a database has a checksum: any byte of a result may be another."""
    about = {"schema": 1, "id": "d:a:1", "device": "d", "topic": "t", "source": "a", "task": "x"}
    ref = {"name": "m", "version": 1, "hash": "h"}
    times = {"time_in": 1.0, "time_out": 1.0, "latency_ms": 1.0, "time_mono": 1.0, "boot": "b"}
    one = {**about, **times, "model": ref, "label": "normal", "score": 1.5}
    whole = json.dumps(one, separators=(",", ":")).encode()
    [summed] = Thinner(60.0).take([(n, "r", whole, {}) for n in (1, 2)]).grown

    def parse(raw: bytes) -> None:
        rows = [raw, whole, raw, summed.payload, raw, whole]
        thinned = Thinner(60.0).take([(n, "r", one, {}) for n, one in enumerate(rows)])
        assert thinned.grown, "what is whole is summed up"

    fuzz(parse, [whole, summed.payload], targets=targets)
