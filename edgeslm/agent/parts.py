"""What the agent is made of; `edgeslm.agent.wiring` has the real parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeslm.adapters.ring import Ring
from edgeslm.adapters.systemd import Notifier
from edgeslm.agent.crashes import Crashes
from edgeslm.agent.desired import Source
from edgeslm.agent.homeassistant import Discovery
from edgeslm.agent.people import PeopleParts
from edgeslm.agent.responder import Model, Responder
from edgeslm.agent.retained import Retained
from edgeslm.agent.workers import Pool
from edgeslm.contract.profile import FlashBudget, PressureLimits
from edgeslm.contract.settings import AgentSettings
from edgeslm.core.delivery import Parcel
from edgeslm.core.pressure import Reading
from edgeslm.ports import DeviceClock, Memory, Outbox, Sink, Transport

if TYPE_CHECKING:  # loaded only where there is an updater
    from edgeslm.adapters.unix_socket import LineServer, LineSink
    from edgeslm.agent.shelf import Shelf


class RosterParts(Protocol):
    """What models are made of."""

    def input(self, settings: AgentSettings, model: str, sink: Sink) -> Transport[Parcel]:
        """Return the link of a model's input session."""

    def ring(self, model: str, *, unacknowledged: int) -> Ring:
        """Return the ring of a model's input session.

        Raises:
            RingUnavailableError: it cannot be made.
        """

    def retained(self, model: str) -> Retained:
        """Return what is known of the retained inputs that a model has answered."""

    def held(self, model: str, filters: frozenset[str]) -> None:
        """Remember which filters the broker holds for a model's input session."""

    def remembered(self) -> list[str]:
        """Models with a session that the broker may keep."""

    def forget(self, model: str) -> None:
        """Forget what is remembered of a model: it is gone."""


class Parts(RosterParts, PeopleParts, Protocol):
    """What the agent is made of; `edgeslm.agent.wiring` has the real ones."""

    @property
    def clock(self) -> DeviceClock: ...
    @property
    def outbox(self) -> Outbox: ...
    @property
    def notifier(self) -> Notifier: ...
    @property
    def profile(self) -> str | None:
        """Name of the device's profile; None where it has none, or it cannot be read."""

    @property
    def limits(self) -> PressureLimits:
        """When the device's profile says that it is hard pressed."""

    @property
    def flash(self) -> FlashBudget:
        """What the device's profile says that may be written."""

    @property
    def crashes(self) -> Crashes:
        """What is left of agents that ended badly."""

    def gauge(self, sink: Callable[[Reading], None]) -> Callable[[], None]:
        """Begin to read how hard the device is pressed; return what ends it.

        The sink is called on a thread of its own.
        """

    @property
    def set_aside(self) -> Path | None:
        """Where the outbox was moved that could not be read at the start; None if none was."""

    def load(  # noqa: PLR0913 -- by name
        self,
        name: str,
        source: Source,
        *,
        cache_entries: int,
        known: str | None,
        anew: bool,
        make_room: Callable[[str], None],
    ) -> Model | None:
        """Return a loaded model; None if the bundle still has the hash `known`.

        With `anew` its golden file is replayed though it is remembered that it has passed.

        On a device that cannot hold two models side by side, `make_room` is called with the
        bundle's hash when all is found in order that can be without loading it.

        Called on the loader's thread; `EdgeSLMError` says why it cannot be loaded.
        """

    def shelf(self) -> Shelf | None:
        """Return the updater's slots; None where there is no updater."""

    def control(
        self, settings: AgentSettings, sink: LineSink, room: Callable[[], bool]
    ) -> LineServer:
        """Return the socket that the updater orders by.

        Raises:
            SocketUnavailableError: it cannot be made.
        """

    def discovery(self) -> Discovery:
        """Return what the broker retains for Home Assistant."""

    def uplink(self, settings: AgentSettings, sink: Sink, will: Parcel) -> Transport[Parcel]:
        """Return the link that results leave by."""

    def reload(self) -> AgentSettings:
        """Return the settings as they are now.

        Raises:
            ConfigError: they cannot be used.
        """


@dataclass(frozen=True, slots=True)
class Office:
    """What the roster and the controller need of the agent.

    Args:
        clock: for times in results.
        sink: makes the sink of a model's link.
        pool: makes the threads of a model: name, how many, who answers.
        trouble: tells an event with an error: event, code, message, model.
        event: tells an event: event, model, detail.
        memory: makes the memory of a model that is about to answer.
    """

    clock: DeviceClock
    sink: Callable[[str], Sink]
    pool: Callable[[str, int, Responder], Pool]
    trouble: Callable[[str, str, str, str | None], None]
    event: Callable[[str, str | None, Mapping[str, str | float]], None]
    memory: Callable[[str, Model], Memory | None]
