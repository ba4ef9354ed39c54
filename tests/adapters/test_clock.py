"""What the system says of its clock, asked in both ways; a clock that is set."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.adapters import clock as clocks
from edgeslm.adapters.clock import DeviceClock, boot_id, since_boot, synchronised

Ask = Callable[[object], int]


@pytest.mark.parametrize(
    ("kernel", "timesyncd", "said"),
    [
        (0, "absent", True),
        (4, "absent", True),  # TIME_WAIT: a leap second is behind it
        (5, "absent", False),
        (5, "set", False),  # the kernel knows better: that was long ago
        (-1, "set", True),  # it may not be asked
        (-1, "waits", False),
        (-1, "absent", None),
        (None, "set", True),  # there is no such call
        (None, "absent", None),
    ],
)
def test_who_says_that_the_clock_follows_another(
    *,
    kernel: int | None,
    timesyncd: str,
    said: bool | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask: Ask | None = None if kernel is None else lambda _: kernel
    monkeypatch.setattr(clocks, "_adjtimex", lambda: ask)
    monkeypatch.setattr(clocks, "_TIMESYNC", tmp_path / "timesync")
    if timesyncd != "absent":
        (tmp_path / "timesync").mkdir()
    if timesyncd == "set":
        (tmp_path / "timesync" / "synchronized").touch()
    assert synchronised() is said


def test_a_clock_that_was_set_is_seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real, by_s = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + by_s[0])
    clock = DeviceClock(earliest=0)
    assert clock.look() is None
    by_s[0] = -3600.0
    assert clock.look() == pytest.approx(-3600, abs=0.5)
    assert clock.look() is None


def test_a_clock_at_1970_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "synchronised", lambda: True)
    assert DeviceClock(earliest=1e9).trust == "synchronised"
    monkeypatch.setattr(time, "time", lambda: 12.5)
    assert DeviceClock(earliest=1e9).trust == "untrusted"


def test_time_since_the_boot_and_its_name() -> None:
    assert since_boot() >= time.monotonic() - 1
    assert boot_id() == boot_id()
    assert len(boot_id()) == 8


def test_a_system_without_a_name_for_its_boots(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing compares with what another process says."""
    monkeypatch.setattr(clocks, "_BOOT", tmp_path / "absent")
    assert boot_id() != boot_id()
