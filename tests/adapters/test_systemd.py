"""What systemd hears, and that nobody is missed where it is not there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from edgeslm.adapters.systemd import Notifier


@pytest.mark.parametrize("abstract", [False, True])
def test_each_message_is_one_datagram(tmp_path: Path, *, abstract: bool) -> None:
    name = f"edgeslm-test-{tmp_path.name}-{id(tmp_path)}"
    bound = "\0" + name if abstract else str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(bound)
        listener.settimeout(5)
        notifier = Notifier("@" + name if abstract else bound, "3000000")
        notifier.ready("2 models")
        notifier.feed()
        notifier.stopping()
        heard = [listener.recv(100).decode() for _ in range(3)]
        notifier.close()
    assert heard == ["READY=1\nSTATUS=2 models", "WATCHDOG=1", "STOPPING=1"]
    assert notifier.interval_s == pytest.approx(1.0)


@pytest.mark.parametrize("address", [None, "", "/nowhere/at/all"])
def test_nobody_there_is_no_error(address: str | None) -> None:
    notifier = Notifier(address, "x")
    notifier.ready("")
    notifier.feed()
    notifier.close()
    assert notifier.interval_s is None


def test_it_is_told_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert Notifier.from_environment().interval_s is None
