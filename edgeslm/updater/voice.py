"""What the updater says of itself: `update`, retained, and events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from edgeslm import __version__
from edgeslm.contract.messages import (
    SCHEMA_VERSION,
    ErrorInfo,
    Phase,
    Platform,
    UpdatedModel,
    UpdateState,
    encode,
    event_of,
)
from edgeslm.contract.slots import ModelSlots, SlotTable
from edgeslm.contract.topics import Topics
from edgeslm.logs import Log
from edgeslm.ports import Clock

log = Log(__name__)
PROGRESS_S: Final = 1.0  # between two messages that differ in bytes alone

Send = Callable[[str, bytes, bool], None]
"""Topic, payload, retained."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that came to nothing.

    Args:
        error: how.
        model: whose change it was; None: the configuration's, or all that was asked for.
        version: that it was to be changed to.
        passing: another time may succeed.
    """

    error: ErrorInfo
    model: str | None = None
    version: int | None = None
    passing: bool = False


class Voice:
    """Says what goes on, each thing once.

    Args:
        topics: the device's.
        clock: for times, and so that progress is not told too often.
        send: takes messages; may drop or keep them while there is no broker.
        table: the slots as they are.
        platform: of the device; None: it is not told.
        seq: of the assignment that was accepted last; 0: none.

    Attributes:
        state: as last told, for whoever asks on the device itself.
        retries: what came to nothing and may succeed another time is tried again by itself.
    """

    def __init__(  # noqa: PLR0913 -- two by name
        self,
        topics: Topics,
        clock: Clock,
        send: Send,
        table: Callable[[], SlotTable],
        *,
        platform: Platform | None = None,
        seq: int = 0,
    ) -> None:
        self._topics = topics
        self._clock = clock
        self._send = send
        self._table = table
        self._told_at = -PROGRESS_S
        self._platform = platform
        self._seq = seq
        self.retries = True
        operation = table().operation  # of before a kill
        self._phase: Literal["idle"] | Phase = operation.phase if operation else "idle"
        self._what = (operation.model, operation.version) if operation else (None, None)
        self._bytes: tuple[int, int] | None = None
        self._waiting: str | None = None
        self._failure: Failure | None = None
        self.state = self._state()

    def accepted(self, seq: int) -> bool:
        """This is the assignment in force; return whether it is a new one.

        How a change of the one before it failed is forgotten: it would be taken for this one's.
        """
        if seq == self._seq:
            return False
        self._seq, self._failure = seq, None
        self.tell()
        return True

    def phase(
        self, phase: Literal["idle"] | Phase, model: str | None = None, version: int | None = None
    ) -> None:
        """A change is in this phase; "idle": there is none. `model` is None for a configuration."""
        self._phase, self._what, self._waiting = phase, (model, version), None
        self._bytes = None
        log.info("update_phase", phase=phase, model=model, version=version)
        self.tell()

    def progress(self, done: int, total: int) -> None:
        """So many bytes of the bundle are here."""
        self._bytes = (done, total)
        waited, self._waiting = self._waiting is not None, None
        if waited or self._clock.monotonic() - self._told_at >= PROGRESS_S:
            self.tell()

    def waiting(self, what: str | None) -> None:
        """Nothing goes on until `what` is there; None: it is."""
        if what != self._waiting:
            self._waiting = what
            self.tell()

    def event(
        self, event: str, model: str | None, detail: Mapping[str, str | int | float | bool]
    ) -> None:
        """Something happened."""
        about: dict[str, object] = {} if model is None else {"model": model}
        log.info(event, **about, **detail)
        self._say(event, model, None, detail)

    def trouble(self, event: str, failure: Failure, detail: Mapping[str, int]) -> None:
        """A change came to nothing, and why; it stays in `update` until the next one succeeds."""
        error, model = failure.error, failure.model
        about: dict[str, object] = {} if model is None else {"model": model}
        log.error(event, code=error["code"], message=error["message"], **about, **detail)
        self._failed(failure)
        self._say(event, model, error, detail)

    def succeeded(self) -> None:
        """Forget how the last change failed."""
        self._failure = None

    def outcome(self, failure: Failure | None) -> None:
        """All that is assigned was seen to: how a part of it failed; None: nothing did."""
        if (failure is None) != (self._failure is None):
            self._failed(failure)
            self.tell()

    def tell(self) -> None:
        """Send `update` as things are."""
        self._told_at = self._clock.monotonic()
        self.state = self._state()
        self._send(self._topics.update, encode(self.state), True)  # noqa: FBT003 -- retained

    def _state(self) -> UpdateState:
        state = state_of(
            self._table(), device=self._topics.device, now=self._clock.wall(), seq=self._seq
        )
        state["phase"] = self._phase
        if self._platform is not None:
            state["platform"] = self._platform
        _about(state, *self._what)
        if self._bytes is not None:
            state["done_bytes"], state["total_bytes"] = self._bytes
        if self._waiting is not None:
            state["waiting"] = self._waiting
        if (failure := self._failure) is not None:
            state["error"], state["retries"] = failure.error, failure.passing
            if failure.model is not None:
                state["error_model"] = failure.model
            if failure.version is not None:
                state["error_version"] = failure.version
        return state

    def _failed(self, failure: Failure | None) -> None:
        if failure is not None and not self.retries:
            failure = replace(failure, passing=False)
        self._failure = failure

    def _say(
        self,
        event: str,
        model: str | None,
        error: ErrorInfo | None,
        detail: Mapping[str, str | int | float | bool],
    ) -> None:
        device, now = self._topics.device, self._clock.wall()
        message = event_of(device, now, event, model, error, detail)
        self._send(self._topics.events, encode(message), False)  # noqa: FBT003 -- not retained


def state_of(table: SlotTable, *, device: str, now: float, seq: int = 0) -> UpdateState:
    """Return what can be said by the table of slots, and by the assignment accepted last."""
    operation = table.operation
    state: UpdateState = {
        "schema": SCHEMA_VERSION,
        "device": device,
        "time": now,
        "updater_version": __version__,
        "phase": operation.phase if operation else "idle",
        "seq": seq,
        "config_seq": table.config_seq,
        "models": [_model(name, slots) for name, slots in sorted(table.models.items())],
    }
    if operation is not None:
        _about(state, operation.model, operation.version)
    return state


def _about(state: UpdateState, model: str | None, version: int | None) -> None:
    """Say of a state what is changed, and nothing else."""
    state.pop("model", None)
    state.pop("version", None)
    if model is not None:
        state["model"] = model
    if version is not None:
        state["version"] = version


def _model(name: str, slots: ModelSlots) -> UpdatedModel:
    active, spare = (slots.a, slots.b) if slots.active == "a" else (slots.b, slots.a)
    model: UpdatedModel = {"name": name}
    if slots.active is not None and active is not None:
        model["version"], model["bundle"] = active.version, active.bundle
    if spare is not None and spare.whole:
        model["spare_version"] = spare.version
    if slots.bad:
        model["bad"] = [bad.hash for bad in slots.bad]
    return model
