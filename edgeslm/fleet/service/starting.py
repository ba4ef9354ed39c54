"""What operators do to roll-outs: each in one transaction, with the line that says who did it."""

from __future__ import annotations

from sqlalchemy import Engine

from edgeslm.contract.rollout import Plan
from edgeslm.fleet.database import audit, rollouts
from edgeslm.fleet.service.preview import Catalogue, preview


def start(
    engine: Engine, catalogue: Catalogue, plan: Plan, actor: audit.Actor, *, now: float
) -> int:
    """Start a roll-out; return its number. The conductor moves it.

    Raises:
        EdgeSLMError: it cannot be; says why, and of which devices.
    """
    with engine.begin() as conn:
        targets = preview(conn, catalogue, plan, now).targets(now)
        number = rollouts.create(conn, plan, targets, by=actor.who, now=now)
        audit.record(
            conn,
            actor,
            "rollout.started",
            now=now,
            rollout=number,
            model=plan.model,
            version=plan.version,
            devices=len(targets),
        )
    return number


def ask(
    engine: Engine, number: int, what: rollouts.Asked, actor: audit.Actor, *, now: float
) -> None:
    """Ask the conductor to pause, resume or abort a roll-out.

    Raises:
        UnknownRolloutError, RolloutEndedError: see there.
    """
    with engine.begin() as conn:
        rollouts.ask(conn, number, what, actor.who)
        audit.record(conn, actor, f"rollout.{what}", now=now, rollout=number)
