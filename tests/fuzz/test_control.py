"""Orders over the control socket: who may connect may still be a version ahead, or broken."""

from __future__ import annotations

import pytest

from edgeslm.adapters.unix_socket import Line, Opened
from edgeslm.agent.intake import Intake, OrderInvalidError, OrderTooLongError, encode, parse
from edgeslm.contract.control import (
    NEWS,
    Commit,
    Configure,
    Query,
    Recheck,
    Report,
    Revert,
    ServingModel,
    Try,
)
from edgeslm.contract.fleet import DeviceConfig
from tests.fuzz.harness import fuzz

CONFIG = DeviceConfig.model_validate(
    {
        "routes": {"r": {"topic": "in/#", "models": ("m",), "text": "/a/text"}},
        "models": {"m": {"workers": 2, "cache_entries": 0}},
        "outbox": {"max_results": 10},
        "state_interval_s": 5.0,
    }
)
ORDERS = (
    Try(model="m", slot="b", bundle="1" * 64),
    Recheck(model="m"),
    Commit(model="m"),
    Commit(model=None),
    Revert(model=None),
    Configure(seq=7, config=CONFIG),
    Configure(seq=8, config=None),
    Query(),
)


def test_orders(targets: int) -> None:
    woken: list[None] = []
    intake = Intake(lambda: woken.append(None))

    def take(raw: bytes) -> None:
        intake.take(Line(1, raw))
        assert woken
        woken.clear()
        found = [*intake.orders, *intake.wrong]
        intake.orders.clear()
        intake.wrong.clear()
        ((peer, _),) = found
        assert peer == 1
        parse(raw)

    seeds = [order.model_dump_json().encode() for order in ORDERS]
    fuzz(take, seeds, allowed=(OrderInvalidError,), targets=targets)


def test_news(targets: int) -> None:
    """What we say is understood, whatever a message of an error holds."""
    model = ServingModel(model="m", state="failed", error={"code": "c", "message": "why"})

    def say(raw: bytes) -> None:
        text = raw.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode()
        error = {"code": "c", "message": text}
        report = Report(instance="i", models=(model.model_copy(update={"error": error}),))
        line = encode(report)
        assert line.count(b"\n") == 1
        assert NEWS.validate_json(line) == report

    fuzz(say, [b"plain", "\u2028\n\r\0 \U0001f600".encode()], targets=targets)


def test_who_comes_and_lines_too_long_are_noted() -> None:
    intake = Intake(lambda: None)
    intake.take(Opened(3))
    intake.take(Line(3, None))
    assert list(intake.orders) == [(3, None)]
    ((peer, err),) = intake.wrong
    assert (peer, type(err)) == (3, OrderTooLongError)
    while intake.room():
        intake.take(Line(3, b'{"do":"query"}'))
    assert len(intake.orders) + len(intake.wrong) == 32


@pytest.mark.parametrize("wrong", [b'"10"', b"true", b"10.0"])
def test_a_number_in_an_order_is_one(wrong: bytes) -> None:
    line = Configure(seq=7, config=CONFIG).model_dump_json().encode()
    assert b'"max_results":10,' in line
    with pytest.raises(OrderInvalidError, match="max_results"):
        parse(line.replace(b'"max_results":10,', b'"max_results":%b,' % wrong))
