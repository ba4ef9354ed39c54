"""The updater's loop: looks at what is assigned, and changes one thing after the other.

One thread does all of it, one step after the other; a link to the broker and a socket for commands
on this device have threads of their own, which only queue what comes.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from edgeslm.adapters.stick import open_stick
from edgeslm.contract.control import Answer, Errand
from edgeslm.contract.fleet import Assignment
from edgeslm.contract.profile import DeviceProfile
from edgeslm.core import slots
from edgeslm.core.backoff import full_jitter
from edgeslm.core.slots import KnownBadError
from edgeslm.core.update import SupersededError
from edgeslm.errors import EdgeSLMError
from edgeslm.logs import Log
from edgeslm.ports import Clock, SlotStore, TrustedMetadata
from edgeslm.runtime.device import Device
from edgeslm.updater.change import Change, ConfigChange, hash_of
from edgeslm.updater.control import AgentAwayError, OrderFailedError, info_of, passes
from edgeslm.updater.desired import Chooser, Desired, assigned, newest
from edgeslm.updater.diagnostics import Diagnostics
from edgeslm.updater.door import MAX_WAITING, Door
from edgeslm.updater.driver import Driver, HaltedError
from edgeslm.updater.source import Source, Switch
from edgeslm.updater.stick import StickSource
from edgeslm.updater.voice import Failure, Voice

log = Log(__name__)
LISTEN_S: Final = 1.0
RETRY_BASE_S: Final = 15.0
RETRY_CAP_S: Final = 3600.0
SETTLE_S: Final = 60.0  # between two looks whether the agent has heard of the last commit

Steps = Generator[Change, EdgeSLMError | None, list[EdgeSLMError]]
"""Yields what is to be changed, is sent how each ended, and returns what came to nothing."""


class Broker(Source, Protocol):
    """A source that brings news, and takes some.

    Attributes:
        check: see `Driver`; called while it waits.
        waiting: told what it waits for, and None when that has come.
    """

    check: Callable[[], None]
    waiting: Callable[[str | None], None]

    def send(self, topic: str, payload: bytes, retain: bool) -> None:  # noqa: FBT001 -- as `Send`
        """Publish, now or when there is a connection."""

    def listen(self, timeout_s: float) -> bool:
        """Wait for news at most so long; return whether assignment or metadata have changed."""

    def commands(self) -> list[bytes]:
        """Return what came on the device's topic of commands, once."""

    @property
    def ready(self) -> bool:
        """Whether there is a connection, and what is retained has come."""


