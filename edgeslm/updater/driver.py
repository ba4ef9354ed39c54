"""Carries out one change of a device, from its beginning to its end, by `core.update`'s table.

Each turn asks the table what an event means, writes what belongs into `slots.json` in one go, and
does the rest, which gives the next event. Whoever is killed in between begins again from what is
written.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from edgeslm.contract.control import Commit, Configure, Order, Recheck, Report, Revert, Try
from edgeslm.contract.fleet import BlobFile, BlockList
from edgeslm.contract.messages import ErrorInfo
from edgeslm.contract.profile import Trial
from edgeslm.contract.slots import Bad, Operation, SlotTable
from edgeslm.core import slots
from edgeslm.core.trial import Sample, judge, served
from edgeslm.core.update import (
    MAX_ATTEMPTS,
    ON_THE_TABLE,
    AgentCrashedError,
    Effect,
    Event,
    OverdueError,
    State,
    SupersededError,
    UnfinishedError,
    advance,
    at_start,
    of_agent,
    state_of,
)
from edgeslm.errors import EdgeSLMError, RejectedError
from edgeslm.ports import Clock, SlotStore
from edgeslm.runtime.bundle import MANIFEST
from edgeslm.updater.change import Change, ConfigChange, ModelChange, beginning, same
from edgeslm.updater.control import AgentAwayError, Control, OrderFailedError, info_of, passes
from edgeslm.updater.install import fill, verify
from edgeslm.updater.voice import Failure, Voice

WATCH_S: Final = 1.0  # between two looks at the agent
REVERT_S: Final = 60.0  # for the agent to go back; it does so by itself when it starts


class HaltedError(Exception):
    """No fault: the updater is asked to stop. The change waits where it is."""


@dataclass(slots=True)
class Driver:
    """Owned by the updater's main thread.

    Args:
        store: of the slots.
        control: the way to the agent.
        voice: tells how it goes.
        clock: for deadlines.
        trial: of the device's profile.
        load_s: for the agent to load a model.
        keep_free: bytes of the disk that stay free.
        boot: this boot.
        check: called at least every second; raises `HaltedError`, or `SupersededError` where a
            newer assignment asks for something else.
    """

    store: SlotStore
    control: Control
    voice: Voice
    clock: Clock
    trial: Trial
    load_s: float
    keep_free: int
    boot: str
    check: Callable[[], None] = lambda: None
    _change: Change | None = None
    _about: Operation | None = None
    _listed: BlockList | None = None
    _error: EdgeSLMError | None = None
    _agent: Report | None = None
    # The agent that we have been connected to, without a break, since its trial began.
    _watched: str | None = None
    _before: Sample = field(default_factory=lambda: Sample(0.0))
    _begun: Sample | None = None

    def run(self, change: Change) -> EdgeSLMError | None:
        """Carry out a change; return why it came to nothing, None where it was committed.

        Raises:
            HaltedError: `run` or `resume` goes on from there.
        """
        self._change, self._listed = change, None
        operation = self._table.operation
        if operation is not None and not same(operation, change):
            self._drop()
            operation = None
        if bad := slots.known_bad(self._table, change.model, change.bundle):
            return slots.KnownBadError(bad)
        event = Event.OFFERED if operation is None else at_start(operation, boot=self.boot)
        return self._drive(event)

    def resume(self) -> EdgeSLMError | None:
        """Bring a change to its end that needs its source no more; others wait for `run`.

        Raises:
            HaltedError: see `run`.
        """
        operation = self._table.operation
        if state_of(operation) not in {State.STAGED, State.TRIAL, State.REVERTING}:
            return None
        return self._drive(at_start(operation, boot=self.boot))

    def abandon(self) -> None:
        """End a change that nobody asks for any more; what is on trial is taken back."""
        self._drop()
        with contextlib.suppress(AgentAwayError, OrderFailedError):
            self.settle()

    def settle(self) -> None:
        """Tell an agent whether what it has on trial was committed, where no change is under way.

        Between the commit and the word of it to the agent, either may have been killed.

        Raises:
            AgentAwayError, OrderFailedError: then the next time.
        """
        if self._table.operation is None:
            self._settle(self.control.report())

    def _drop(self) -> None:
        self.store.write(slots.end(self._table))
        self.voice.phase("idle")

    @property
    def _table(self) -> SlotTable:
        return self.store.read()

    @property
    def _operation(self) -> Operation:
        operation = self._table.operation
        assert operation is not None  # noqa: S101 -- asked for within a change
        return operation

    def _drive(self, event: Event) -> EdgeSLMError | None:
        self._error = None
        following: Event | None = event
        while following is not None:
            following = self._turn(following)
        return self._error

    def _turn(self, event: Event) -> Event | None:
        """Do what an event asks for; return what came of it, None where the change is over."""
        step = advance(state_of(self._table.operation), event)
        self._enter(step.state, step.effects)
        found: Event | None = None
        for effect in step.effects:
            # What went wrong is told, and nothing else is done before it is dealt with.
            if effect not in ON_THE_TABLE and (found is None or effect is Effect.REPORT):
                found = self._perform(effect, step.state) or found
        if step.state is State.IDLE:
            return None
        assert found is not None  # noqa: S101 -- every state but idle has something to do
        return found

    def _enter(self, state: State, effects: tuple[Effect, ...]) -> None:
        """Write all that changes of the table."""
        before = table = self._table
        for effect in effects:
            table = self._written(effect, table)
        if state_of(table.operation) is not state:
            table = slots.revert(table) if state is State.REVERTING else self._moved(table, state)
        if table != before:
            self.store.write(table)
        self._about = table.operation or self._about
        if state_of(before.operation) is not state:
            model = self._about.model if self._about else None
            version = self._about.version if self._about else None
            phase = table.operation.phase if table.operation else "idle"
            self.voice.phase(phase, *((model, version) if table.operation else ()))

    def _written(self, effect: Effect, table: SlotTable) -> SlotTable:
        """Return the table as an effect leaves it."""
        writes: dict[Effect, Callable[[SlotTable], SlotTable]] = {
            Effect.BEGIN: self._begin,
            Effect.FILL: self._fill,
            Effect.WHOLE: slots.whole,
            Effect.COUNT: self._count,
            Effect.UNCOUNT: slots.uncounted,
            Effect.COMMIT: slots.commit,
            Effect.REMEMBER: self._remember,
            Effect.END: slots.end,
        }
        return writes[effect](table) if effect in ON_THE_TABLE else table

    def _begin(self, table: SlotTable) -> SlotTable:
        assert self._change is not None  # noqa: S101 -- it was offered
        return slots.begin(table, beginning(self._change, self.clock.wall()))

    def _fill(self, table: SlotTable) -> SlotTable:
        change = self._change
        assert isinstance(change, ModelChange)  # noqa: S101 -- a configuration has no slot
        return slots.filling(
            table, bundle=change.bundle, version=change.version, blocks=change.blocks
        )

    def _count(self, table: SlotTable) -> SlotTable:
        assert self._agent is not None  # noqa: S101 -- it is what is ready
        return slots.begin_trial(table, boot=self.boot, agent=self._agent.instance)

    def _remember(self, table: SlotTable) -> SlotTable:
        operation = table.operation
        if operation is None or operation.bundle is None:
            return table
        bad = Bad(hash=operation.bundle, version=operation.version, error=self._info())
        return slots.remember_bad(table, operation.model, bad)

    @staticmethod
    def _moved(table: SlotTable, state: State) -> SlotTable:
        for phase in ("resolving", "fetching", "verifying", "staged"):
            if phase == state.value:
                return slots.moved(table, phase)
        return table

    def _perform(self, effect: Effect, state: State) -> Event | None:
        """Do something; return what came of it."""
        do: dict[Effect, Callable[[], Event | None]] = {
            Effect.RESOLVE: self._resolve,
            Effect.FETCH: self._fetch,
            Effect.VERIFY: self._verify,
            Effect.CALL: partial(self._call, state),
            Effect.SETTLE: self._settle_now,
            Effect.TRY: self._try,
            Effect.WATCH: self._watch,
            Effect.RECHECK: self._recheck,
            Effect.REVERT: self._revert,
            Effect.REPORT: self._report,
        }
        try:
            return do[effect]()
        except AgentAwayError:
            return self._gone()
        except EdgeSLMError as err:
            self._error = err
            return _meaning(err, effect)

    # What a change needs of its source.

    def _resolve(self) -> Event:
        self.check()
        if not isinstance(self._change, ModelChange):
            return Event.CHECKED
        self._blocks()
        return Event.RESOLVED

    def _blocks(self) -> BlockList:
        change = self._change
        assert isinstance(change, ModelChange)  # noqa: S101 -- a configuration has no blocks
        self._listed = self._listed or change.supply.blocks()
        return self._listed

    def _into(self) -> tuple[ModelChange, Path]:
        """Return the change, and the folder of the slot that is being filled."""
        change, slot = self._change, self._operation.slot
        assert isinstance(change, ModelChange)  # noqa: S101 -- a configuration has no slot
        assert slot is not None  # noqa: S101 -- filling has chosen it
        return change, self.store.folder(change.model, slot)

    def _fetch(self) -> Event:
        listed = self._blocks()
        change, into = self._into()
        slot = self._operation.slot
        if slot is not None and not _begun(into, listed.bundle):
            self.store.empty(change.model, slot)
        total, done = sum(file.size for file in listed.files), 0
        near = [self.store.folder(change.model, name) for name in ("a", "b")]
        near = [folder for folder in near if folder != into and (folder / MANIFEST).is_file()]

        def advance(count: int) -> None:
            self.check()
            self.voice.progress(min(total, done + count), total)

        def bring(file: BlobFile, path: Path) -> None:
            came = 0

            def more(count: int) -> None:
                nonlocal came
                came += count
                advance(came)

            change.supply.bring(file, path, near=near, advance=more)

        def arrived(file: BlobFile) -> None:
            nonlocal done
            done += file.size
            advance(0)

        fill(
            listed,
            into,
            near=near,
            bring=bring,
            keep_free=self.keep_free,
            held=change.supply.held,
            arrived=arrived,
        )
        return Event.FETCHED

    def _verify(self) -> Event:
        _, into = self._into()
        verify(self._blocks(), into)
        return Event.VERIFIED

    # The agent.

    @property
    def _reload_s(self) -> float:
        """For the agent to load the old one again, where it lets it go for a trial."""
        return 0.0 if self.trial.side_by_side else self.load_s

    def _call(self, state: State) -> Event:
        """Connect, and say what it means who is there."""
        until = self.clock.monotonic() + (REVERT_S if state is State.REVERTING else self.load_s)
        while True:
            if state is State.STAGED:
                self.check()
            try:
                self._agent = self.control.report()
                break
            except AgentAwayError as err:
                if self.control.left:
                    return self._gone()
                if self.clock.monotonic() >= until:
                    msg = f"the agent was not there in time: {err}"
                    raise OverdueError(msg) from None
                self.voice.waiting("agent")
                self._pause()
        self.voice.waiting(None)
        operation = self._operation
        watched = self._watched is not None and self._watched == operation.agent
        instance = self._agent.instance
        event = of_agent(operation, boot=self.boot, instance=instance, watched=watched)
        if event is Event.AGENT_CRASHED:
            msg = "the agent ended during the trial, and nobody had asked it to"
            self._error = AgentCrashedError(msg)
        elif event is Event.OUT_OF_ATTEMPTS:
            msg = f"{MAX_ATTEMPTS} trials were begun, and none came to its end"
            self._error = UnfinishedError(msg)
        return event

    def _gone(self) -> Event:
        """Say how the agent went that we were connected to."""
        if self.control.left:
            self.control.left, self._watched = False, None
            return Event.AGENT_LEFT
        return Event.AGENT_AWAY

    def _settle_now(self) -> None:
        try:
            self._settle(self.control.report())
        except (AgentAwayError, OrderFailedError):
            # After a commit: the next time that agent and updater meet.
            if self._table.operation is not None:
                raise

    def _settle(self, report: Report) -> None:
        """Say of each trial that the agent has whether it was committed."""
        table = self._table
        for serving in report.models:
            if serving.trial:
                active = slots.committed(slots.slots_of(table, serving.model))
                kept = active is not None and active.bundle == serving.bundle
                self._close(serving.model, kept=kept)
        if report.config_trial:
            self._close(None, kept=report.config_seq == table.config_seq)

    def _close(self, model: str | None, *, kept: bool) -> None:
        order: Order = Commit(model=model) if kept else Revert(model=model)
        self.control.order(order, timeout_s=REVERT_S + self._reload_s)

    def _try(self) -> Event:
        operation = self._operation
        report = self.control.report()
        self._watched = report.instance
        self._before, self._begun = self._sample(report), None
        order: Order = Configure(seq=operation.seq, config=operation.config)
        if operation.model is not None:
            assert operation.slot is not None  # noqa: S101 -- what is staged has one
            assert operation.bundle is not None  # noqa: S101
            order = Try(model=operation.model, slot=operation.slot, bundle=operation.bundle)
        self.control.order(order, timeout_s=self.load_s + self._reload_s)
        return Event.LOADED

    def _watch(self) -> Event:
        self._begun = self._begun or self._sample(self.control.report())
        while True:
            self.check()
            report = self.control.report()
            now = self._sample(report)
            verdict = judge(self.trial, before=self._before, begun=self._begun, now=now)
            if verdict == "keep" and self._is_served(report, now.at_s - self._begun.at_s):
                return Event.OUTLASTED
            if isinstance(verdict, RejectedError):
                self._error = verdict
                return Event.FAULTY
            if isinstance(verdict, EdgeSLMError):
                raise verdict
            self._pause()

    def _is_served(self, report: Report, elapsed_s: float) -> bool:
        """Whether a configuration's routes lead to models that serve; see `core.trial.served`."""
        config, change = self._operation.config, self._change
        awaited = change.awaited if isinstance(change, ConfigChange) else frozenset()
        late = elapsed_s >= self.trial.duration_s + self.load_s
        return config is None or served(config, report.models, awaited=awaited, late=late)

    def _recheck(self) -> Event:
        if (model := self._operation.model) is not None:
            self.control.order(Recheck(model=model), timeout_s=self.load_s)
        return Event.HEALTHY

    def _revert(self) -> Event:
        self._close(self._operation.model, kept=False)
        return Event.REVERTED

    def _sample(self, report: Report) -> Sample:
        """Return how the model fares; of a configuration, all models together."""
        name = self._operation.model
        found = [model for model in report.models if name in {None, model.model}]
        slowest = [model.p99_ms for model in found if model.p99_ms is not None]
        return Sample(
            self.clock.monotonic(),
            sum(model.answered for model in found),
            sum(model.errors for model in found),
            max(slowest, default=None),
        )

    def _pause(self) -> None:
        until = self.clock.monotonic() + WATCH_S
        while (left := until - self.clock.monotonic()) > 0:
            self.check()
            time.sleep(min(left, WATCH_S / 4))

    # What is told.

    def _report(self) -> None:
        about = self._about
        assert about is not None  # noqa: S101 -- it was begun
        detail = {"seq": about.seq} | ({} if about.version is None else {"version": about.version})
        voice = self.voice
        if self._error is None:
            voice.succeeded()
            if about.model is None:
                voice.event("config_committed", None, detail)
            else:
                voice.event("update_committed", about.model, detail)
        else:
            passing = passes(self._error)
            failure = Failure(self._info(), about.model, about.version, passing=passing)
            if about.model is None:
                voice.trouble("config_failed", failure, detail)
            else:
                voice.trouble("update_failed", failure, detail)
        voice.tell()

    def _info(self) -> ErrorInfo:
        err = self._error
        return {"code": "internal", "message": str(err)} if err is None else info_of(err)


def _meaning(err: EdgeSLMError, effect: Effect) -> Event:
    """Return what it means that something could not be done."""
    match err:
        case SupersededError():
            return Event.SUPERSEDED
        case OverdueError():
            return Event.OVERDUE
        case OrderFailedError() if err.at_fault:
            return Event.FAULTY
        # Every byte is as it was signed, and yet it is no bundle for this build.
        case RejectedError() if effect is Effect.VERIFY:
            return Event.FAULTY
        case _:
            return Event.FAILED


def _begun(folder: Path, bundle: str) -> bool:
    """Whether what lies in a folder is this bundle or a part of it, and no other one."""
    try:
        found = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return folder.is_dir()  # a part has no manifest yet
    return found == bundle
