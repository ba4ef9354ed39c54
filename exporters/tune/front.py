"""Of what was tried: which none beats, and which one to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edgeslm.contract.profile import DeviceProfile
from exporters.budget import NOMINAL_TOKENS
from exporters.evaluation.measures import POINTS
from exporters.tune.trial import Trial

_NOISE: Final = 0.03  # of messages a second: recipes nearer to each other than this are as fast


@dataclass(frozen=True, slots=True)
class Limits:
    """What a recipe may take and lose.

    Args:
        points: lost of the task's metric; one verdict more is forgiven, since the sample is small
            and the head is not yet fitted anew: the gate on all rows has the last word.
        latency_ms: as `exporters.budget.latency_ms` takes it, by which the export is judged, too;
            None where there is no budget, or where this machine is not such a device.
        size_mb: None where there is no budget.
    """

    points: float
    latency_ms: float | None
    size_mb: float | None

    def fits(self, trial: Trial) -> bool:
        """Whether a trial keeps them all."""
        if trial.problem is not None:
            return False
        one = POINTS / max(trial.rows, 1)
        return (
            trial.worst <= self.points + one
            and (self.latency_ms is None or trial.nominal_ms <= self.latency_ms)
            and (self.size_mb is None or trial.size_bytes <= self.size_mb * 1e6)
        )


def limits(profile: DeviceProfile, *, here: bool) -> Limits:
    """Return those of a profile.

    Args:
        profile: of the device.
        here: this machine is such a device, so that times taken here count.
    """
    budget = profile.budget
    latency = budget.latency_ms if here else None
    return Limits(profile.gate.accuracy_drop_max, latency, budget.size_mb)


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Return those that no other beats: as good in quality, latency and size, better in one."""
    tried = [trial for trial in trials if trial.problem is None]

    def measures(trial: Trial) -> tuple[float, float, int]:
        return trial.worst, trial.times.latency_ratio, trial.size_bytes

    def beaten(trial: Trial) -> bool:
        mine = measures(trial)
        return any(
            theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True))
            for theirs in map(measures, tried)
        )

    return [trial for trial in tried if not beaten(trial)]


def ranking(trials: Sequence[Trial], limits: Limits) -> list[Trial]:
    """Return trials in the order in which to take them: what fits first, most messages a second.

    Of those that are as fast, the one whose outputs are nearest to float32's. What does not fit
    follows by what it loses.
    """
    fitting = [trial for trial in trials if limits.fits(trial)]
    others = [trial for trial in trials if trial.problem is None and trial not in fitting]
    ranked: list[Trial] = []
    while fitting:
        fastest = max(trial.times.throughput_ratio for trial in fitting)
        near = [t for t in fitting if t.times.throughput_ratio >= fastest * (1 - _NOISE)]
        best = min(near, key=lambda trial: (trial.error, trial.size_bytes))
        ranked.append(best)
        fitting.remove(best)
    return ranked + sorted(others, key=lambda trial: (trial.worst, trial.error))


def reason(trial: Trial, limits: Limits, *, tried: int) -> str:
    """Say in a sentence why this one is taken."""
    if trial.rows == 0:
        return f"{trial.choice.name}: the profile's own recipe, of which nothing was measured."
    times = trial.times
    measured = (
        f"{times.latency_ms:.2f} ms a text and {times.messages_per_s:.0f} messages a second "
        f"({times.latency_ratio:.2f}x and {times.throughput_ratio:.2f}x the profile's own recipe), "
        f"{trial.size_bytes / 1e6:.1f} MB"
    )
    lost = f"{trial.worst:.2f} of {limits.points:g} points lost on {trial.rows} rows"
    bounds = []
    if limits.latency_ms is not None:
        took = f"{trial.nominal_ms:.2f} ms for {NOMINAL_TOKENS} tokens"
        bounds.append(f"{limits.latency_ms:g} ms ({took})")
    bounds += [f"{limits.size_mb:g} MB"] if limits.size_mb is not None else []
    within = f" and the budget of {' and '.join(bounds)}" if bounds else ""
    if limits.fits(trial):
        return (
            f"{trial.choice.name}: of {tried} recipes tried it serves most within the gate"
            f"{within}: {measured}; {lost}."
        )
    return (
        f"{trial.choice.name}: none of {tried} recipes tried keeps the gate{within}; this one "
        f"comes nearest: {measured}; {lost}."
    )
