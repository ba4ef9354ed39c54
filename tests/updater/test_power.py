"""The whole updater on a disk whose power is cut at every flush, and between them."""

from __future__ import annotations

import gc
import os
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from edgeslm import tasks
from edgeslm.errors import EdgeSLMError
from tests import kills, powercut
from tests.powercut import Cut, Recording, Write
from tests.updater.scripted import ScriptedAgent
from tests.updater.whole import MODEL, Fleet, comes_up, command

TASKS = Path(__file__).parents[1] / "agent" / "tasks"
ENV = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
MEGABYTES = 48
JOURNAL_S = 1.5  # within which the file system writes its journal by itself
LEAST, UPDATED = 60, 12  # states, and those of them that are updated
CONTROLS, CONTROLS_UPDATED = 40, 6


class Bench:
    """A device whose folder is a disk; it runs version 1 and is offered version 2."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = folder / "image"
        self.device = folder / "device"
        self.run = folder / "run"
        self.run.mkdir()
        # Models come from slots alone: one that is lost is not made up for by the settings.
        self.fleet = Fleet(folder / "fleet", runtime_dir=self.run, models={})
        for version in (1, 2):
            self.fleet.offer(version)
        self.fleet.assign(1)
        one = self.fleet.stick("one")
        self.fleet.assign(2)
        self.two = self.fleet.stick("two")
        powercut.make_image(self.image, MEGABYTES)
        with powercut.mounted(self.image, self.device):
            self.config = self.fleet.configure(self.device)
            self.expect(one, 1)

    def record(self, flushes: str | None = None) -> tuple[Recording, int]:
        """Update a copy to version 2; return also how many flushes were done when that was said.

        Args:
            flushes: those that the updater does: see with_flushes.py; None: all.
        """
        copy = self.folder / "copy"
        powercut.write_image(copy, self.image.read_bytes())
        with powercut.recorded(copy, self.device) as recording:
            assert not (why := self.update(self.two, flushes)), why
            done = recording.flushes()
            time.sleep(JOURNAL_S)
        return recording, done

    def update(self, stick: Path, flushes: str | None = None) -> str:
        """Update; return why it failed, nothing if it did not."""
        argv, env = command(self.config, stick), ENV
        if flushes is not None:
            argv = ["tests.updater.with_flushes" if arg == "edgeslm" else arg for arg in argv]
            env = {**ENV, "EDGESLM_TEST_FLUSHES": flushes}
        with ScriptedAgent(self.run / "control.sock") as agent:
            agent.serving[MODEL] = ("0" * 64, False)
            done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        return f"status {done.returncode}: {done.stderr[-500:]}" if done.returncode else ""

    def expect(self, stick: Path, version: int) -> None:
        """Whatever happened: the next update succeeds, and leaves nothing lying about."""
        assert not (why := self.update(stick)), why
        assert comes_up(self.config) == version
        left = sorted(path.name for path in (self.device / "updater").iterdir())
        assert left == ["bundles", "lock", "slots.json", "trust"], left

    def after(self, recording: Recording, cut: Cut, *, update: bool) -> int | str:
        """Return which version comes up after a power cut; if that is bad, what it is."""
        image = self.folder / "cut"
        powercut.write_image(image, recording.image(cut))
        try:
            with powercut.mounted(image, self.device):
                try:
                    version = comes_up(self.config)
                    if update:
                        self.expect(self.two, 2)
                except (AssertionError, EdgeSLMError, LookupError, OSError) as err:
                    return f"{type(err).__name__}: {err}"
                finally:
                    gc.collect()  # a model may keep its files open
        finally:
            image.unlink()
        return version if version in {1, 2} else f"version {version}"

    def states(
        self, recording: Recording, cuts: Sequence[Cut], updated: int
    ) -> dict[Cut, int | str]:
        chosen = kills.some(cuts, updated)
        return {cut: self.after(recording, cut, update=cut in chosen) for cut in cuts}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    powercut.need_block_log()
    tasks.__path__.append(str(TASKS))
    try:
        yield Bench(tmp_path_factory.mktemp("power"))
    finally:
        tasks.__path__.remove(str(TASKS))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_power_cut_at_any_flush_leaves_old_or_new(bench: Bench) -> None:
    recording, done = bench.record()
    cuts = powercut.cuts(recording.log)
    assert len(cuts) >= LEAST
    states = bench.states(recording, cuts, UPDATED)
    bad = {str(cut): found for cut, found in states.items() if isinstance(found, str)}
    assert not bad, f"{len(bad)} of {len(states)}: {bad}"
    assert set(states.values()) == {1, 2}
    at_flushes = [states[cut] for cut in cuts if not cut.kept]
    assert at_flushes == sorted(at_flushes, key=str), "what had come up is gone"
    assert {found for cut, found in states.items() if cut.flushes >= done} == {2}, "said too early"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("flushes", ["none", "folders"])
def test_one_that_does_not_flush_is_found_out(bench: Bench, flushes: str) -> None:
    """Else the test above would prove nothing."""
    recording, _ = bench.record(flushes)
    cuts = kills.some(powercut.cuts(recording.log, between=12), CONTROLS)
    states = bench.states(recording, cuts, CONTROLS_UPDATED)
    bad = [found for found in states.values() if isinstance(found, str)]
    assert bad, f"all of {len(states)} states are good"


def test_a_cut_keeps_what_was_flushed_and_nothing_that_was_not_written() -> None:
    size = powercut.PIECE_BYTES
    texts = [[b"a"], [], [b"b", b"c", b"d", b"e"], [b"f", b"g"]]
    places = iter([0, 1, 2, 3, 0, 4, 5])
    log = [[Write(next(places) * size, text * size) for text in each] for each in texts]
    recording = Recording(bytes(6 * size), Path(), log)
    found = {}
    for cut in powercut.cuts(log, between=8):
        found[cut] = recording.image(cut)[::size]
        flushed = b"".join(b"".join(each) for each in texts[: cut.flushes])
        written = flushed + b"".join(texts[cut.flushes])
        assert set(found[cut]) - {0} <= set(written)
        assert set(flushed) - set(found[cut]) <= set(b"a")  # written over by e
    assert found[Cut(0, ())] == bytes(6)
    assert found[Cut(2, ())] == b"a\0\0\0\0\0"
    assert found[Cut(3, ())] == b"ebcd\0\0"
    assert found[Cut(3, (0, 1))] == b"ebcdfg"
    assert len({bytes(image) for image in found.values()}) > 8


def test_a_log_is_read(tmp_path: Path) -> None:
    sector = 512
    entries = [(8, 9, 0), (0, 0, 1), (16, 1, 4), (24, 1, 2)]  # first sector, sectors, flags
    raw = struct.pack("<QQQI", 0x6A736677736872, 1, len(entries), sector).ljust(sector, b"\0")
    for number, (first, sectors, flags) in enumerate(entries, start=1):
        raw += struct.pack("<QQQQ", first, sectors, flags, 0).ljust(sector, b"\0")
        raw += b"" if flags & 4 else bytes([number]) * sectors * sector
    file = tmp_path / "log"
    file.write_bytes(raw + bytes(sector))
    assert powercut.read_log(file) == [
        [Write(8 * sector, b"\1" * 4096), Write(16 * sector, b"\1" * sector)],
        [Write(16 * sector, bytes(sector)), Write(24 * sector, b"\4" * sector)],
    ]
    for broken in (b"\0" + raw[1:], raw[:-1]):
        file.write_bytes(broken)
        with pytest.raises(OSError, match=r"not a log|cut short"):
            powercut.read_log(file)
