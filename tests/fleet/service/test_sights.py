"""What roll-outs see of a device is what it has said, and only what was said of this model."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import pytest
from sqlalchemy import Engine

from edgeslm.errors import UnavailableError
from edgeslm.fleet.database import registry
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.service.sights import PASSING, Seen, seen

WHO = {"schema": 1, "device": "dev"}
TIMES = itertools.count(1)  # each message is later than the one before


def look(engine: Engine, *said: tuple[str, dict[str, Any]]) -> Seen:
    for kind, message in said:
        at = next(TIMES)
        heard: Any = registry.Heard("dev", kind, {**WHO, "time": float(at), **message}, at + 100.0)  # type: ignore[arg-type] # of a table
        with engine.begin() as conn:
            registry.heard(conn, [heard])
    with reading(engine) as conn:
        return seen(conn, "press", ["dev", "nobody"])["dev"]


def update(**more: Any) -> tuple[str, dict[str, Any]]:
    models = [{"name": "press", "version": 2}, {"name": "other", "version": 9}]
    return "update", {"seq": 4, "phase": "idle", "models": models, **more}


def state(**more: Any) -> tuple[str, dict[str, Any]]:
    model = {"name": "press", "state": "serving", "version": 2, "answered": 7, "errors": 0}
    return "state", {"uptime_s": 1.0, "models": [{**model, **more}]}


def test_what_updater_and_agent_say_is_seen_together(database: Engine) -> None:
    found = look(database, update(), state(alarms=3, p99_ms=12.0))
    sight = found.sight
    assert (sight.seq, sight.idle, sight.committed, sight.serving) == (4, True, 2, 2)
    assert (sight.error, sight.broken) == (None, None)
    assert sight.heard_at > 100.0
    assert (found.version, found.health.alarms, found.health.p99_ms) == (2, 3, 12.0)


def test_a_version_on_trial_is_not_served_yet(database: Engine) -> None:
    assert look(database, update(phase="trial"), state(trial=True)).sight.serving is None
    assert not look(database, update(phase="trial")).sight.idle


def test_an_error_that_passes_is_told_apart(database: Engine) -> None:
    for code, passes in (("disk.full", True), ("trial.golden", False)):
        found = look(database, update(error={"code": code, "message": "m"}, seq=5)).sight
        assert (found.error, found.passing) == (code, passes)


@pytest.mark.parametrize("code", ["disk.full", "trial.golden"])
def test_what_the_updater_says_of_an_error_counts_more_than_its_code(
    database: Engine, code: str
) -> None:
    error = {"code": code, "message": "m"}
    for number, retries in enumerate((True, False), 5):
        said = update(error=error, error_model="press", retries=retries, seq=number)
        found = look(database, said).sight
        assert (found.error, found.passing) == (code, retries)
    assert look(database, update(error=error, error_model="other", seq=9)).sight.error is None


def test_a_failure_of_the_version_before_is_not_that_of_the_new_one(database: Engine) -> None:
    error = {"code": "model.memory", "message": "m"}
    assert look(database, update(), state(state="failed", error=error)).sight.broken is not None
    old = state(state="failed", error=error, version=1)
    assert look(database, update(), old).sight.broken is None


def test_errors_that_pass_are_those_of_which_updaters_try_again() -> None:
    for name in ("adapters.stick", "core.trial", "core.trust", "core.update", "ports"):
        importlib.import_module(f"edgeslm.{name}")
    for name in ("broker", "control", "door", "download", "install"):
        importlib.import_module(f"edgeslm.updater.{name}")

    def codes(of: type[UnavailableError]) -> set[str]:
        return {of.code}.union(*(codes(each) for each in of.__subclasses__()))

    known = codes(UnavailableError) | {"trial.abandoned"}  # which the driver gives by itself
    assert known >= PASSING


@pytest.mark.parametrize("nobody", ["other-device"])
def test_a_device_that_the_fleet_does_not_have_is_absent(database: Engine, nobody: str) -> None:
    with reading(database) as conn:
        assert seen(conn, "press", [nobody]) == {}
