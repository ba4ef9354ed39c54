"""A delta is made once, kept, and never in the way."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Full, Queue

import pytest

from edgeslm.adapters.delta import patch
from edgeslm.fleet import deltas
from edgeslm.fleet.deltas import Delta, DeltaMaker

WAIT_S = 20.0
OLD = random.Random(1).randbytes(200_000)  # noqa: S311 -- bytes like a model's
NEW = OLD[:-100] + bytes(100)


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    folder = tmp_path / "blobs"
    folder.mkdir()
    return folder


def stored(blobs: Path, data: bytes) -> str:
    blob = hashlib.sha256(data).hexdigest()
    (blobs / blob).write_bytes(data)
    return blob


class Maker:
    """A `DeltaMaker`, and what it has made."""

    def __init__(self, folder: Path) -> None:
        self.made: Queue[Delta] = Queue()
        self.maker = DeltaMaker(folder, folder / "blobs", self.made.put)

    def get(self, want: str, have: str) -> Delta:
        found = self.maker.ask(want, have)
        if found is None:
            found = self.made.get(timeout=WAIT_S)
            self.maker.settle(found)
        return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Maker]]:
    made: list[Maker] = []

    def make() -> Maker:
        made.append(Maker(tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.maker.close()


Start = Callable[[], Maker]


def test_it_leads_where_it_says_and_is_kept(start: Start, blobs: Path, tmp_path: Path) -> None:
    have, want = stored(blobs, OLD), stored(blobs, NEW)
    delta = start().get(want, have)
    assert delta.algorithm is not None
    assert delta.blob is not None
    file = blobs / delta.blob
    assert file.stat().st_size == delta.size < 1000
    assert hashlib.sha256(file.read_bytes()).hexdigest() == delta.blob
    patch(delta.algorithm, blobs / have, file, tmp_path / "n", size=len(NEW), sha256=want)
    another = start()
    assert another.maker.ask(want, have) == delta
    file.unlink()
    assert another.maker.ask(want, have) is None
    assert another.made.get(timeout=WAIT_S) == delta


def test_that_none_is_worth_its_while_is_kept_too(start: Start, blobs: Path) -> None:
    other = stored(blobs, random.Random(2).randbytes(len(OLD)))  # noqa: S311
    have = stored(blobs, OLD)
    delta = start().get(other, have)
    assert delta.algorithm is None
    assert start().maker.ask(other, have) == delta


def test_long_files_of_other_lengths_are_left_to_their_blocks(
    start: Start, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deltas, "MAX_BSDIFF_BYTES", 1000)
    assert start().get(stored(blobs, NEW + b"x"), stored(blobs, OLD)).algorithm is None


def test_a_file_that_goes_meanwhile_is_no_delta_and_may_be_asked_for_again(
    start: Start, blobs: Path
) -> None:
    want, have = stored(blobs, NEW), stored(blobs, OLD)
    (blobs / have).unlink()
    maker = start()
    assert maker.get(want, have).algorithm is None
    stored(blobs, OLD)
    assert maker.get(want, have).algorithm == "bytes-zstd"


def test_requests_without_end_are_refused_and_each_is_made_once(
    start: Start, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deltas, "make", lambda *_: time.sleep(0.05))
    have, want = stored(blobs, OLD), stored(blobs, NEW)
    maker = start()
    for _ in range(100):
        assert maker.maker.ask(want, have) is None

    def ask_for_many() -> None:
        for i in range(deltas.MAX_WAITING + 2):
            maker.maker.ask(want, f"{i:064}")

    with pytest.raises(Full):
        ask_for_many()


def test_all_together_they_are_bounded(
    start: Start, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deltas, "MAX_KEPT_BYTES", 1000)
    maker, have = start(), stored(blobs, OLD)
    for i in range(6):
        new = OLD[:-200] + random.Random(i).randbytes(200)  # noqa: S311
        delta = maker.get(stored(blobs, new), have)
        assert delta.size > 150
        time.sleep(0.02)  # so that their files have ages
    kept = list((tmp_path / "deltas").glob("*.json"))
    assert len(kept) <= 1000 // 150
    sizes = [Delta.model_validate_json(path.read_bytes()).size for path in kept]
    assert sum(sizes) <= 1000
    assert not list((tmp_path / "deltas").glob(".*"))
