"""A whole simulated fleet in one process, on one thread beside the one that reads metadata."""

from __future__ import annotations

import heapq
import itertools
import resource
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgeslm.contract.brokers import Broker
from edgeslm.errors import UnavailableError
from edgeslm.logs import Log
from edgeslm.runtime.profiles import load_profile
from edgeslm.simulate.device import USER, Simulated, World
from edgeslm.simulate.pool import Pool
from edgeslm.simulate.report import Record
from edgeslm.simulate.scenario import Scenario
from edgeslm.simulate.trust import Known, Librarian

SLICE_S: Final = 0.02  # for devices that have something to do, before sessions are read again
IDLE_S: Final = 0.2
LEAVE_S: Final = 5.0
SPARE_FILES: Final = 200  # beside one for each session

log = Log(__name__)


class TooManyError(UnavailableError):
    """The system lets a process open fewer files than there are devices."""

    code = "simulate.files"


@dataclass(frozen=True, slots=True)
class Look:
    """How a simulated fleet is, for people.

    Args:
        devices: in all.
        connected: of them.
        known: the fleet's metadata have been read.
        versions: devices by what they have committed.
        busy: devices whose updater has something to do.
    """

    devices: int
    connected: int
    known: bool
    versions: Mapping[int, int] = field(default_factory=dict)
    busy: int = 0


class Simulation:
    """Plays devices until it is stopped.

    Args:
        scenario: of the fleet.
        devices: how many.
        root: bytes of the fleet's root of trust.
        broker: where the fleet's service is.
        topic_root: topic levels that the fleet's devices share.
        folder: of the trusted metadata.
        prefix: of the devices' ids.

    Raises:
        EdgeSLMError: a profile is wrong, or the system has too few files.
    """

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        scenario: Scenario,
        devices: int,
        *,
        root: bytes,
        broker: Broker,
        topic_root: str,
        folder: Path,
        prefix: str = "sim",
    ) -> None:
        _want_files(devices + SPARE_FILES)
        self.scenario = scenario
        self.devices: dict[str, Simulated] = {}
        self.known: Known | None = None
        self._pool = Pool()
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._ready: deque[Simulated] = deque()
        self._is_ready: set[str] = set()
        self._due: list[tuple[float, int, Simulated]] = []
        self._due_of: dict[str, float] = {}
        self._number = itertools.count()
        self._make(devices, World(scenario, broker, topic_root, self._pool, self._what), prefix)
        name = f"{prefix}-librarian"
        own = {"username": name} if broker.username == USER else {}
        self._librarian = Librarian(
            name,
            root=root,
            broker=broker.model_copy(update=own),
            topic_root=topic_root,
            models=[scenario.model],
            folder=folder,
            changed=self._learn,
        )

    @property
    def records(self) -> Mapping[str, Record]:
        return {name: device.record for name, device in self.devices.items()}

    def stop(self) -> None:
        """Have `run` return soon; may be called by any thread."""
        self._stopping.set()

    def run(self, *, watch: Callable[[Look], None] = lambda _: None) -> None:
        """Play until `stop`.

        Args:
            watch: called about every `IDLE_S` with how things are.
        """
        self._librarian.start()
        try:
            begun: float | None = None
            starting = deque(self.devices.values())
            look_at = 0.0
            while not self._stopping.is_set():
                now = time.monotonic()
                if self.known is None:
                    time.sleep(IDLE_S / 4)
                else:
                    begun = begun if begun is not None else now
                    self._start(starting, now - begun)
                    self._turn(now, idle_s=0.0 if self._ready else 0.01 if starting else IDLE_S)
                if now >= look_at:
                    look_at = now + IDLE_S
                    watch(self._look(len(starting)))
            self._leave(len(self.devices) - len(starting))
        finally:
            self._pool.close()
            self._librarian.stop()

    def _make(self, count: int, world: World, prefix: str) -> None:
        sizes, number = world.scenario.sizes(count), itertools.count(1)
        for group, size in zip(world.scenario.group, sizes, strict=True):
            profiles = [load_profile(profile) for profile in group.profiles]
            for place in range(size):
                name = f"{prefix}-{next(number):05}"
                profile = profiles[place % len(profiles)]
                woken = self._waker(name)
                self.devices[name] = Simulated(world, name, group, profile, woken=woken)

    def _waker(self, name: str) -> Callable[[], None]:
        return lambda: self._wake(self.devices[name])

    def _wake(self, device: Simulated) -> None:
        if device.name not in self._is_ready:
            self._is_ready.add(device.name)
            self._ready.append(device)

    def _what(self) -> Known | None:
        return self.known

    def _learn(self, known: Known) -> None:
        log.info("fleet_known", models={m: len(offers) for m, offers in known.offers.items()})
        self.known = known
        self._news.set()

    def _start(self, starting: deque[Simulated], passed_s: float) -> None:
        """Switch on those whose turn has come."""
        share = min(1.0, passed_s / self.scenario.start_s) if self.scenario.start_s else 1.0
        until = time.monotonic() + SLICE_S
        left = len(self.devices) - int(share * len(self.devices))
        while len(starting) > left and time.monotonic() < until:
            device = starting.popleft()
            device.start()
            self._wake(device)

    def _turn(self, now: float, *, idle_s: float) -> None:
        if self._due:
            idle_s = min(idle_s, max(0.0, self._due[0][0] - now))
        self._pool.turn(idle_s)
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            at, _, device = heapq.heappop(self._due)
            if self._due_of.get(device.name) == at:
                self._wake(device)
        if self._news.is_set():
            self._news.clear()
            for device in self.devices.values():
                if device.name in self._due_of:  # it has been started
                    device.look_again()
                    self._wake(device)
        until = now + SLICE_S
        while self._ready and time.monotonic() < until:
            device = self._ready.popleft()
            self._is_ready.discard(device.name)
            at = device.turn()
            if self._due_of.get(device.name) != at:
                self._due_of[device.name] = at
                if at < float("inf"):
                    heapq.heappush(self._due, (at, next(self._number), device))

    def _leave(self, started: int) -> None:
        for device in itertools.islice(self.devices.values(), started):
            device.leave()
        until = time.monotonic() + LEAVE_S
        while self._pool.open and time.monotonic() < until:
            self._pool.turn(0.1)

    def _look(self, waiting: int) -> Look:
        count = len(self.devices)
        started = list(itertools.islice(self.devices.values(), count - waiting))
        return Look(
            devices=count,
            connected=sum(device.connected for device in started),
            known=self.known is not None,
            versions=Counter(device.record.version for device in self.devices.values()),
            busy=sum(not device.at_rest for device in started),
        )


def _want_files(count: int) -> None:
    """Have the system let us open so many.

    Raises:
        TooManyError: it does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count:
        return
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < count:
        msg = f"{count} files are needed, and {hard} are allowed. Raise it: ulimit -n {count}"
        raise TooManyError(msg)
