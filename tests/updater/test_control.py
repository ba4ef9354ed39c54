"""An agent that takes long is waited for, and whoever watches the updater hears of it meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.contract.control import Failed, Recheck
from edgeslm.updater import control
from edgeslm.updater.control import AgentAwayError, Control, OrderFailedError
from tests.updater.scripted import ScriptedAgent

ORDER = Recheck(model="press")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[ScriptedAgent]:
    with ScriptedAgent(tmp_path / "s") as made:
        yield made


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    monkeypatch.setattr(control, "BEAT_S", 0.02)
    made = Control(tmp_path / "s")
    yield made
    made.close()


def test_whoever_watches_is_told_while_an_order_takes_long(
    agent: ScriptedAgent, orders: Control
) -> None:
    beats = threading.Event()
    count = 0

    def beat() -> None:
        nonlocal count
        count += 1
        if count == 10:
            beats.set()

    orders.progress = beat
    agent.before = lambda _: None if beats.wait(10) else pytest.fail("no beat")
    assert orders.order(ORDER, timeout_s=30).do == "recheck"
    assert count >= 10


def test_the_whole_of_the_time_counts_and_not_a_beat(agent: ScriptedAgent, orders: Control) -> None:
    late = threading.Event()

    def dawdle(_order: object) -> None:
        late.wait(10)

    agent.before = dawdle
    began = time.monotonic()
    with pytest.raises(AgentAwayError, match="in time"):
        orders.order(ORDER, timeout_s=0.2)
    assert time.monotonic() - began >= 0.2
    late.set()


@pytest.mark.parametrize(
    ("code", "at_fault"),
    [("golden.mismatch", True), ("model.memory", False), ("memory.held", False)],
)
def test_a_bundle_is_not_at_fault_for_want_of_memory(code: str, at_fault: bool) -> None:  # noqa: FBT001
    failed = Failed(do="try", model="press", error={"code": code, "message": ""})
    assert OrderFailedError(failed).at_fault == at_fault
