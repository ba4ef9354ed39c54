"""The search: recipe by recipe, then what hurts, then how to open what is best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from edgeslm.errors import RejectedError
from exporters.stop import Terminated
from exporters.tune.front import Limits, front, ranking
from exporters.tune.space import Choice, Tunable
from exporters.tune.trial import Harm, Lab, Trial
from exporters.workbench import Stage

_HELPS: Final = 0.1  # share of the error that leaving a group in float32 must take away
_GROUPS: Final = 3  # most of them left at once
_ROUNDS: Final = 7  # of the last comparison
_FINALISTS: Final = 5


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What int8 does in one group of operators.

    Args:
        choice: the recipe looked into.
        group: of nodes.
        nodes: in it.
        before: of the recipe as it is.
        after: with the group in float32.
        excluded: the group is left in float32 in a recipe that was tried.
    """

    choice: Choice
    group: str
    nodes: Sequence[str]
    before: Harm
    after: Harm
    excluded: bool = False

    @property
    def won(self) -> float:
        """Points of the task's metric that come back when it is left in float32."""
        return self.before.points - self.after.points

    @property
    def helps(self) -> float:
        """Share of the error that leaving it in float32 takes away."""
        return 1 - self.after.error / self.before.error if self.before.error else 0.0

    def beyond(self, share: float, of: Sensitivity) -> bool:
        """Whether it wins more than a share of what another group wins, in points or error."""
        return self.won > share * max(of.won, 0.0) or self.helps > share * max(of.helps, 0.0)


@dataclass(slots=True)
class Found:
    """What a search came to, and what it is on the way there."""

    trials: list[Trial] = field(default_factory=list)
    sensitivity: list[Sensitivity] = field(default_factory=list)
    whole: bool = False


class _OutOfTimeError(Exception):
    """Caught where the search ends."""


@dataclass(slots=True)
class Search:
    """One search under way.

    Args:
        lab: tries recipes.
        tunable: knows them.
        limits: what a recipe may take and lose.
        until: `clock` at which no more is begun.
        clock: seconds.
        stage: shows progress.
    """

    lab: Lab
    tunable: Tunable
    limits: Limits
    until: float
    clock: Callable[[], float]
    stage: Stage
    found: Found = field(default_factory=Found)

    def run(self) -> Found:
        """Search until all is tried, the time is over, or the user interrupts."""
        try:
            self.found.whole = self._explore()
            self._compare()
        except Terminated:
            raise
        except KeyboardInterrupt:  # what was found is kept, and the export goes on with it
            self.found.whole = False
        return self.found

    def _explore(self) -> bool:
        """Try all there is to try; return whether the time was enough."""
        try:
            self._try("trying recipes", self.tunable.choices(self.lab.profile))
            for trial in ranking(self.found.trials, self.limits)[:1]:
                self._try("trying settings", self.tunable.settings(trial.choice))
            looked = [
                (trial, self._sensitivity(f"sensitivity of {trial.choice.name}", trial, groups))
                for trial, groups in self._nearest()
            ]
            for trial, found in looked:
                self._spare(trial, found)
        except _OutOfTimeError:
            return False
        return True

    def _try(self, what: str, choices: Sequence[Choice]) -> None:
        known = {trial.choice for trial in self.found.trials}
        fresh = [choice for choice in choices if choice not in known]
        with self._steps(what, len(fresh)) as step:
            for choice in fresh:
                self._check_time()
                self.found.trials.append(self.lab.trial(choice))
                step()

    def _nearest(self) -> list[tuple[Trial, Mapping[str, Sequence[str]]]]:
        """Return what to look into: of each precision the recipe nearest to float32, worst first.

        Each with the groups of its operators; where there are none, there is nothing to look into.
        """
        encoder = self.lab.bench.encoder.model
        found: dict[str, tuple[Trial, Mapping[str, Sequence[str]]]] = {}
        for trial in sorted(self.found.trials, key=lambda trial: trial.error):
            precision = trial.choice.plan.precision
            if trial.problem is None and precision not in found:
                groups = self.tunable.groups(trial.choice, encoder)
                found |= {precision: (trial, groups)} if groups else {}
        return sorted(found.values(), key=lambda pair: (-pair[0].worst, -pair[0].error))

    def _spare(self, trial: Trial, looked: Sequence[Sensitivity]) -> None:
        """Try without the groups that hurt, then find which of their nodes it is."""
        choice = trial.choice
        # By the task's metric first: points that come back, and of equal ones the error.
        hurting = sorted(looked, key=lambda s: (s.won, s.helps), reverse=True)
        hurting = [s for s in hurting if s.won > 0 or s.helps >= _HELPS][:_GROUPS]
        left: list[str] = []
        for one in hurting:
            left += one.nodes
            self._exclude(choice, [one])
            self._try(f"without {one.group}", [self.tunable.without(choice, left)])
        if hurting and len(hurting[0].nodes) > 1:
            one_by_one = {name: [name] for name in hurting[0].nodes}
            looked = self._sensitivity(f"sensitivity of {hurting[0].group}", trial, one_by_one)
            # Those that win more than their share of what the group does.
            worst = [s for s in looked if s.beyond(1 / len(one_by_one), of=hurting[0])]
            self._exclude(choice, worst)
            names = [s.group for s in worst]
            self._try("without the worst", [self.tunable.without(choice, names)])

    def _sensitivity(
        self, what: str, trial: Trial, groups: Mapping[str, Sequence[str]]
    ) -> list[Sensitivity]:
        looked: list[Sensitivity] = []
        before = Harm(trial.worst, trial.error)
        with self._steps(what, len(groups)) as step:
            for group, nodes in groups.items():
                self._check_time()
                after = self.lab.harm(self.tunable.without(trial.choice, nodes))
                if after is not None:
                    looked.append(Sensitivity(trial.choice, group, nodes, before, after))
                    self.found.sensitivity.append(looked[-1])
                step()
        return looked

    def _exclude(self, choice: Choice, groups: Sequence[Sensitivity]) -> None:
        names = {one.group for one in groups}
        self.found.sensitivity = [
            replace(s, excluded=True) if s.choice == choice and s.group in names else s
            for s in self.found.sensitivity
        ]

    def _compare(self) -> None:
        """Time those of which one will be taken once more, all in turns with each other."""
        found, own = self.found, self.lab.own
        ranked = ranking(found.trials, self.limits)
        fitting = [trial for trial in ranked if self.limits.fits(trial)][:_FINALISTS]
        chosen = dict.fromkeys([own, *(t.choice for t in [*fitting, *front(found.trials)])])
        with self._steps("comparing the best", _ROUNDS) as step:
            try:
                times = self.lab.time(list(chosen), rounds=_ROUNDS, done=step)
            except RejectedError:  # of an earlier run, and cannot be compiled now
                return
        by_choice = dict(zip(chosen, times, strict=True))
        found.trials = [
            replace(trial, times=by_choice.get(trial.choice, trial.times)) for trial in found.trials
        ]

    def _check_time(self) -> None:
        if self.clock() >= self.until:
            raise _OutOfTimeError

    @contextmanager
    def _steps(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """Announce a stage that comes to its end even where the search is cut short."""
        done = 0
        with self.stage(f"{what} ({self.lab.own.plan.provider})", total) as advance:

            def step() -> None:
                nonlocal done
                done += 1
                advance(1)

            try:
                yield step
            finally:
                advance(total - done)