@dataclass(slots=True)
class Updater:
    """Args: what it is made of; `edgeslm.updater.wiring` has the real ones.

    Attributes:
        progress: called in every turn, and at least every second within a change.
        door: where commands of this device ask for something.
        diagnostics: what a fleet's manager may ask for; None: nothing.
    """

    device_id: str
    device: Device
    profile: DeviceProfile | None
    store: SlotStore
    trust: TrustedMetadata
    driver: Driver
    voice: Voice
    clock: Clock
    broker: Broker
    switch: Switch
    idle_exit_s: float | None
    progress: Callable[[], None] = lambda: None
    door: Door | None = None
    diagnostics: Diagnostics | None = None
    _errands: deque[tuple[int, Errand]] = field(default_factory=deque)
    _serving: int | None = None
    _said_at: float = 0.0
    _stopping: bool = False
    _due: bool = True
    _attempt: int = 0
    _retry_at: float = 0.0
    _settle_at: float = 0.0
    _told: tuple[str, str] | None = None
    _working_on: bytes | None = None
    _verifies: bool = False

    def stop(self) -> None:
        """Ask for the end; may be called by any thread."""
        self._stopping = True

    def run(self) -> None:
        """Work until `stop`, or until there was nothing to do for long enough."""
        self.voice.tell()  # what is retained may be of before a kill
        try:
            self._outcome(self.driver.resume())
            self._loop()
        except HaltedError:
            pass
        log.info("stopped")

    def check(self) -> None:
        """Say to a change under way whether to go on; see `Driver`.

        Raises:
            HaltedError, SupersededError: see there.
        """
        self.progress()
        self._attend()
        if self._stopping:
            raise HaltedError
        if self.broker.listen(0.0):
            self._due = True
            if self._superseded():
                msg = "a newer assignment asks for something else"
                raise SupersededError(msg)

    def run_errand(self, errand: Errand) -> list[EdgeSLMError]:
        """Do what a command of this device asks for; return what came to nothing.

        Raises:
            HaltedError: see `Driver`.
        """
        if errand.do == "forget":
            return self.forget(errand.model)
        return self.take(Path(errand.path or ""), trust_clock=errand.trust_clock)

    def take(self, path: Path, *, trust_clock: bool) -> list[EdgeSLMError]:
        """Make of this device what a stick asks for; return what came to nothing.

        Args:
            path: of the folder or tar.
            trust_clock: an operator says that this device's clock is right.

        Raises:
            HaltedError: see `Driver`.
        """
        try:
            stick = open_stick(path)
        except EdgeSLMError as err:
            return [err]
        with closing(stick):
            source = StickSource(stick, self.device_id, self.clock, trust_clock=trust_clock)
            try:
                return self.work(source)
            finally:
                self.switch.source = self.broker
                self.voice.retries = True

    def forget(self, model: str | None) -> list[EdgeSLMError]:
        """Let what failed here be tried again; return why that cannot be.

        Args:
            model: of which; None: the configuration.
        """
        try:
            self.store.write(slots.forgotten(self.store.read(), model))
        except EdgeSLMError as err:
            return [err]
        self._due, self._told = True, None
        self.voice.event("bad_forgotten", model, {})
        self.voice.tell()
        return []

    def work(self, source: Source) -> list[EdgeSLMError]:
        """Make of this device what the source asks for; return what came to nothing.

        Raises:
            HaltedError: see `Driver`.
        """
        self.switch.source = source
        self.voice.retries = source is self.broker
        steps = self._steps(source)
        ended: EdgeSLMError | None = None
        while True:
            try:
                change = steps.send(ended)
            except StopIteration as over:
                failed: list[EdgeSLMError] = over.value
                return failed
            ended = self.driver.run(change)

    def _steps(self, source: Source) -> Steps:
        """Yield the changes that the source asks for; is sent how each ended."""
        try:
            desired = self._resolve(source)
        except EdgeSLMError as err:
            self._refuse(err, _failure(err))
            return [err]
        failed: list[EdgeSLMError] = []
        failures: list[Failure] = []
        for model, why in desired.refused.items():
            failures.append(_failure(why, model, desired.wanted.get(model)))
            self._refuse(why, failures[-1])
            failed.append(why)
        for wanted in desired.changes:
            change = wanted
            if isinstance(change, ConfigChange):
                awaited = frozenset(each.model for each in failures if each.model and each.passing)
                change = replace(change, awaited=awaited)
            ended = yield change
            if ended is None:
                continue
            failed.append(ended)
            failures.append(_failure(ended, change.model, change.version))
            if isinstance(ended, KnownBadError):
                self._refuse(ended, failures[-1])
            if isinstance(ended, SupersededError):
                return failed
        self.voice.outcome(failures[0] if failures else None)
        if not failed:
            self._told = None
            operation = self.store.read().operation
            if operation is not None:  # of an assignment that is no more
                self.driver.abandon()
        return failed

    def _loop(self) -> None:
        quiet_since = self.clock.monotonic()
        while not self._stopping:
            self.progress()
            now = self.clock.monotonic()
            self._due |= self.broker.listen(LISTEN_S)
            self._attend()
            self._run_errands()
            if self.broker.ready and (self._due or now >= self._retry_at > 0):
                self._due = False
                self._retry_at = 0.0
                self._outcomes(self.work(self.broker))
                quiet_since = self.clock.monotonic()
            if self.diagnostics is not None and self.diagnostics.running:
                quiet_since = now
            if now >= self._settle_at:
                self._settle_at = now + SETTLE_S
                self._settle()
            if self.idle_exit_s is not None and now - quiet_since >= self.idle_exit_s:
                return

    def _attend(self) -> None:
        """Hear what commands ask for, and tell the one that is served how far it is."""
        self._diagnose()
        if self.door is None:
            return
        if len(self._errands) < MAX_WAITING:  # where not, the door leaves the next ones unread
            self._errands.extend(self.door.errands(self.voice.state))
        now = self.clock.monotonic()
        if self._serving is not None and now >= self._said_at + LISTEN_S:
            self._said_at = now
            self.door.say(self._serving, Answer(state=self.voice.state))

    def _diagnose(self) -> None:
        """See to what a fleet's manager asks for."""
        if self.diagnostics is None:
            return
        self.diagnostics.tend()
        if not self._verifies:  # commands wait until it is known who may give them
            return
        updating = self.store.read().operation is not None
        for envelope in self.broker.commands():
            try:
                command = self.trust.command(envelope)
                now = self.broker.now(self.trust)
                if not updating:  # at the beginning of an update it was done
                    self.trust.refresh(now)
                    command = self.trust.command(envelope)
            except EdgeSLMError as err:
                self.diagnostics.unverified(err)
            else:
                self.diagnostics.take(command, now=now, updating=updating)

    def _run_errands(self) -> None:
        while self._errands and self.door is not None:
            self._serving, errand = self._errands.popleft()
            try:
                self.door.over(self._serving, self.voice.state, self.run_errand(errand))
            finally:
                self._serving = None

    def _resolve(self, source: Source) -> Desired:
        """Return what the source asks for, once all of it is verified."""
        self.trust.walk_roots()
        now = source.now(self.trust)
        self.trust.refresh(now)
        self._verifies = True
        envelope = source.assignment()
        supply = partial(source.supply, self.trust)
        chooser = Chooser(self.trust, self.profile, self.device, supply)
        if envelope is None:
            return Desired() if source is self.broker else newest(self.store.read(), chooser)
        assignment = self.trust.assignment(envelope, device=self.device_id, now=now)
        self.trust.accept(assignment)
        self._working_on = envelope
        if self.voice.accepted(assignment.seq):
            self._told = None  # the same again is news of this one
        return assigned(assignment, self.store.read(), chooser)

    def _superseded(self) -> bool:
        """Whether a genuine, newer assignment asks for something else than is being done."""
        envelope = self.broker.assignment()
        if envelope is None or self._working_on in {None, envelope}:
            return False
        try:
            now = self.broker.now(self.trust)
            newer = self.trust.assignment(envelope, device=self.device_id, now=now)
        except EdgeSLMError:  # told when it is looked at in its turn
            return False
        return self._asks_for_another(newer)

    def _asks_for_another(self, newer: Assignment) -> bool:
        operation = self.store.read().operation
        if operation is None:
            return False
        if operation.model is None:
            return operation.bundle != hash_of(newer.config)
        wanted = newer.models.get(operation.model)
        return wanted is None or wanted.version != operation.version

    def _outcomes(self, failed: list[EdgeSLMError]) -> None:
        """Try again later what another time may succeed."""
        passing = [err for err in failed if passes(err)]
        if any(isinstance(err, SupersededError) for err in failed):
            self._due = True
        elif passing:
            chance = random.random()  # noqa: S311 -- spreads a fleet's retries, hides nothing
            pause_s = full_jitter(
                self._attempt, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S, chance=chance
            )
            self._attempt += 1
            self._retry_at = self.clock.monotonic() + max(1.0, pause_s)
        else:
            self._attempt = 0

    def _outcome(self, err: EdgeSLMError | None) -> None:
        if err is not None:
            self._outcomes([err])

    def _refuse(self, err: EdgeSLMError, failure: Failure) -> None:
        """Tell once what cannot be done, and again when it is something else."""
        said = (err.code, str(err))
        if said != self._told:
            self._told = said
            self.voice.trouble("update_refused", failure, {})
            self.voice.tell()

    def _settle(self) -> None:
        try:
            self.driver.settle()
        except (AgentAwayError, OrderFailedError) as err:
            log.debug("not_settled", why=str(err))


def _failure(err: EdgeSLMError, model: str | None = None, version: int | None = None) -> Failure:
    return Failure(info_of(err), model, version, passing=passes(err))
