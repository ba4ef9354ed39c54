"""Whoever assigns something can read from `update` what came of it, under the number he gave it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgeslm.contract.fleet import AssignedModel, Assignment, DeviceConfig
from edgeslm.contract.slots import Bad, Operation, SlotTable
from edgeslm.contract.topics import Topics
from edgeslm.core.slots import KnownBadError
from edgeslm.errors import EdgeSLMError
from edgeslm.ports import DiskFullError
from edgeslm.updater.change import Change, ConfigChange
from edgeslm.updater.driver import Driver
from edgeslm.updater.updater import Updater
from edgeslm.updater.voice import Voice
from tests.updater.offers import MODEL, PC, offer, profile

BAD = KnownBadError(
    Bad(hash="a" * 64, version=1, error={"code": "golden.failed", "message": "2 differ"})
)


@dataclass
class Stage:
    """An updater whose fleet, disk and driver are what a test says."""

    seq: int = 1
    version: int = 1
    ended: EdgeSLMError | None = None
    extra: dict[str, AssignedModel] = field(default_factory=dict)
    config: DeviceConfig | None = None
    changes: list[Change] = field(default_factory=list)
    said: list[dict[str, Any]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.voice = Voice(Topics("edgeslm/v1", "d"), self, self._send, SlotTable)
        trust = SimpleNamespace(
            walk_roots=lambda: None,
            refresh=lambda _: None,
            accept=lambda _: None,
            assignment=self._assignment,
            offers=lambda model: [offer(1), offer(2)] if model == MODEL else [],
        )
        driver = SimpleNamespace(run=self._run, abandon=lambda: None)
        broker = SimpleNamespace(
            now=lambda _: 5.0, assignment=lambda: b"envelope", supply=lambda *_: None
        )
        self.updater = Updater(
            device_id="d",
            device=PC,
            profile=profile("cpu"),
            store=cast("Any", SimpleNamespace(read=SlotTable)),
            trust=cast("Any", trust),
            driver=cast("Driver", driver),
            voice=self.voice,
            clock=self,
            broker=cast("Any", broker),
            switch=cast("Any", SimpleNamespace(source=None)),
            idle_exit_s=None,
        )

    def wall(self) -> float:
        return 5.0

    def monotonic(self) -> float:
        return 5.0

    def work(self) -> dict[str, Any]:
        self.updater.work(self.updater.broker)
        return self.said[-1]

    def _assignment(self, *_: object, **__: object) -> Assignment:
        models = {MODEL: AssignedModel(version=self.version), **self.extra}
        return Assignment(
            schema=1,
            device="d",
            seq=self.seq,
            issued=1,
            expires=9,
            models=models,
            config=self.config,
        )

    def _run(self, change: Change) -> EdgeSLMError | None:
        self.changes.append(change)
        if self.ended is None:
            self.voice.succeeded()
            self.voice.tell()
        return self.ended

    def _send(self, topic: str, payload: bytes, _: bool) -> None:  # noqa: FBT001 -- `Send`
        said = json.loads(payload)
        if topic.endswith("/update"):
            self.said.append(said)
        else:
            self.events.append(said["event"])


@pytest.mark.parametrize("again", [1, 2, 3])
def test_what_is_known_to_be_bad_is_refused_under_each_number(again: int) -> None:
    stage = Stage(ended=BAD)
    for number in range(1, again + 1):
        stage.seq = number
        said = stage.work()
        assert (said["seq"], said["phase"]) == (number, "idle")
        assert said["error"]["code"] == "update.known_bad"
        stage.work()  # and is told once of each
        assert stage.events == ["update_refused"] * number


def test_so_is_a_version_that_is_not_there() -> None:
    stage = Stage(version=7)
    for number in (1, 2):
        stage.seq = number
        said = stage.work()
        assert (said["seq"], said["error"]["code"]) == (number, "update.unknown_version")


def test_what_failed_names_its_model_and_version_and_whether_it_is_tried_again() -> None:
    for ended, retries in ((BAD, False), (DiskFullError("no room"), True)):
        stage = Stage(ended=ended)
        said = stage.work()
        assert (said["error_model"], said["error_version"], said["retries"]) == (MODEL, 1, retries)
    said = Stage(version=7).work()
    assert (said["error_model"], said["error_version"], said["retries"]) == (MODEL, 7, False)


@pytest.mark.parametrize(
    ("ended", "awaited"), [(DiskFullError("no room"), {MODEL}), (BAD, set()), (None, set())]
)
def test_a_configuration_waits_for_models_that_are_tried_again(
    ended: EdgeSLMError | None, awaited: set[str]
) -> None:
    stage = Stage(ended=ended, config=DeviceConfig(state_interval_s=5.0))
    stage.work()
    [config] = [change for change in stage.changes if isinstance(change, ConfigChange)]
    assert config.awaited == awaited


def test_what_failed_of_the_one_before_is_not_told_of_the_next() -> None:
    stage = Stage(ended=BAD)
    stage.work()
    stage.seq, stage.ended, stage.version = 2, None, 2
    before = len(stage.said)
    assert "error" not in stage.work()
    assert not [said for said in stage.said[before:] if "error" in said]


def test_a_model_that_cannot_be_had_shows_though_another_of_the_assignment_was_committed() -> None:
    stage = Stage(extra={"unknown": AssignedModel(version=1)})
    said = stage.work()
    assert (said["seq"], said["error"]["code"]) == (1, "update.unknown_version")


def test_an_updater_that_begins_says_where_it_was() -> None:
    """What a killed one left retained is no news any more; and no number falls."""
    said: list[dict[str, Any]] = []
    clock = cast("Any", SimpleNamespace(wall=lambda: 5.0, monotonic=lambda: 5.0))
    table = SlotTable(operation=Operation(model="m", seq=4, phase="fetching"))
    voice = Voice(
        Topics("edgeslm/v1", "d"),
        clock,
        lambda _t, p, _r: said.append(json.loads(p)),
        lambda: table,
        seq=3,
    )
    voice.tell()
    assert said[-1]["seq"] == 3
