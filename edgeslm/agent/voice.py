"""What the agent says of itself: `status`, `state` and `events`."""

from __future__ import annotations

from typing import Final, Literal

from edgeslm.contract.messages import SCHEMA_VERSION, ErrorInfo, State, Status, encode, event_of
from edgeslm.contract.topics import Topics
from edgeslm.core.delivery import Parcel
from edgeslm.logs import Log
from edgeslm.ports import Clock

log = Log(__name__)
AGAIN_S: Final = 600.0
MAX_REASONS: Final = 16


class Troubles:
    """Reasons for which a link is down: each is told at once, and again every ten minutes."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}  # reason: when, monotonic seconds

    def is_news(self, reason: str, now: float) -> bool:
        """Whether to tell this reason now."""
        told = self._told.get(reason)
        if told is not None and now < told + AGAIN_S:
            return False
        if len(self._told) >= MAX_REASONS:
            self._told.clear()
        self._told[reason] = now
        return True

    def clear(self) -> None:
        """The link is up."""
        self._told.clear()


class Voice:
    """Builds messages about one device; says nothing by itself but logs.

    Args:
        topics: the device's.
        clock: for the times in messages.
    """

    def __init__(self, topics: Topics, clock: Clock) -> None:
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
        if reason != "lost":
            status["time"] = self._clock.wall()
        return self._parcel(self._topics.status, encode(status), retain=True)

    def state(self, state: State) -> Parcel:
        """What the device runs."""
        return self._parcel(self._topics.state, encode(state), retain=True)

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
        return self._parcel(self._topics.events, encode(message), retain=False)

    def _parcel(self, topic: str, payload: bytes, *, retain: bool) -> Parcel:
        return Parcel(topic, payload, self._clock.monotonic(), retain=retain)
