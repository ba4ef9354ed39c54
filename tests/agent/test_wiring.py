"""What the agent remembers between lives, besides results and identities."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeslm.adapters.mqtt import MqttLink
from edgeslm.agent.wiring import FILTERS, RealParts
from edgeslm.contract.settings import AgentSettings

Remembered = Callable[..., frozenset[str]]


@pytest.fixture
def remembered(tmp_path: Path) -> Remembered:
    """Live once on a broker, with what was remembered; note what is held now, if told."""
    lives: list[RealParts] = []

    def live(port: int, *now: str) -> frozenset[str]:
        fields: dict[str, Any] = {
            "device_id": "dev1",
            "state_dir": tmp_path / "state",
            "runtime_dir": tmp_path / f"run{len(lives)}",
            "uplink": {"host": "127.0.0.1", "port": port},
            "models": {"m": {"bundle": tmp_path}},
            "routes": {"r": {"topic": "a", "models": ["m"]}},
        }
        settings = AgentSettings.model_validate(fields)
        parts = RealParts(tmp_path / "none.toml", settings)
        lives.append(parts)
        link = parts.input(settings, "m", lambda _: None)
        assert isinstance(link, MqttLink)
        if now:
            parts.held("m", frozenset(now))
        parts.outbox.close()
        for folder in parts._held:  # noqa: SLF001 -- as the kernel does when a life ends
            os.close(folder)
        link.stop()  # before it tries to connect
        link.start()
        assert link.join(5)
        return link.held

    return live


def test_filters_are_remembered_for_each_broker(remembered: Remembered) -> None:
    assert remembered(1001, "a", "b") == set()
    assert remembered(1001) == {"a", "b"}
    assert remembered(1002, "c") == set()
    assert remembered(1002) == {"c"}
    assert remembered(1001) == {"a", "b"}


@pytest.mark.parametrize("content", [{"m": ["a"]}, [], {"x": {"m": 3}}, "torn"], ids=str)
def test_what_cannot_be_read_is_nothing(
    remembered: Remembered, tmp_path: Path, content: object
) -> None:
    remembered(1001, "a")
    (tmp_path / "state" / FILTERS).write_text(
        json.dumps(content)[:-1] if content == "torn" else json.dumps(content)
    )
    assert remembered(1001, "b") == set()
    assert remembered(1001) == {"b"}
