"""What the updater says of itself: `update`, retained, and events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        self._phase: Literal["idle"] | Phase = "idle"
        self._what: tuple[str | None, int | None] = (None, None)
        self._bytes: tuple[int, int] | None = None
        self._waiting: str | None = None
        self._error: ErrorInfo | None = None
        self.state = self._state()

    def accepted(self, seq: int) -> bool:
        """This is the assignment in force; return whether it is a new one.

        How a change of the one before it failed is forgotten: it would be taken for this one's.
        """
        if seq == self._seq:
            return False
        self._seq, self._error = seq, None
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

    def trouble(
        self, event: str, error: ErrorInfo, model: str | None, detail: Mapping[str, int]
    ) -> None:
        """A change came to nothing, and why; it stays in `update` until the next one succeeds."""
        about: dict[str, object] = {} if model is None else {"model": model}
        log.error(event, code=error["code"], message=error["message"], **about, **detail)
        self._error = error
        self._say(event, model, error, detail)

    def succeeded(self) -> None:
        """Forget how the last change failed."""
        self._error = None

    def outcome(self, error: ErrorInfo | None) -> None:
        """All that is assigned was seen to: how a part of it failed; None: nothing did."""
        if (error is None) != (self._error is None):
            self._error = error
            self.tell()

    def tell(self) -> None:
        """Send `update` as things are."""
        self._told_at = self._clock.monotonic()
        self.state = self._state()
        self._send(self._topics.update, encode(self.state), True)  # noqa: FBT003 -- retained

    def _state(self) -> UpdateState:
        state = state_of(self._table(), device=self._topics.device, now=self._clock.wall())
        state["phase"], state["seq"] = self._phase, self._seq
        if self._platform is not None:
            state["platform"] = self._platform
        model, version = self._what
        if model is not None:
            state["model"] = model
        if version is not None:
            state["version"] = version
        if self._bytes is not None:
            state["done_bytes"], state["total_bytes"] = self._bytes
        if self._waiting is not None:
            state["waiting"] = self._waiting
        if self._error is not None:
            state["error"] = self._error
        return state

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


def state_of(table: SlotTable, *, device: str, now: float) -> UpdateState:
    """Return what can be said by the table of slots alone."""
    return {
        "schema": SCHEMA_VERSION,
        "device": device,
        "time": now,
        "updater_version": __version__,
        "phase": table.operation.phase if table.operation else "idle",
        "seq": 0,
        "config_seq": table.config_seq,
        "models": [_model(name, slots) for name, slots in sorted(table.models.items())],
    }


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
