"""When a roll-out stops itself: too many devices fail or fall silent, or the model answers worse.

What devices say of themselves is not taken at its word. No device weighs more than a few ordinary
ones, and where there are enough of them, the one that looks worst is left out: neither can one
device stop a roll-out that the others are well with, nor one that boasts hide what the others see.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from edgeslm.contract.rollout import Limits, Plan, share
from edgeslm.core.rollout_states import TOUCHED, DeviceState, Health, Target

CHANCE: Final = 0.01
"""A share that is higher than allowed counts where chance alone would so seldom make it so."""
_EXACT_VARIANCE: Final = 1e6  # up to which a binomial distribution is summed; then it is normal
_MOST: Final = 4  # ordinary devices that one device weighs at most
_MOST_ANSWERS: Final = 1e9  # of one device: more would say no more
_ENOUGH: Final = 3  # devices of which one may be left out
_ENDED_BADLY: Final = frozenset({DeviceState.FAILED, DeviceState.SILENT})


@dataclass(frozen=True, slots=True)
class _Pair:
    """How a device answered before, and how it does now."""

    type: str
    before: Health
    after: Health


@dataclass(frozen=True, slots=True)
class _Sums:
    """Of several devices, before and after: what was counted, and of how many answers."""

    before: int
    of_before: int
    after: int
    of_after: int


def breach(plan: Plan, targets: Collection[Target], *, accepted_at: float = 0.0) -> str | None:
    """Say which limit is exceeded, and by how much; None where none is.

    Args:
        plan: of the roll-out.
        targets: all its devices.
        accepted_at: until when what was seen is accepted: devices that had failed or were silent,
            and how the version answers on those that had succeeded.
    """
    judged = [t for t in targets if t.state in TOUCHED and not is_accepted(t, accepted_at)]
    states = Counter(target.state for target in judged)
    limits = plan.limits
    for state, allowed in (
        (DeviceState.FAILED, limits.failed),
        (DeviceState.SILENT, limits.silent),
    ):
        if states[state] > share(allowed) * len(judged):
            return f"{states[state]} of {len(judged)} devices {state.value}; {allowed} are allowed"
    if (why := _unproven(plan, targets, judged)) is not None:
        return why
    well = [t for t in judged if t.state is DeviceState.SUCCEEDED and t.since > accepted_at]
    return _unhealthy(limits, well)


def is_accepted(target: Target, accepted_at: float) -> bool:
    """Whether an operator has seen that this device ended badly, and gone on all the same."""
    return target.state in _ENDED_BADLY and target.since <= accepted_at


def beyond_chance(few: tuple[int, int], many: tuple[int, int], ratio: float) -> bool:
    """Whether a share is more than `ratio` times another, beyond chance.

    By the conditional binomial test of two rates (Przyborowski and Wilenski, 1940), one-sided.

    Args:
        few: count and total before.
        many: count and total after.
        ratio: of the two shares that is allowed.
    """
    (before, of_before), (after, of_after) = few, many
    if not of_before or not of_after or after * of_before <= ratio * before * of_after:
        return False
    weight = ratio * of_after
    return at_least(after, before + after, weight / (weight + of_before)) < CHANCE


def at_least(count: int, total: int, p: float) -> float:
    """Return the probability of `count` or more of `total`, each with probability `p`.

    Summed; where the variance is more than a million, by the normal distribution with its
    correction for continuity, which is then right to the second digit or better.
    """
    if count <= 0 or p >= 1.0:
        return 1.0 if count <= total else 0.0
    if count > total or p <= 0.0:
        return 0.0
    mean, variance = total * p, total * p * (1.0 - p)
    if variance > _EXACT_VARIANCE:
        return 0.5 * math.erfc((count - 0.5 - mean) / math.sqrt(2.0 * variance))
    if count <= mean:  # the other tail is the shorter sum
        return 1.0 - at_least(total - count + 1, total, 1.0 - p)
    term = math.exp(
        math.lgamma(total + 1)
        - math.lgamma(count + 1)
        - math.lgamma(total - count + 1)
        + count * math.log(p)
        + (total - count) * math.log1p(-p)
    )
    found, odds = 0.0, p / (1.0 - p)
    for k in range(count, total + 1):
        found += term
        term *= odds * (total - k) / (k + 1)
        if term < found * 1e-16:
            break
    return min(1.0, found)


def _unproven(plan: Plan, targets: Collection[Target], judged: Collection[Target]) -> str | None:
    """Say of which type none has succeeded that was to prove it, while more of it wait."""
    if not plan.canaries_per_type:
        return None
    proven = proven_types(targets)
    waiting = {target.type for target in targets if target.state is DeviceState.WAITING} - proven
    tried: dict[str, list[DeviceState]] = defaultdict(list)
    for target in judged:
        if target.type in waiting:
            tried[target.type].append(target.state)
    for kind, states in sorted(tried.items()):
        if set(states) <= _ENDED_BADLY:
            return f"{_named(kind)}: none of {len(states)} has succeeded, and more are to follow"
    return None


def proven_types(targets: Collection[Target]) -> set[str]:
    """Return the types of which a device has succeeded."""
    return {target.type for target in targets if target.state is DeviceState.SUCCEEDED}


def _unhealthy(limits: Limits, well: Collection[Target]) -> str | None:
    """Say in which way the new version answers worse than the one before it."""
    pairs = [
        _Pair(target.type, target.before or Health(), target.after)
        for target in well
        if target.after is not None
    ]
    by_type: dict[str, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        by_type[pair.type].append(pair)
    groups = {_named(kind): _weighed(of) for kind, of in sorted(by_type.items())}
    if len(groups) > 1:
        groups["all types"] = _weighed(pairs)
    for test in (_failing, _alarming):
        for kind, of in groups.items():
            if (why := test(limits, of)) is not None:
                return f"{kind}: {why}"
    return _slower(limits, by_type)


def _failing(limits: Limits, pairs: Collection[_Pair]) -> str | None:
    sums = _sums(pairs, attrgetter("errors"))
    if sums.of_after < limits.answers:
        return None
    enough = sums.of_before >= limits.answers
    allowed = min(1.0, (sums.before / sums.of_before if enough else 0.0) + limits.error_share)
    errors, answers = sums.after, sums.of_after
    if errors > allowed * answers and at_least(errors, answers, allowed) < CHANCE:
        return f"{errors} errors in {answers} answers; {allowed:.2%} are allowed"
    return None


def _alarming(limits: Limits, pairs: Collection[_Pair]) -> str | None:
    if limits.alarm_ratio is None:
        return None
    sums = _sums(pairs, attrgetter("alarms"))
    if min(sums.of_before, sums.of_after) < limits.answers:
        return None
    before, after = (sums.before, sums.of_before), (sums.after, sums.of_after)
    if not beyond_chance(before, after, limits.alarm_ratio):
        return None
    return (
        f"{sums.after} alarms in {sums.of_after} answers, and {sums.before} in {sums.of_before} "
        f"before; {limits.alarm_ratio:g} times as many are allowed"
    )


def _slower(limits: Limits, by_type: Mapping[str, Collection[_Pair]]) -> str | None:
    if limits.latency_ratio is None:
        return None
    for kind, pairs in sorted(by_type.items()):
        both = list(_latencies(limits, pairs))
        if not both:
            continue
        was = statistics.median(old for old, _ in both)
        now = statistics.median(new for _, new in both)
        if now > limits.latency_ratio * was:
            return (
                f"{_named(kind)}: p99 {now:.1f} ms, and {was:.1f} ms before; "
                f"{limits.latency_ratio:g} times as much is allowed"
            )
    return None


def _latencies(limits: Limits, pairs: Collection[_Pair]) -> Iterator[tuple[float, float]]:
    for pair in pairs:
        old, new = pair.before, pair.after
        enough = min(old.answers, new.answers) >= limits.answers
        if enough and old.p99_ms is not None and new.p99_ms is not None and old.p99_ms > 0.0:
            yield old.p99_ms, new.p99_ms


def _weighed(pairs: Collection[_Pair]) -> list[_Pair]:
    """Return them so that none weighs too much, and none counts more than it has answered."""
    before = _bounded([pair.before for pair in pairs])
    after = _bounded([pair.after for pair in pairs])
    return [_Pair(pair.type, old, new) for pair, old, new in zip(pairs, before, after, strict=True)]


def _bounded(healths: Sequence[Health]) -> list[Health]:
    answers = [health.answers for health in healths if health.answers > 0]
    most = min(_MOST * statistics.median(answers), _MOST_ANSWERS) if answers else 0.0
    return [
        health
        if 0 <= health.errors <= health.answers >= health.alarms >= 0 and health.answers <= most
        else _cut(health, most)
        for health in healths
    ]


def _cut(health: Health, most: float) -> Health:
    total = max(0, health.answers)
    scale = min(1.0, most / total) if total else 0.0
    errors, alarms = (min(max(0, each), total) for each in (health.errors, health.alarms))
    return Health(round(total * scale), round(errors * scale), round(alarms * scale))


def _sums(pairs: Collection[_Pair], counted: Callable[[Health], int]) -> _Sums:
    """Return what devices counted, without the one that counted most."""
    left = sorted(pairs, key=lambda pair: counted(pair.after))
    if len(left) >= _ENOUGH:
        left.pop()
    return _Sums(
        sum(counted(pair.before) for pair in left),
        sum(pair.before.answers for pair in left),
        sum(counted(pair.after) for pair in left),
        sum(pair.after.answers for pair in left),
    )


def _named(kind: str) -> str:
    return f"devices of type {kind}" if kind else "devices without a profile"
