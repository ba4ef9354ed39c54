"""What the updater orders: bundles and configurations are tried, committed, and taken back."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from edgeslm.adapters.unix_socket import LineServer, LineSink, SocketUnavailableError
from edgeslm.agent.desired import ConfigUnfitError, Desired, Laid, Plan, Source
from edgeslm.agent.intake import ControlBusyError, Intake, OrderTooLongError, encode
from edgeslm.agent.latencies import QUANTILES
from edgeslm.agent.loader import Loaded, Loader, Rechecked, Wanted
from edgeslm.agent.models import ModelSlot, Trial
from edgeslm.agent.parts import Office
from edgeslm.agent.responder import Model, ModelUnavailableError
from edgeslm.agent.roster import Roster
from edgeslm.agent.shelf import Shelf
from edgeslm.contract.control import (
    Commit,
    Configure,
    Done,
    Failed,
    Leaving,
    News,
    Order,
    Query,
    Recheck,
    Report,
    Revert,
    ServingModel,
    Try,
)
from edgeslm.contract.messages import ErrorInfo
from edgeslm.errors import EdgeSLMError, RejectedError, UnavailableError
from edgeslm.logs import Log
from edgeslm.ports import Clock

log = Log(__name__)
SILENCE_S: Final = 900.0  # without a word from an updater: what it was trying is taken back
MAX_MESSAGE: Final = 2000  # characters of an error's message


class NoTrialError(RejectedError):
    """A commit names what is not on trial: the trial was over, or the agent is another."""

    code = "trial.none"


class TrialAbandonedError(UnavailableError):
    """No updater has said a word for long, and something was on trial."""

    code = "trial.abandoned"


@dataclass(slots=True)
class _Pending:
    """An order that the loader carries out: what it is about, who waits for it, and since when."""

    source: Source | None
    peer: int
    since: float


class Home(Protocol):
    """What the controller needs of the agent."""

    def adopt(self, plan: Plan) -> None:
        """Live by `plan` from now on."""

    def settle(self) -> None:
        """Live by what is desired, as far as it fits."""


class Controller:
    """Owned by the agent's main thread.

    Args:
        desired: what is to run.
        shelf: the updater's slots.
        roster: of the agent.
        loader: of the agent.
        office: see there.
        home: see there.
        wake: wakes the agent's main thread.
        listen: makes the socket; raises SocketUnavailableError.
    """

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        desired: Desired,
        shelf: Shelf,
        *,
        roster: Roster,
        loader: Loader,
        office: Office,
        home: Home,
        wake: Callable[[], None],
        listen: Callable[[LineSink, Callable[[], bool]], LineServer],
    ) -> None:
        self._desired = desired
        self._shelf = shelf
        self._roster = roster
        self._loader = loader
        self._office = office
        self._home = home
        self._clock: Clock = office.clock
        self._instance = secrets.token_hex(16)
        self._intake = Intake(wake)
        self._heard_at = self._clock.monotonic()
        self._trying: dict[str, _Pending] = {}
        self._rechecking: dict[str, _Pending] = {}
        self._going_back: dict[str, _Pending] = {}
        self._committed: set[str | None] = set()  # last in this life; a commit may come twice
        self._server: LineServer | None = None
        try:
            self._server = listen(self._intake.take, self._intake.room)
        except SocketUnavailableError as err:
            office.trouble("control_unavailable", err.code, str(err), None)

    def turn(self, now: float) -> None:
        """Carry out what was ordered, and take back what nobody looks after."""
        intake = self._intake
        if intake.orders or intake.wrong:
            self._heard_at = now
            while intake.wrong:
                peer, err = intake.wrong.popleft()
                self._failed(peer, "", None, err, last=isinstance(err, OrderTooLongError))
            while intake.orders:
                self._take(*intake.orders.popleft())
            if self._server is not None:
                self._server.wake()  # there may be more
        for name in [name for name in self._going_back if self._is_back(name)]:
            pending = self._going_back.pop(name)
            self._done(pending.peer, "revert", name, since=pending.since)
        if now >= self.due_at():
            self._give_up()

    def due_at(self) -> float:
        """When `turn` has something to do though nothing happens."""
        trying = self._desired.on_trial is not None or any(
            slot.trial is not None for slot in self._roster.slots.values()
        )
        return self._heard_at + SILENCE_S if trying else float("inf")

    def leave(self) -> None:
        """Say that the agent was asked to stop, and take no more orders."""
        if self._server is not None:
            self._server.stop(encode(Leaving()))
            self._server = None

    def awaits(self, wanted: Wanted) -> bool:
        """Whether what the loader is at is still to be tried."""
        pending = self._trying.get(wanted.name)
        return pending is not None and pending.source == wanted.sources[0]

    def loaded(self, loaded: Loaded) -> None:
        """Let a bundle serve that was loaded for a trial, or say why it does not."""
        name, model, source = loaded.wanted.name, loaded.model, loaded.source
        slot = self._roster.slots.get(name)
        pending = self._trying.pop(name) if self.awaits(loaded.wanted) else None
        if slot is None or model is None or source is None or loaded.errors or pending is None:
            if loaded.errors and slot and model and source and slot.responder is None:
                self._roster.equip(slot, model, source)  # what was let go for it, again
                model = None
            self._loader.free(model)  # also of what a failure leaves behind
            if pending is None:  # taken back meanwhile
                return
            if slot is None or slot.trial is None:
                self._settle(name)
            error = loaded.errors[0] if loaded.errors else _gone(name)
            self._failed(pending.peer, "try", name, error)
            return
        served = slot.serving
        before = self._roster.equip(slot, model, source)
        if slot.trial is None:
            old = None if before is None or served is None else (before, served)
            slot.trial = Trial(old)
        elif before is not None:  # of an earlier trial; what was before that is kept
            self._loader.free(before)
        slot.error = None
        detail = {"version": model.ref["version"], "slot": source.slot or ""}
        self._office.event("trial_begun", name, detail)
        self._done(pending.peer, "try", name, since=pending.since)

    def rechecked(self, result: Rechecked) -> None:
        """Say what came of replaying a golden file."""
        if (pending := self._rechecking.pop(result.name, None)) is None:
            return
        if result.error is None:
            self._done(pending.peer, "recheck", result.name, since=pending.since)
        else:
            self._failed(pending.peer, "recheck", result.name, result.error)

    # Orders.

    def _take(self, peer: int, order: Order | None) -> None:
        now = self._clock.monotonic()
        try:
            match order:
                case None | Query():
                    self._say(peer, self._report(now))
                case Try():
                    self._try(order, _Pending(self._place(order), peer, now))
                case Recheck():
                    self._recheck(order.model, _Pending(None, peer, now))
                case Commit():
                    self._commit(order.model)
                    self._done(peer, "commit", order.model, since=now)
                case Revert():
                    self._go_back(order.model, _Pending(None, peer, now))
                case Configure():
                    self._configure(Laid(order.seq, order.config))
                    self._done(peer, "configure", None, since=now)
        except EdgeSLMError as err:
            assert order is not None  # noqa: S101 -- a report raises nothing
            self._failed(peer, order.do, getattr(order, "model", None), err)

    def _place(self, order: Try) -> Source:
        return self._shelf.place(order.model, order.slot, order.bundle)

    def _try(self, order: Try, asked: _Pending) -> None:
        """Have a bundle loaded, beside what serves or in its place.

        Raises:
            ControlBusyError, ModelUnavailableError: see there.
        """
        name = order.model
        under_way = self._trying.get(name)
        if under_way is not None:
            if under_way.source != asked.source:
                msg = f"{name}: another bundle of it is being loaded; revert that first"
                raise ControlBusyError(msg)
            under_way.peer = asked.peer
            return
        slot = self._roster.slots.get(name)
        if slot is not None and slot.trial is not None and slot.source == asked.source:
            self._done(asked.peer, "try", name, since=asked.since)
            return
        if slot is None or slot.retiring:
            self._desired.tried.add(name)
            self._home.settle()
            slot = self._roster.slots.get(name)
        if slot is None:
            self._desired.tried.discard(name)
            why = self._roster.unfit.get(name, _gone(name))["message"]
            raise ModelUnavailableError(why)
        assert asked.source is not None  # noqa: S101 -- `_place` returned it
        self._trying[name] = asked
        entries = slot.settings.cache_entries
        self._loader.want(Wanted(name, (asked.source,), entries, on_trial=True))

    def _recheck(self, name: str, asked: _Pending) -> None:
        """Have the golden file of what serves replayed.

        Raises:
            ModelUnavailableError: nothing serves.
        """
        slot = self._roster.slots.get(name)
        if slot is None or slot.responder is None or slot.serving is None:
            msg = f"{name}: no bundle serves it"
            raise ModelUnavailableError(msg)
        if name not in self._rechecking:
            self._loader.recheck(name, slot.responder.model)
        self._rechecking[name] = asked

    def _commit(self, name: str | None) -> None:
        """Make what is on trial stay.

        Raises:
            NoTrialError: nothing is, and it was not just committed.
        """
        trial = self._trial(name)
        if trial is None:
            if name not in self._committed:
                msg = f"{name or 'the configuration'}: nothing is on trial"
                raise NoTrialError(msg)
            return
        if isinstance(trial, Laid):
            self._shelf.laid, self._desired.on_trial = trial, None
        else:
            assert trial.trial is not None  # noqa: S101 -- `_trial` has looked
            assert trial.source is not None  # noqa: S101 -- `loaded` has set both
            before, trial.trial = trial.trial.before, None
            self._shelf.commit(trial.name, trial.source)
            self._desired.tried.discard(trial.name)
            self._loader.free(None if before is None else before[0])
        self._committed.add(name)
        self._home.settle()
        self._office.event("trial_committed", name, {})

    def _go_back(self, name: str | None, asked: _Pending) -> None:
        """Take back what is on trial, and say so when what was before it serves."""
        under_way = self._revert(name) or name in self._going_back
        if name is None or not under_way or self._is_back(name):
            self._done(asked.peer, "revert", name, since=asked.since)
        else:
            self._going_back[name] = asked

    def _is_back(self, name: str) -> bool:
        """Whether a model that is no longer on trial is loaded again, or cannot be."""
        slot = self._roster.slots.get(name)
        return slot is None or not slot.loading

    def _revert(self, name: str | None, why: ErrorInfo | None = None) -> bool:
        """Go back to what was before the trial, where there is one; return whether there was.

        `why`, if nobody ordered it.
        """
        self._committed.discard(name)
        loading = name is not None and self._trying.pop(name, None) is not None
        trial = self._trial(name)
        if isinstance(trial, Laid):
            self._desired.on_trial = None
        elif trial is not None:
            self._loader.free(self._put_back(trial))
        if trial is not None or loading:
            self._settle(name)
        if isinstance(trial, ModelSlot) and trial.serving is not None and not trial.retiring:
            self._roster.look(trial)  # the settings may name another by now
        if trial is not None and why is None:
            self._office.event("trial_reverted", name, {})
        elif trial is not None and why is not None:
            self._office.trouble("trial_reverted", why["code"], why["message"], name)
        return trial is not None or loading

    def _settle(self, name: str | None) -> None:
        """Live by what is desired, now that this is not tried any more."""
        if name is not None:
            self._desired.tried.discard(name)
        self._home.settle()
        if name is not None and (slot := self._roster.slots.get(name)) is not None:
            self._roster.bring_back(slot)

    def _put_back(self, slot: ModelSlot) -> Model | None:
        """Serve what served before the trial, or nothing; return what was tried."""
        assert slot.trial is not None  # noqa: S101 -- the caller has looked
        before, slot.trial = slot.trial.before, None
        if before is not None:
            return self._roster.equip(slot, *before)
        tried = None if slot.responder is None else slot.responder.model
        self._roster.silence(slot)
        self._roster.changed = True
        return tried

    def _configure(self, laid: Laid) -> None:
        """Live by a configuration, on trial.

        Raises:
            ConfigUnfitError: it does not fit; nothing has changed.
        """
        before, self._desired.on_trial = self._desired.on_trial, laid
        try:
            plan = self._desired.plan()
        except ConfigUnfitError:
            self._desired.on_trial = before
            raise
        self._home.adopt(plan)
        self._office.event("trial_begun", None, {"seq": laid.seq})

    def _trial(self, name: str | None) -> ModelSlot | Laid | None:
        """What is on trial under that name."""
        if name is None:
            return self._desired.on_trial
        slot = self._roster.slots.get(name)
        return slot if slot is not None and slot.trial is not None else None

    def _give_up(self) -> None:
        """Take back all that is on trial: the updater has died, and cannot."""
        names: list[str | None] = [n for n, s in self._roster.slots.items() if s.trial is not None]
        message = f"no updater has said a word for {SILENCE_S:.0f} s"
        for name in [*names, None]:
            self._revert(name, {"code": TrialAbandonedError.code, "message": message})

    # What is said.

    def _report(self, now: float) -> Report:
        models = [self._serving(slot, now) for slot in self._roster.slots.values()]
        models += [
            ServingModel(model=name, state="failed", error=_short(error))
            for name, error in self._roster.unfit.items()
        ]
        return Report(
            instance=self._instance,
            models=tuple(models),
            config_seq=self._desired.laid.seq,
            config_trial=self._desired.on_trial is not None,
        )

    def _serving(self, slot: ModelSlot, now: float) -> ServingModel:
        serves = slot.serving
        took = slot.latencies.quantiles_ms(QUANTILES, now=now)
        return ServingModel(
            model=slot.name,
            state="serving" if serves else "loading" if slot.loading else "failed",
            bundle=None if serves is None else serves.hash,
            version=slot.responder.model.ref["version"] if serves and slot.responder else None,
            trial=slot.trial is not None,
            answered=slot.counts["answered"],
            errors=slot.counts["error"],
            p50_ms=None if took is None else took[0],
            p99_ms=None if took is None else took[1],
            error=None if slot.error is None else _short(slot.error),
        )

    def _done(self, peer: int, do: str, model: str | None, *, since: float) -> None:
        took_ms = 1e3 * (self._clock.monotonic() - since)
        self._say(peer, Done(do=do, model=model, took_ms=max(0.0, took_ms)))

    def _failed(
        self,
        peer: int,
        do: str,
        model: str | None,
        err: EdgeSLMError | ErrorInfo,
        *,
        last: bool = False,
    ) -> None:
        error: ErrorInfo = (
            {"code": err.code, "message": str(err)} if isinstance(err, EdgeSLMError) else err
        )
        log.warning("order_failed", do=do, model=model, **error)
        self._say(peer, Failed(do=do, model=model, error=_short(error)), last=last)

    def _say(self, peer: int, news: News, *, last: bool = False) -> None:
        if self._server is not None:
            self._server.send(peer, encode(news), last=last)


def _short(error: ErrorInfo) -> ErrorInfo:
    return {"code": error["code"], "message": error["message"][:MAX_MESSAGE]}


def _gone(name: str) -> ErrorInfo:
    return {"code": ModelUnavailableError.code, "message": f"{name}: it was removed meanwhile"}
