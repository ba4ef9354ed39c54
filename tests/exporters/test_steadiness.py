"""Slow plants that stay as they are: what the exporter fits, the task reads and the test hears."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeslm.agent.watch import sighting_of
from edgeslm.core.drift import Drift
from edgeslm.ports import Request
from edgeslm.tasks.anomaly import Anomaly, load
from exporters.data import Row
from exporters.heads import anomaly, steadiness
from exporters.heads.steadiness import inflation

Array = NDArray[np.float64]
Random = np.random.Generator
TRAINED = 8000
HEARD = 8000


def ar(keep: float) -> Callable[[Random, int], Array]:
    """So much of a reading is in the next."""

    def make(random: Random, n: int) -> Array:
        level = random.normal()
        noise = random.normal(size=n) * math.sqrt(1 - keep * keep)
        return np.array([level := keep * level + one for one in noise.tolist()])

    return make


def noisy(slow: Callable[[Random, int], Array]) -> Callable[[Random, int], Array]:
    """Half of the variance is new in each reading, which hides the rest from the next one."""

    def make(random: Random, n: int) -> Array:
        return slow(random, n) + random.normal(size=n)

    return make


def arma(random: Random, n: int) -> Array:
    fast, slow = ar(0.3)(random, n), ar(0.95)(random, n)
    return fast - 0.5 * np.roll(fast, 1) + slow


def daily(random: Random, n: int) -> Array:
    return 2 * np.sin(math.tau * (np.arange(n) / 288 + random.uniform()))


def telegraph(random: Random, n: int) -> Array:
    """On or off, a hundred readings each on average."""
    flips = np.where(random.uniform(size=n) < 0.01, -1.0, 1.0)
    return np.asarray(4.0 * np.cumprod(flips), dtype=np.float64)


PLANTS = {
    "slow and noisy": noisy(ar(0.99)),
    "daily cycle": noisy(daily),
    "noise": noisy(ar(0.0)),
    "slow": ar(0.9),
    "ARMA": arma,
    "random telegraph": noisy(telegraph),
}
QUICK = ("slow and noisy", "daily cycle")


def rows(columns: Sequence[Array], *, together: bool) -> list[Row]:
    """What machines say in turn, each of its own column; or all of them of the first."""
    machines = len(columns)
    return [
        Row(
            f"oil at {columns[0][i] if together else columns[i % machines][i // machines]:.2f} C",
            source=f"m{i % machines}",
        )
        for i in range(len(columns[0]) * (1 if together else machines))
    ]


def learnt(lines: Sequence[Row]) -> Anomaly:
    """Return the task fitted on lines."""
    head = anomaly.fit(
        lines,
        lambda texts: np.full((len(texts), 4), 0.5, np.float32),
        alarm_budget=0.01,
        seed=0,
        advance=lambda _: None,
        options={"windows": "2"},
    )
    task = load(head.parameters)
    assert bool(task.trained.untested) == (anomaly.TOO_SHORT in head.notes)
    return task


def reports(task: Anomaly, lines: Sequence[Row], *, false_rate: float = 1e-5) -> list[int]:
    """Return after how many lines drift was reported."""
    test, found = Drift(false_rate, task.trained), []
    memory, near = task.memory(), {"distance": np.array(0.0, np.float32)}
    memory.school.lines = 0
    for number, line in enumerate(lines, 1):
        request = Request(line.text, line.source)
        answer = task.finish(task.prepare(request), near, truncated=False, memory=memory)
        sighting = sighting_of(request, answer, "none")
        assert sighting is not None
        if test.take(sighting) and test.suspected:
            found.append(number)
    return found


def plant(name: str, *, seed: int, machines: int = 1, together: bool = False) -> list[Row]:
    random = np.random.default_rng(seed)
    each = (TRAINED + HEARD) // (1 if together else machines)
    columns = [PLANTS[name](random, each) for _ in range(machines)]
    return rows(columns, together=together)


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=() if x in QUICK else pytest.mark.slow) for x in PLANTS]
)
def test_a_plant_that_stays_as_it_is_is_not_reported(name: str) -> None:
    lines = plant(name, seed=1)
    task = learnt(lines[:TRAINED])
    assert task.trained.worth["number"] > 0, "it was tested"
    assert reports(task, lines[TRAINED:]) == []


@pytest.mark.slow
def test_machines_that_swing_together_are_one() -> None:
    lines = plant("daily cycle", seed=2, machines=5, together=True)
    task = learnt(lines[:TRAINED])
    assert task.trained.worth["number"] > 0
    assert reports(task, lines[TRAINED:]) == []


def test_a_plant_whose_sensors_all_move_is_reported() -> None:
    """Else the tests above prove nothing."""
    lines = plant("slow", seed=3)
    task = learnt(lines[:TRAINED])
    worth = task.trained.worth["number"]
    assert 0 < worth < 0.2
    moved = [
        Row(f"oil at {x + 4:.2f} C", source="m0") for x in ar(0.9)(np.random.default_rng(4), HEARD)
    ]
    (first,) = reports(task, moved)
    assert first < 10 * 1.5 * (5 / worth)


@pytest.mark.parametrize("machines", [1, 5])
def test_a_training_that_is_shorter_than_the_plants_swings_is_seen_to_be(machines: int) -> None:
    random = np.random.default_rng(5)
    slow = noisy(ar(0.9995))
    lines = rows([slow(random, 2000 // machines) for _ in range(machines)], together=False)
    task = learnt(lines)
    assert task.trained.untested == ["number"]


def test_texts_without_numbers_need_no_length() -> None:
    task = learnt([Row(f"door {'open' if i % 2 else 'shut'}") for i in range(200)])
    assert task.trained.worth == {"text": 1.0}


def test_inflation_is_that_of_the_process() -> None:
    random = np.random.default_rng(6)
    assert inflation(random.normal(size=20_000), most=1000) < 1.5
    assert inflation(ar(0.9)(random, 20_000), most=1000) == pytest.approx(19, rel=0.25)
    assert inflation(noisy(ar(0.9))(random, 20_000), most=1000) == pytest.approx(10, rel=0.25)
    assert inflation(np.full(100, 3.0), most=10) == 1
    assert inflation(np.array([1.0]), most=0) == 1


def test_a_cycle_counts_by_its_longest_swing_and_not_by_whole_turns() -> None:
    turns = np.sin(math.tau * np.arange(20_000) / 200)
    assert inflation(turns, most=2000) > 30


def test_without_regard_to_what_follows_what_slow_plants_would_be_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tests above can fail."""
    monkeypatch.setattr(steadiness, "worth", lambda *_: 1.0)
    lines = plant("slow and noisy", seed=1)
    task = learnt(lines[:TRAINED])
    assert reports(task, lines[TRAINED:])
