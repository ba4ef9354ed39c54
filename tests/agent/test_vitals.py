"""What the agent notices of itself, by a played clock; and which models rest at which level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from edgeslm.agent import vitals
from edgeslm.agent.models import ModelSlot
from edgeslm.agent.roster import Roster
from edgeslm.agent.vitals import LOOK_S, SILENT_S, STUCK_S, Vitals, limits_of
from edgeslm.contract.profile import FlashBudget, PressureLimits
from edgeslm.contract.routes import ModelSettings
from edgeslm.contract.settings import AgentSettings, PressureSettings
from edgeslm.core.growth import BOUND_MB_H
from edgeslm.core.pressure import CACHE_SHARE, Level, Limits, Reading


class Played:
    """An agent of which there is nothing but what `Vitals` looks at."""

    def __init__(self, **profile: float) -> None:
        self.told: list[tuple[str, str]] = []
        self.levels: list[Level] = []
        self.sinks: list[Callable[[Reading], None]] = []
        self.stopped = 0
        self.working: list[tuple[str, int, float]] = []
        self.hash = "1"
        parts: Any = SimpleNamespace(
            limits=PressureLimits(**profile),
            flash=FlashBudget(budget_mb_day=10),
            crashes=SimpleNamespace(untold=[], state=lambda: None),
            gauge=self.gauge,
        )
        office: Any = SimpleNamespace(
            trouble=lambda event, code, *_: self.told.append((event, code)),
            event=lambda event, _, detail: self.told.append((event, str(detail["level"]))),
        )
        roster: Any = SimpleNamespace(
            pools=[SimpleNamespace(at_work=lambda: self.working)],
            served=lambda: {"m": self.hash},
            press=self.levels.append,
        )
        self.roster = roster
        self.vitals = Vitals(parts, office, roster, lambda: None)

    def gauge(self, sink: Callable[[Reading], None]) -> Callable[[], None]:
        self.sinks.append(sink)
        return self.stop

    def stop(self) -> None:
        self.stopped += 1

    def play(self, reading: Reading, *, begin: float, span_s: float) -> None:
        """Read the same every five seconds."""
        for i in range(int(span_s / LOOK_S) + 1):
            self.sinks[-1](reading)
            self.vitals.tend(begin + LOOK_S * i)

    def state(self) -> dict[str, Any]:
        state: Any = {}
        self.vitals.add_to(state)
        found: dict[str, Any] = state
        return found


def test_without_limits_nothing_is_read() -> None:
    played = Played()
    played.vitals.live_by(PressureSettings())
    assert played.sinks == []
    assert played.state().keys() <= {"written_mb"}


def test_pressure_is_told_as_it_comes_and_goes() -> None:
    played = Played(temperature_c=80.0)
    played.vitals.live_by(PressureSettings())
    played.play(Reading(temperature_c=90.04), begin=100.0, span_s=200)
    assert played.levels == [Level.TELEMETRY, Level.ALARMS_ONLY]
    assert played.state()["pressure"] == {
        "level": 2,
        "causes": ["temperature_c"],
        "temperature_c": 90.0,
    }
    played.play(Reading(temperature_c=50.0), begin=305.0, span_s=400)
    assert played.told == [
        ("pressure_rose", "1"),
        ("pressure_rose", "2"),
        ("pressure_fell", "1"),
        ("pressure_fell", "0"),
    ]
    assert played.levels[-1] is Level.NONE


def test_limits_given_up_end_the_pressure_and_the_reading() -> None:
    played = Played()
    played.vitals.live_by(PressureSettings(load_per_core=1.0))
    played.play(Reading(load_per_core=3.0), begin=0.0, span_s=30)
    played.vitals.live_by(PressureSettings())
    assert (played.levels[-1], played.stopped) == (Level.NONE, 1)
    assert "pressure" not in played.state()


def test_settings_win_over_the_profile_key_by_key() -> None:
    profile = PressureLimits(temperature_c=80.0, memory_available_mb=64.0)
    found = limits_of(profile, PressureSettings(temperature_c=70.0, load_per_core=2.0))
    assert found == Limits(70.0, 64.0, 2.0)


def test_growth_of_memory_is_told_once_and_begins_anew_with_a_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played, now = Played(), 0.0
    monkeypatch.setattr(vitals, "rss_mb", lambda: 100.0 + 3 * BOUND_MB_H * now / 3600)
    while now < 2 * 3600:
        played.vitals.tend(now)
        now += LOOK_S
    played.hash = "2"  # another bundle, before enough is known
    while now < 4 * 3600:
        played.vitals.tend(now)
        now += LOOK_S
    assert played.told == []
    assert "rss_mb_per_h" not in played.state()
    while now < 12 * 3600:
        played.vitals.tend(now)
        now += LOOK_S
    assert played.told == [("memory_grew", "agent.grew")]
    assert played.state()["rss_mb_per_h"] == pytest.approx(3 * BOUND_MB_H, abs=0.1)


def test_memory_that_was_freed_goes_back_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    played, now = Played(), 0.0
    given_back = Mock()
    monkeypatch.setattr(vitals, "give_back", given_back)
    while now < 600:
        played.vitals.tend(now)
        now += LOOK_S
    assert given_back.call_count == 10


def test_a_stuck_thread_is_told_once_for_each_input() -> None:
    played = Played()
    played.working = [("work m 0", 1, 100.0), ("work m 1", 2, 150.0)]
    for i in range(5):
        played.vitals.tend(100.0 + STUCK_S + LOOK_S * i)
    assert played.told == [("worker_stuck", "worker.stuck")]
    played.working = [("work m 0", 1, 200.0)]
    played.vitals.tend(200.0 + STUCK_S)
    assert len(played.told) == 2


class Cached:
    """A model that notes how large its cache may be."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.ref = {"hash": "1"}
        self.sizes: list[int] = []

    def resize(self, cache_entries: int) -> None:
        self.sizes.append(cache_entries)


