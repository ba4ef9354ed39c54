"""Identities outlive the process; a redelivered message is found, another never is."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.adapters import ring as module
from edgeslm.adapters.ring import MIN_CAPACITY, Ring, RingUnavailableError, digest


def opened(path: Path, unacknowledged: int = 512) -> Ring:
    return Ring(path, unacknowledged=unacknowledged)


def test_numbers_rise_and_go_on_after_a_restart(tmp_path: Path) -> None:
    ring = opened(tmp_path / "r")
    assert [ring.record(1, digest("t", b"x")) for _ in range(3)] == [0, 1, 2]
    epoch = ring.epoch
    ring.close()
    again = opened(tmp_path / "r")
    assert again.epoch == epoch
    assert not again.fresh
    assert again.record(2, digest("t", b"y")) == 3
    assert again.find(1, digest("t", b"x")) == 2  # the newest of three
    again.close()


def test_found_by_packet_id_and_content_alone(tmp_path: Path) -> None:
    ring = opened(tmp_path / "r")
    number = ring.record(7, digest("t", b"x"))
    assert ring.find(7, digest("t", b"x")) == number
    assert ring.find(8, digest("t", b"x")) is None
    assert ring.find(7, digest("t", b"y")) is None
    assert ring.find(7, digest("u", b"x")) is None
    ring.close()


def test_the_oldest_is_forgotten_first(tmp_path: Path) -> None:
    ring = opened(tmp_path / "r")
    for i in range(MIN_CAPACITY + 10):
        ring.record(i % 65535 + 1, digest("t", str(i).encode()))
    assert ring.find(10, digest("t", b"9")) is None
    assert ring.find(11, digest("t", b"10")) == 10
    ring.close()


def test_attempts_are_counted_across_lives(tmp_path: Path) -> None:
    for life in range(3):
        ring = opened(tmp_path / "r")
        number = ring.find(1, digest("t", b"bad")) if life else ring.record(1, digest("t", b"bad"))
        assert number is not None
        assert ring.attempts(number) == life
        ring.begin(number)  # and dies
        ring.close()
    ring = opened(tmp_path / "r")
    ring.done(0)
    assert ring.attempts(0) == 0
    ring.close()


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 10, b"\0" * 200_000, b"edgeslm ring 2\0\0" + b"\xff" * 98_352],
    ids=["empty", "short", "zeros", "header"],
)
def test_what_is_no_ring_becomes_a_new_epoch(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r"
    path.write_bytes(content)
    ring = opened(path)
    assert ring.fresh
    assert ring.record(1, digest("t", b"x")) == 0
    ring.close()
    assert not opened(path).fresh


def test_after_a_power_loss_the_ids_are_of_another_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(tmp_path / "r")
    first.record(1, digest("t", b"x"))
    (tmp_path / "boot").write_text("6b1f0f5e-0000-4000-8000-0123456789ab\n")
    monkeypatch.setattr(module, "_BOOT", tmp_path / "boot")
    second = opened(tmp_path / "r")
    assert second.fresh
    assert second.epoch != first.epoch
    monkeypatch.setattr(module, "_BOOT", tmp_path / "missing")
    assert opened(tmp_path / "r").fresh


@pytest.mark.parametrize("counter", [0, 1, MIN_CAPACITY + 5, 2**64 - 1])
def test_a_counter_that_the_entries_contradict_begins_a_new_epoch(
    tmp_path: Path, counter: int
) -> None:
    path = tmp_path / "r"
    ring = opened(path)
    for _ in range(3):
        ring.record(1, digest("t", b"x"))
    ring.close()
    data = bytearray(path.read_bytes())
    data[module._NEXT_AT : module._NEXT_AT + 8] = counter.to_bytes(8, "little")  # noqa: SLF001
    path.write_bytes(data)
    again = opened(path)
    assert again.fresh
    assert again.record(1, digest("t", b"x")) == 0


def test_what_is_in_place_is_found_in_a_ring_of_any_age_and_size(tmp_path: Path) -> None:
    for life in range(2):
        ring = opened(tmp_path / "r", unacknowledged=65_535)
        assert ring.fresh == (life == 0)
        for i in range(150_000):
            ring.record(i % 65_535 + 1, digest("t", str(i).encode()))
        found = [ring.find(i % 65_535 + 1, digest("t", str(i).encode())) for i in range(150_000)]
        first = 150_000 - 131_070
        assert found == [None] * first + [life * 150_000 + i for i in range(first, 150_000)]
        ring.close()


def test_a_larger_window_begins_a_new_epoch(tmp_path: Path) -> None:
    first = opened(tmp_path / "r")
    second = opened(tmp_path / "r", unacknowledged=MIN_CAPACITY)
    assert second.fresh
    assert second.epoch != first.epoch


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RingUnavailableError, match="runtime directory"):
        opened(tmp_path / "missing" / "r")


def test_what_was_recorded_outlives_kill_9(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgeslm.adapters.ring import Ring, digest\n"
        "ring = Ring(Path(sys.argv[1]), unacknowledged=512)\n"
        "n = 0\n"
        "while True:\n"
        "    ring.record(n % 65535 + 1, digest('t', str(n).encode()))\n"
        "    n += 1\n"
        "    if n % 100 == 0: print(n, flush=True)\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "r")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            count = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        count = int(([str(count)] + [x for x in writer.stdout if x.endswith("\n")])[-1])
    ring = opened(tmp_path / "r")
    for i in range(count - 1000, count):
        assert ring.find(i % 65535 + 1, digest("t", str(i).encode())) == i
    assert ring.record(1, digest("t", b"new")) >= count
    ring.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([b"a", b"b", b"c"])), max_size=60))
def test_finds_what_a_plain_list_finds(
    tmp_path_factory: pytest.TempPathFactory, seen: list[tuple[int, bytes]]
) -> None:
    ring = opened(tmp_path_factory.mktemp("ring") / "r")
    newest = {}
    for mid, payload in seen:
        newest[mid, payload] = ring.record(mid, digest("t", payload))
    for mid in range(1, 6):
        for payload in (b"a", b"b", b"c"):
            assert ring.find(mid, digest("t", payload)) == newest.get((mid, payload))
    ring.close()
