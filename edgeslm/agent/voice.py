"""What the agent says of itself: `status`, `state` and `events`."""

from __future__ import annotations

from typing import Literal

from edgeslm.contract.messages import (
    SCHEMA_VERSION,
    ErrorInfo,
    Event,
    State,
    Status,
    encode,
    event_of,
    stamp,
)
from edgeslm.contract.topics import Topics
from edgeslm.core.delivery import Parcel
from edgeslm.logs import Log
from edgeslm.ports import DeviceClock

log = Log(__name__)


class Voice:
    """Builds messages about one device; says nothing by itself but logs.

    Args:
        topics: the device's.
        clock: for the times in messages.
    """

    def __init__(self, topics: Topics, clock: DeviceClock) -> None:
        self._topics = topics
        self._clock = clock

    def status(self, reason: Literal["running", "stopped", "lost"]) -> Parcel:
        """Whether the device is there; "lost" is its last will, which has no time."""
        status: Status = {
            "schema": SCHEMA_VERSION,
            "device": self._topics.device,
            "online": reason == "running",
            "reason": reason,
        }
        if reason == "lost":  # told by the broker, and nobody knows when
            return Parcel(self._topics.status, encode(status), self._clock.monotonic(), retain=True)
        status["time"] = self._clock.wall()
        return self._parcel(self._topics.status, status, retain=True)

    def state(self, state: State) -> Parcel:
        """What the device runs."""
        return self._parcel(self._topics.state, state, retain=True)

    def trouble(self, event: str, code: str, message: str, model: str | None) -> Parcel:
        """Something went wrong that somebody must mend; logged as well."""
        about: dict[str, object] = {} if model is None else {"model": model}
        log.error(event, code=code, message=message, **about)
        return self._event(event, model, {"code": code, "message": message}, {})

    def event(self, event: str, model: str | None, detail: dict[str, str | float]) -> Parcel:
        """Something happened; logged as well."""
        about: dict[str, object] = {} if model is None else {"model": model}
        log.info(event, **about, **detail)
        return self._event(event, model, None, detail)

    def _event(
        self, event: str, model: str | None, error: ErrorInfo | None, detail: dict[str, str | float]
    ) -> Parcel:
        device, now = self._topics.device, self._clock.wall()
        message = event_of(device, now, event, model, error, detail)
        return self._parcel(self._topics.events, message, retain=False)

    def _parcel(self, topic: str, message: Status | State | Event, *, retain: bool) -> Parcel:
        clock = self._clock
        now = clock.monotonic()
        stamp(message, mono=round(now, 3), boot=clock.boot, trust=clock.trust)
        return Parcel(topic, encode(message), now, retain=retain)
