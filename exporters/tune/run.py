"""Tunes one target of an export, and says in tune.json what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgeslm.contract.profile import DeviceProfile
from edgeslm.runtime.device import this_device
from exporters.quality import short, tidy
from exporters.targets.base import Plan, Target
from exporters.tune.front import Limits, front, limits, ranking, reason
from exporters.tune.search import Found, Search
from exporters.tune.space import Tunable
from exporters.tune.trial import Lab, Trial
from exporters.workbench import Workbench

_COMPARING: Final = 0.15


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search proposes.

    Args:
        plans: to make, the best first; the first within the gate on all rows is taken.
        report: an entry of tune.json, without what was picked.
        notes: what the user should know, a sentence each.
    """

    plans: Sequence[Plan]
    report: dict[str, Any]
    notes: Sequence[str]
    _trials: Sequence[Trial]
    _limits: Limits

    def picked(self, plan: Plan) -> dict[str, Any]:
        """Return the entry of tune.json where `plan` is the one that was taken."""
        trial = next(t for t in self._trials if t.choice.plan == plan)
        tried = sum(one["problem"] is None for one in self.report["trials"])
        why = reason(trial, self._limits, tried=tried)
        return {**self.report, "picked": trial.choice.name, "why": why}


def tunable(target: Target) -> Tunable | None:
    """Return what a target knows of its recipes; None where it knows one alone."""
    return getattr(target, "tunable", None)


def tune(
    target: Target, known: Tunable, profile: DeviceProfile, bench: Workbench, *, minutes: float
) -> Tuned:
    """Search the recipes of `target` for about `minutes`.

    Raises:
        RejectedError: the examples are too few to measure on.
    """
    own = known.choices(profile)[0]
    here = this_device().lacks(profile.requires) is None
    bench.reference_answers(bench.split.held_out)  # what both need; not of the search's time
    begun = time.monotonic()
    kept = limits(profile, here=here)
    lab = Lab(bench, profile, target, own)
    # The last comparison has its share of the time, whatever is tried before.
    until = begun + 60 * minutes * (1 - _COMPARING)
    search = Search(lab, known, kept, until, time.monotonic, bench.stage)
    found = search.run()
    trials = found.trials or [Trial(own)]  # cut short before anything was known
    ranked = ranking(trials, kept) or [Trial(own)]
    notes = []
    if not found.whole:
        notes.append(f"the search for {own.plan.provider} was cut short: more may be found")
    if not here:
        notes.append(f"times are of this machine, not of {profile.name}: its own may differ")
    elif not any(kept.fits(trial) for trial in trials) and found.trials:
        notes.append("no recipe keeps gate and budget on the sample; see tune.json")
    plans = list(dict.fromkeys([*(trial.choice.plan for trial in ranked), own.plan]))
    entry = _entry(found, trials, kept, seconds=time.monotonic() - begun)
    return Tuned(plans, entry, notes, [*trials, Trial(own)], kept)


def _entry(
    found: Found, trials: Sequence[Trial], limits: Limits, *, seconds: float
) -> dict[str, Any]:
    best = {id(trial) for trial in front(trials)}
    return {
        "provider": trials[0].choice.plan.provider,
        "cpu": this_device().cpu_model,
        "seconds": round(seconds, 1),
        "whole": found.whole,
        "trials": [
            _trial(trial, fits=limits.fits(trial), front=id(trial) in best) for trial in trials
        ],
        "sensitivity": [
            {
                "recipe": s.choice.name,
                "group": s.group,
                "nodes": len(s.nodes),
                "points_with": short(s.before.points),
                "points_without": short(s.after.points),
                "error_with": short(s.before.error),
                "error_without": short(s.after.error),
                "excluded": s.excluded,
            }
            for s in found.sensitivity
        ],
    }


def _trial(trial: Trial, *, fits: bool, front: bool) -> dict[str, Any]:
    plan, times = trial.choice.plan, trial.times
    said: dict[str, Any] = {
        "name": trial.choice.name,
        "precision": plan.precision,
        "recipe": None if plan.recipe is None else plan.recipe.model_dump(mode="json"),
        "session": None if plan.session is None else plan.session.model_dump(mode="json"),
        "problem": trial.problem,
        "fits": fits,
        "front": front,
    }
    if trial.rows == 0:  # never measured: infinities are no JSON
        return said
    return {
        **said,
        "error": short(trial.error),
        "lost_points": tidy(dict(trial.lost)),
        "rows": trial.rows,
        "latency_ms": short(times.latency_ms),
        "latency_ratio": short(times.latency_ratio),
        "nominal_latency_ms": short(trial.nominal_ms),
        "messages_per_s": short(times.messages_per_s),
        "throughput_ratio": short(times.throughput_ratio),
        "size_bytes": trial.size_bytes,
    }
