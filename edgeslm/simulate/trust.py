"""What is genuine, for all devices of one process: looked up once, and held against by each.

The real TUF client reads the fleet's metadata from the broker, as a device of its own. What it
trusts then, the director's keys and what the repository offers, all simulated devices share; each
verifies its own assignment, and keeps its own floor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeslm.adapters.clock import SystemClock, since_boot
from edgeslm.adapters.dsse import Signers
from edgeslm.adapters.tuf import Trust, read_assignment
from edgeslm.contract.brokers import Broker
from edgeslm.contract.fleet import Assignment, BlockList, Command, Keys
from edgeslm.contract.settings import AgentSettings, UpdateSettings
from edgeslm.core import trust as rules
from edgeslm.core.trust import CommandMalformedError, Floors, TrustUnavailableError
from edgeslm.errors import EdgeSLMError
from edgeslm.logs import Log
from edgeslm.ports import Offer
from edgeslm.updater.broker import BrokerSource

LISTEN_S: Final = 0.5
RETRY_S: Final = 5.0

log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """What the fleet's signatures say.

    Args:
        signers: who signs assignments.
        offers: by model.
        ahead_s: how far the fleet's time is ahead of the seconds since this machine started.
    """

    signers: Signers
    offers: Mapping[str, tuple[Offer, ...]]
    ahead_s: float

    def now(self) -> float:
        """Return what time it is, by the fleet, seconds since 1970."""
        return since_boot() + self.ahead_s


class Librarian:
    """Reads what is known, on a thread of its own, again whenever there is news.

    Args:
        name: of its session; it stands for no device.
        root: bytes of the fleet's root of trust.
        broker: where the fleet publishes.
        topic_root: topic levels that the fleet's devices share.
        models: of which it is to know the offers.
        folder: of its own.
        changed: called, on its thread, when what is known is another.
    """

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        name: str,
        *,
        root: bytes,
        broker: Broker,
        topic_root: str,
        models: Collection[str],
        folder: Path,
        changed: Callable[[Known], None],
    ) -> None:
        settings = AgentSettings.model_construct(
            device_id=name, topic_root=topic_root, uplink=broker
        )
        self._models = models
        self._changed = changed
        self._stopping = threading.Event()
        self._source = BrokerSource(
            settings, UpdateSettings(), downloads=folder / "download", clock=SystemClock()
        )
        self._trust = Trust(folder / "trust", root, self._source.metadata)
        self._thread = threading.Thread(target=self._run, name="librarian", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End; it may be in the middle of asking, and is not waited for long."""
        self._stopping.set()
        self._source.wake()
        self._thread.join(LISTEN_S + RETRY_S)
        self._source.close()

    def _run(self) -> None:
        due, said = True, ""
        while not self._stopping.is_set():
            due |= self._source.listen(LISTEN_S)
            if not (due and self._source.ready):
                continue
            try:
                known = self._look()
            except EdgeSLMError as err:
                if said != err.code:
                    log.warning("fleet_unknown", code=err.code, message=str(err))
                said = err.code
                self._stopping.wait(RETRY_S)
            else:
                due, said = False, ""
                self._changed(known)

    def _look(self) -> Known:
        self._trust.walk_roots()
        now = self._source.now(self._trust)
        self._trust.refresh(now)
        offers = {model: tuple(self._trust.offers(model)) for model in self._models}
        return Known(self._trust.director, offers, now - since_boot())


class DeviceTrust:
    """Implements `edgeslm.ports.TrustedMetadata` for one device, in memory.

    Args:
        known: what all of them share, as it is now; None: nothing yet.
    """

    def __init__(self, known: Callable[[], Known | None]) -> None:
        self._shared = known
        self._floors = Floors()
        self._pending: tuple[Assignment, Floors, bytes] | None = None
        self._kept: bytes | None = None

    @property
    def known(self) -> Known:
        """Raises TrustUnavailableError: nothing is known yet."""
        if (known := self._shared()) is None:
            msg = "the fleet's metadata have not been read yet"
            raise TrustUnavailableError(msg)
        return known

    @property
    def time_floor(self) -> float:
        return 0.0

    @property
    def accepted(self) -> int:
        return self._floors.assignment.seq if self._floors.assignment is not None else 0

    @property
    def kept(self) -> bytes | None:
        return self._kept

    def walk_roots(self) -> Keys:
        return Keys(keys={})  # the librarian has walked them; none of us asks for a time

    def time_of(self, envelope: bytes, *, device: str, nonce: str) -> float:
        del envelope, device, nonce
        return self.known.now()

    def refresh(self, now: float) -> None:
        del now
        self._pending = None

    def offers(self, model: str) -> list[Offer]:
        return list(self.known.offers.get(model, ()))

    def blocks(self, offer: Offer, raw: bytes) -> BlockList:
        return rules.block_list(raw, offer=offer.bundle, sha256=offer.sha256, length=offer.length)

    def assignment(self, envelope: bytes, *, device: str, now: float) -> Assignment:
        self._pending = None
        assignment, signed = read_assignment(envelope, self.known.signers)
        rules.check_assignment(assignment, signed, device=device, now=now, floors=self._floors)
        raised = rules.raise_assignment(self._floors, signed)
        self._pending = (assignment, raised, envelope)
        return assignment

    def accept(self, assignment: Assignment) -> None:
        assert self._pending is not None  # noqa: S101 -- verified last
        assert self._pending[0] == assignment  # noqa: S101
        _, self._floors, self._kept = self._pending

    def command(self, envelope: bytes) -> Command:
        del envelope
        msg = "simulated devices heed no commands"
        raise CommandMalformedError(msg)
