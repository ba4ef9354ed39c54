"""The fleet's service."""

from __future__ import annotations

from typing import Final

from benchmarks.figures.base import Spec

FLEET: Final[tuple[Spec, ...]] = (
    Spec(
        "fleet-page-p95",
        "fleet_page",
        "The fleet's page over 5,000 devices, sorted, filtered and turned over: p95",
        "ms",
        "the same pages over 50 devices",
        "<=",
        200,
    ),
    Spec(
        "fleet-states",
        "fleet_rates",
        "States of devices that a worker of the fleet's service checks and commits",
        "messages/CPU s",
        "decoding their JSON",
        ">=",
        500,
    ),
    Spec(
        "fleet-results",
        "fleet_rates",
        "Results of devices, one in 50 an alarm, that it checks, samples and commits",
        "messages/CPU s",
        "decoding their JSON",
        ">=",
        2000,
    ),
    Spec(
        "fleet-lost",
        "fleet",
        "Simulated devices, a roll-out of 1 %, 10 %, 100 %: lost, or done twice",
        "devices",
        "none",
        "<=",
        0,
    ),
    Spec(
        "fleet-knowing",
        "fleet",
        "From `rollout start` until every device has its assignment",
        "s",
        "until half of them have it",
        "<=",
        5,
    ),
    Spec(
        "fleet-pss",
        "fleet",
        "PSS of `edgeslm fleet serve` meanwhile, with its page, at most",
        "MB",
        "none",
        "<=",
        250,
    ),
    Spec(
        "fleet-exposure",
        "fleet_bad",
        "A bad version, the first wave 1 %: devices that are given it",
        "%",
        "none",
        "<=",
        1,
    ),
    Spec(
        "fleet-abort",
        "fleet_bad",
        "A bad version: from the message that proves it to the decision to stop",
        "s",
        "none",
        "<=",
        5,
    ),
    Spec(
        "fleet-rough",
        "fleet_rough",
        "5 % silent, 5 % flapping, the broker restarted: devices unaccounted for, or done twice",
        "devices",
        "none",
        "<=",
        0,
    ),
    Spec(
        "provision-time",
        "provision",
        "500 devices out of the box, one service: until all have their certificates",
        "s",
        "none",
        "<=",
        120,
    ),
    Spec(
        "provision-shared",
        "provision",
        "Of them: devices whose key, certificate or id another has",
        "devices",
        "none",
        "<=",
        0,
    ),
)
