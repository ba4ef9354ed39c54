"""Which plan is made for each target: the profile's, a lock file's, or what a search proposes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic import ValidationError

from edgeslm.contract.base import problems_of
from exporters.budget import too_slow
from exporters.targets.base import Plan, Target
from exporters.tune.lock import Lock, LockedPlan, LockError, check_same, locked
from exporters.tune.run import tunable, tune
from exporters.variant import Done, Maker, present
from exporters.workbench import CalibrationError

_TRIES: Final = 3  # proposals judged on all rows before the profile's own recipe is taken


@dataclass(slots=True)
class Decisions:
    """Those of one export.

    Args:
        maker: makes variants.
        lock: of this export; grows by what is chosen.
        minutes: to search each target's recipes for; None: not at all.
        searches: entries of tune.json.
        notes: what the user should know, a sentence each.
    """

    maker: Maker
    lock: Lock
    minutes: float | None
    searches: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def follow(self, given: Lock) -> None:
        """Choose as `given` has chosen.

        Raises:
            LockError: it is not of this export.
        """
        check_same(given, self.lock)
        self.lock = given

    def make(self, target: Target, plans: Sequence[Plan]) -> list[Done]:
        """Return the variants of one target.

        Raises:
            RejectedError: one cannot be made.
        """
        provider = plans[0].provider
        if (chosen := self.lock.chosen.get(provider)) is not None:
            return [self.maker.make(target, self._read(target, plans[0], chosen))]
        if self.minutes is None:
            return self._in_order(target, plans)
        if tunable(target) is None or not present(plans[0]):
            why = "has one recipe alone" if present(plans[0]) else "cannot run here"
            self.notes.append(f"nothing to search for {provider}: it {why}")
            return self._in_order(target, plans)
        return [self._search(target)]

    def _in_order(self, target: Target, plans: Sequence[Plan]) -> list[Done]:
        """Return the variants of `plans`; fallbacks only where nothing before them will do."""
        maker = self.maker
        made: list[Done] = []
        for i, plan in enumerate(plans):
            if plan.fallback and any(one.error is None or maker.allow_drop for one in made):
                continue
            try:
                made.append(maker.make(target, plan))
            except CalibrationError as err:
                if not any(later.fallback for later in plans[i + 1 :]):
                    raise
                self.notes.append(f"{plan.name} is left out: {err}")
        return made

    def _search(self, target: Target) -> Done:
        """Return the first proposal within gate and budget, judged and timed as an export is.

        Where none is, the last of them.
        """
        maker, known = self.maker, tunable(target)
        assert known is not None  # noqa: S101 -- asked before
        assert self.minutes is not None  # noqa: S101 -- as above
        found = tune(target, known, maker.profile, maker.workbench, minutes=self.minutes)
        own = known.choices(maker.profile)[0].plan
        for number, plan in enumerate(dict.fromkeys([*found.plans[:_TRIES], own])):
            # Proposals of one precision share a name.
            done = replace(maker, scratch=maker.scratch / f"{number}").make(target, plan)
            taken = plan
            took = [done.measured["latency_ms"]] if done.measured is not None else []
            if done.error is None and not too_slow(maker.profile, took):
                break
        self.searches.append(found.picked(taken))
        self.notes += [f"tuned {taken.provider}: {self.searches[-1]['why']}", *found.notes]
        chosen = {**self.lock.chosen, taken.provider: locked(taken)}
        self.lock = self.lock.model_copy(update={"chosen": chosen})
        return done

    def _read(self, target: Target, plan: Plan, chosen: LockedPlan) -> Plan:
        """Return the plan that a lock holds.

        Raises:
            LockError: the target knows no such recipe.
        """
        known = tunable(target)
        try:
            if known is None:
                msg = f"--lock: {plan.provider} has one recipe alone here"
                raise LockError(msg)
            recipe = known.read(plan.provider, chosen.recipe)
        except ValidationError as err:
            field_, fault = problems_of(err)[0]
            msg = f"--lock: chosen.{plan.provider}.recipe.{field_}: {fault}"
            raise LockError(msg) from None
        return replace(
            plan,
            name=chosen.variant,
            precision=chosen.precision,
            recipe=recipe,
            session=chosen.session,
            fallback=False,
        )
