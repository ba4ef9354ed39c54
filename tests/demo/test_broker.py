"""Which broker the demo takes, and that it listens on loopback alone."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from edgeslm.demo import broker
from edgeslm.demo.errors import BrokerFailedError, MissingExtraError
from edgeslm.demo.processes import Child

Find = Callable[[], str | None]


def here() -> str | None:
    return "/usr/sbin/mosquitto"


def away() -> str | None:
    return None


@pytest.mark.parametrize(
    ("wanted", "mosquitto", "embedded", "kind"),
    [
        ("auto", here, here, "mosquitto"),
        ("auto", here, away, "mosquitto"),
        ("auto", away, here, "embedded"),
        ("mosquitto", here, away, "mosquitto"),
        ("embedded", here, here, "embedded"),
        ("embedded", away, here, "embedded"),
    ],
)
def test_the_choice(wanted: broker.Wanted, mosquitto: Find, embedded: Find, kind: str) -> None:
    choice = broker.choose(wanted, mosquitto=mosquitto, embedded=lambda: embedded() is not None)
    assert choice.kind == kind


def test_falling_back_is_said() -> None:
    choice = broker.choose("auto", mosquitto=away, embedded=lambda: True)
    assert "embedded" in choice.said
    assert "mosquitto is not installed" in choice.said


@pytest.mark.parametrize(
    ("wanted", "mosquitto", "hint"),
    [
        ("auto", away, "apt install mosquitto"),
        ("mosquitto", away, "--broker embedded"),
        ("embedded", here, "iotcore"),
    ],
)
def test_without_any_the_remedy_is_named(wanted: broker.Wanted, mosquitto: Find, hint: str) -> None:
    with pytest.raises(MissingExtraError, match=hint):
        broker.choose(wanted, mosquitto=mosquitto, embedded=lambda: False)


@pytest.mark.broker
@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
def test_it_listens_on_loopback_alone_and_ends(kind: broker.Wanted, tmp_path: Path) -> None:
    if kind == "mosquitto" and not broker.find_mosquitto():
        pytest.skip("no mosquitto")
    if kind == "embedded" and importlib.util.find_spec("iotcore") is None:
        pytest.skip("no iotcore")
    child, port = broker.start(broker.choose(kind), tmp_path)
    with child:
        listening = [c for c in psutil.Process(child.pid).net_connections() if c.status == "LISTEN"]
        assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
        assert {c.laddr.port for c in listening} == {port}
    assert child.status is not None
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", port), 1):
        pass


def test_a_broker_that_does_not_come_up_is_quoted(tmp_path: Path) -> None:
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\necho cannot do it >&2; exit 3\n")
    program.chmod(0o755)
    with pytest.raises(BrokerFailedError, match="cannot do it"):
        broker.start(broker.Choice("mosquitto", str(program), "mosquitto"), tmp_path)


def test_a_child_that_ignores_the_polite_request_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeslm.demo.processes._STOP_S", 0.2)
    log = tmp_path / "log"
    with Child(
        "deaf", ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"], log=log
    ) as c:
        while "up" not in log.read_text():
            assert c.status is None
        pid = c.pid
    assert not psutil.pid_exists(pid)
