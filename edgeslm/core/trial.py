"""Whether a model on trial stays, by how it and the one before it answered. Without clock."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from edgeslm.contract.control import ServingModel
from edgeslm.contract.fleet import DeviceConfig
from edgeslm.contract.profile import Trial
from edgeslm.errors import EdgeSLMError, RejectedError, UnavailableError

ENOUGH: Final = 100
"""Answers from which a share, or a 99th percentile, is taken for more than chance."""
QUIET_FACTOR: Final = 10
"""A trial lasts at most so many times its duration for want of answers."""


class TrialErrorsError(RejectedError):
    """On trial, the new model answered with more errors than the old one, beyond the allowance."""

    code = "trial.errors"


class TrialSlowError(RejectedError):
    """On trial, the new model was slower than the old one, beyond the allowance."""

    code = "trial.slow"


class TrialQuietError(UnavailableError):
    """There was too little to answer on trial, even in ten times its duration."""

    code = "trial.quiet"


class ConfigUnservedError(RejectedError):
    """A route of the configuration leads to a model that does not serve on this device."""

    code = "config.unserved"


@dataclass(frozen=True, slots=True)
class Sample:
    """One model as it stands at a moment.

    Args:
        at_s: monotonic seconds.
        answered: with an answer, since the agent began.
        errors: answered with an error, since the agent began.
        p99_ms: 99th percentile of the last minute's latencies, ms; None: too few.
    """

    at_s: float
    answered: int = 0
    errors: int = 0
    p99_ms: float | None = None

    @classmethod
    def of(cls, model: ServingModel, at_s: float) -> Sample:
        """Return what an agent's report says."""
        return cls(at_s, model.answered, model.errors, model.p99_ms)

    @property
    def total(self) -> int:
        return self.answered + self.errors


Verdict = Literal["wait", "keep"] | EdgeSLMError


def judge(trial: Trial, *, before: Sample, begun: Sample, now: Sample) -> Verdict:
    """Return whether to wait, to keep the new model, or why to go back.

    Errors count as soon as there are answers enough; for the rest the trial's time must be over.

    Args:
        trial: of the device's profile.
        before: the old model, last seen before the swap.
        begun: the new one, first seen after it.
        now: the new one.
    """
    elapsed_s = now.at_s - begun.at_s
    over = elapsed_s >= trial.duration_s
    total, errors = now.total - begun.total, now.errors - begun.errors
    if (over or total >= ENOUGH) and (why := _errors(trial, before, total, errors)):
        return TrialErrorsError(why)
    if not over:
        return "wait"
    if total < trial.answers_min:
        if elapsed_s < trial.duration_s * QUIET_FACTOR:
            return "wait"
        return TrialQuietError(
            f"{total} answers in {elapsed_s:.0f} s, and its profile asks for "
            f"{trial.answers_min}. Assign it again when there is work, or ask for fewer."
        )
    if why := _slow(trial, before, total, now):
        return TrialSlowError(why)
    return "keep"


def served(
    config: DeviceConfig,
    models: Iterable[ServingModel],
    *,
    awaited: Collection[str] = (),
    late: bool = False,
) -> bool:
    """Return whether each model serves that a configuration's routes name; False: one loads yet.

    Args:
        config: that is on trial.
        models: as the agent reports them.
        awaited: those that need not serve, since they are still to come.
        late: one that loads yet takes too long.

    Raises:
        ConfigUnservedError: one does not serve. The configuration is not at fault itself: with the
            model assigned, the same works.
    """
    found = {model.model: model for model in models}
    loads = False
    for route, name in ((r, m) for r, each in (config.routes or {}).items() for m in each.models):
        model = found.get(name)
        if name in awaited or (model is not None and model.state == "serving"):
            continue
        if model is None or model.state == "failed" or late:
            error = model.error if model is not None else None
            why = f" ({error['message'].rstrip('. ')} [{error['code']}])" if error else ""
            msg = f"route {route}: no bundle serves {name}{why}. Assign {name} as well, or name "
            raise ConfigUnservedError(msg + "a model that this device has.")
        loads = True
    return not loads


def _errors(trial: Trial, before: Sample, total: int, errors: int) -> str | None:
    """Say by how much it is worse; None where it is not.

    Rounded up: where anything is allowed, one odd input among few does not condemn a model.
    """
    old = before.errors / before.total if before.total else 0.0
    share = min(1.0, old + trial.error_share_max)
    # A share that was computed may be a hair above the number it stands for.
    if errors <= math.ceil(round(share * total, 6)):
        return None
    return (
        f"{errors} errors in {total} answers; {share:.2%} are allowed, of which the old one "
        f"itself had {old:.2%}"
    )


def _slow(trial: Trial, before: Sample, total: int, now: Sample) -> str | None:
    if before.p99_ms is None or now.p99_ms is None or min(before.total, total) < ENOUGH:
        return None
    if now.p99_ms <= before.p99_ms * trial.latency_ratio_max:
        return None
    return (
        f"99 of 100 answers within {now.p99_ms:.1f} ms, the old one's within "
        f"{before.p99_ms:.1f} ms; {trial.latency_ratio_max:g} times as much is allowed"
    )