def test_a_level_shrinks_caches_and_gives_them_back() -> None:
    settings = AgentSettings.model_validate({"device_id": "d"})
    office: Any = SimpleNamespace(clock=SimpleNamespace(monotonic=lambda: 0.0))
    absent: Any = None
    roster = Roster(settings, absent, office, loader=absent, drops=Counter())
    paused = {}
    for task in ("anomaly", "intent"):
        session: Any = SimpleNamespace(lanes=[None], lane=())
        slot = ModelSlot(task, ModelSettings(cache_entries=800), session)
        responder: Any = SimpleNamespace(model=Cached(task))
        slot.responder = responder
        roster.slots[task] = slot
    for level in (*Level, Level.TELEMETRY, Level.NONE):
        roster.press(level)
        paused[level] = {name for name, slot in roster.slots.items() if slot.paused}
    for slot in roster.slots.values():
        assert slot.responder is not None
        model: Any = slot.responder.model
        assert model.sizes == [800, 800, 800 // CACHE_SHARE, 800, 800]
    assert paused == {
        Level.NONE: set(),
        Level.TELEMETRY: {"intent"},
        Level.ALARMS_ONLY: {"intent"},
    }


@pytest.mark.parametrize(
    ("input_s", "silent_s", "hangs", "fed"),
    [
        (0.0, 0.0, False, True),
        (STUCK_S, 0.0, False, False),
        (0.0, SILENT_S - 1, False, True),
        (0.0, SILENT_S, False, False),
        (0.0, 0.0, True, False),
    ],
)
@pytest.mark.parametrize("of_inputs", [True, False])
def test_a_thread_that_hangs_starves_the_watchdog(
    *, input_s: float, silent_s: float, hangs: bool, fed: bool, of_inputs: bool
) -> None:
    played = Played()
    well, silent = (SimpleNamespace(silent_s=lambda s=s: s) for s in (0.0, silent_s))
    uplink: Any = well if of_inputs else silent
    link = silent if of_inputs else well
    played.roster.slots = {"m": SimpleNamespace(session=SimpleNamespace(link=link))}
    played.roster.pools = [SimpleNamespace(longest_s=lambda: input_s)]
    loader: Any = SimpleNamespace(hangs=hangs)
    assert played.vitals.all_turn(uplink, loader) == fed


def test_a_budget_of_flash_that_is_passed_is_told_once_a_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played = Played()
    written = 0.0
    monkeypatch.setattr(vitals, "written_mb", lambda: written)
    for hour in range(4 * 24):
        written += 0.3 if hour < 48 else 0.6  # 7 MB, and 14, a day
        played.vitals.tend(hour * 3600.0)
    assert played.told == [("flash_budget_passed", "agent.wrote")] * 2
    assert played.state()["written_mb"] == pytest.approx(43.2)
    monkeypatch.setattr(vitals, "written_mb", lambda: None)
    played.vitals.tend(1e9)
    assert "written_mb" not in played.state()
