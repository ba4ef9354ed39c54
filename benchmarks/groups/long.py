"""A bad week in half an hour: outages, kills, restarts of brokers and updates, and what is lost."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from os import kill
from pathlib import Path
from typing import Any, Final, Literal, Self

from benchmarks import bundles, cases
from benchmarks.broker import Broker
from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from benchmarks.week import ALERTS, TELEMETRY, Account, Listener, Source, account
from edgeslm.demo.processes import Child
from edgeslm.fleet.config import FleetConfig, database_url
from edgeslm.fleet.database.engine import open_database
from edgeslm.fleet.director import Wish, assign
from edgeslm.fleet.models import Stated, add
from edgeslm.fleet.passphrases import Passphrases
from edgeslm.fleet.repository import Repository, init_repository
from edgeslm.fleet.stick import write_stick
from edgeslm.runtime.bundle import MANIFEST
from edgeslm.runtime.profiles import detect_profile

_DEVICE: Final = "press-hall-7"
_PASSPHRASE: Final = "of no fleet that exists"  # noqa: S105
_WEEK_H: Final = 168.0
# When the uplink goes, and for how long, in hours: evenings, a weekend of a lost mast, and flaps.
_AWAY: Final = ((6, 2.0), (20, 0.5), (24, 0.3), (30, 8.0), (52, 72.0), (132, 8.0), (150, 1.0),
                (156, 0.3), (160, 3.0))  # fmt: skip
_PER_S: Final = 41  # texts, one of 40 an alert
_TEXTS: Final = 200  # that are not the same
_SUMMARY_S: Final = 900.0  # in the real week, as an agent has it by default
_AGE_S: Final = 14 * 86_400.0
# Of all texts of the week: beyond it telemetry is summed up. None need be given up: a life that
# is killed while the uplink is away takes with it how much it has given up.
_THIN_SHARE: Final = 0.1
_LIMIT_S: Final = 240.0
_TICK_S: Final = 0.02
_TRIES: Final = 20  # of one update, which a kill may end
_PROFILE: Final = """\
name = "{name}"
description = "A device whose trials are short"
providers = ["cpu"]
[requires]
[cpu.int8]
reduce_range = true
[trial]
duration_s = 1.0
"""

_What = Literal["away", "back", "kill", "restart", "update"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much happens.

    Args:
        seconds: that the week takes.
        kills: of the agent.
        restarts: of brokers.
        updates: of the model.
        seed: of when it happens.
    """

    seconds: float
    kills: int
    restarts: int
    updates: int
    seed: int = 6

    def events(self, rng: random.Random) -> list[tuple[float, _What]]:
        """Return what happens when, in order; the seconds are of the week that is played."""
        hour_s = self.seconds / _WEEK_H
        found: list[tuple[float, _What]] = []
        for at, hours in _AWAY:
            found += [(at * hour_s, "away"), ((at + hours) * hour_s, "back")]
        counts: tuple[tuple[_What, int], ...] = (
            ("kill", self.kills), ("restart", self.restarts), ("update", self.updates)
        )  # fmt: skip
        for what, count in counts:
            gap_s = self.seconds / max(1, count)
            found += [((number + rng.random()) * gap_s, what) for number in range(count)]
        return sorted(found)


WHOLE: Final = Plan(seconds=1800.0, kills=100, restarts=100, updates=20)
QUICK: Final = Plan(seconds=90.0, kills=6, restarts=6, updates=2)


def long(setup: Setup) -> dict[str, Measured]:
    """Two brokers, an agent, its updates from sticks; a source that insists, and an account."""
    bundle = bundles.small(setup, "snips", profile=detect_profile().name)
    texts = [row.text for row in cases.rows(setup, "snips", "eval")][:_TEXTS]
    plan = QUICK if setup.quick else WHOLE
    found, note = play(plan, bundle, texts, setup.work, tell=setup.tell)
    lost = float(found.alerts_lost + found.missing)
    unclear = float(found.unclear)
    said = (
        f"{found.alerts:,} alerts, {found.telemetry:,} of telemetry, {found.summarised:,} summed up"
    )
    return {
        "long-alerts": Measured(lost, 0, (lost, lost), note=f"{said}; {note}"),
        "long-duplicates": Measured(
            unclear, 0, (unclear, unclear), note=f"{found.repeated:,} came again"
        ),
    }


def play(
    plan: Plan,
    bundle: Path,
    texts: Sequence[str],
    work: Path,
    *,
    tell: Callable[[str], None],
) -> tuple[Account, str]:
    """Play a week; return the account of it, and what happened in it.

    Args:
        plan: how much happens.
        bundle: the model.
        texts: that are sent, over and over.
        work: an empty folder.
        tell: called with what is going on.

    Raises:
        RunFailedError: an update is not taken, the agent does not come back, or the outbox is not
            emptied.
    """
    rng = random.Random(plan.seed)  # noqa: S311 -- when things happen
    updates = _Updates(work, bundle)
    with (
        closing(updates),
        Broker(work / "input") as source,
        Broker(work / "uplink") as uplink,
        Source(source.port, texts) as speaks,
        Listener(uplink.port, _DEVICE) as hears,
        _Agent(work, _configure(work, updates, plan, source.port, uplink.port)) as agent,
        _sending(speaks) as stop,
    ):
        _wait(lambda: bool(hears.results), "no result comes")
        here = True
        begun = time.monotonic()
        for number, (at, what) in enumerate(events := plan.events(rng)):
            while time.monotonic() < begun + at:
                updates.look()
                time.sleep(_TICK_S)
            tell(f"hour {at / plan.seconds * _WEEK_H:.0f} of {_WEEK_H:.0f}, event {number + 1} "
                 f"of {len(events)}: {what}")  # fmt: skip
            match what:
                case "away":
                    uplink.__exit__()
                    here = False
                case "back":
                    uplink.restart()
                    here = True
                case "kill":
                    agent.kill()
                case "restart":
                    (uplink if here and rng.random() < 0.5 else source).restart()  # noqa: PLR2004
                case "update":
                    updates.wanted += 1
        stop()
        tell("the outbox empties")
        _wait(lambda: _idle(updates), "an update is not over")
        _wait(lambda: speaks.unacknowledged() == 0, "the broker has not all texts")
        _wait(lambda: _settled(speaks, hears), "not all is answered", fails=False)
    found = account(speaks.sent, speaks.again, hears.results)
    found.missing = max(0, found.missing - hears.given_up)
    outages = f"{len(_AWAY)} outages, {plan.kills} kills, {plan.restarts} restarts"
    taken = f"{updates.done} updates, {updates.ended} attempts at them ended by a kill"
    return found, f"{outages}, {taken}, in {plan.seconds / 60:.1f} min"


class _Agent:
    """`edgeslm run`, killed and started again."""

    def __init__(self, work: Path, config: Path) -> None:
        self._log = work / "agent.log"
        self._argv = [sys.executable, "-m", "edgeslm", "run", "--config", str(config)]
        self._child = self._started()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._child.stop()

    def kill(self) -> None:
        """End it without a word, and start it again.

        Raises:
            RunFailedError: it had ended by itself, or does not come back.
        """
        if self._child.status is not None:
            msg = f"the agent ended: {self._child.last_words()}"
            raise RunFailedError(msg)
        kill(self._child.pid, signal.SIGKILL)
        self._child.stop()
        self._child = self._started()

    def _started(self) -> Child:
        before = self._log.stat().st_size if self._log.exists() else 0
        child = Child("edgeslm", self._argv, log=self._log)

        def connected() -> bool:
            if child.status is not None:
                msg = f"the agent ended: {child.last_words()}"
                raise RunFailedError(msg)
            with self._log.open("rb") as log:
                log.seek(before)
                return b"input_connected" in log.read()

        try:
            _wait(connected, "the agent does not come up")
        except BaseException:
            child.stop()
            raise
        return child


class _Updates:
    """Sticks with the one and the other version in turn, taken by `edgeslm update`.

    Attributes:
        wanted: how many are due.
        done: how many were taken.
        ended: attempts that came to nothing, since the agent was killed in them.
        config: the device's settings; written later.
    """

    def __init__(self, work: Path, bundle: Path) -> None:
        self.wanted = self.done = self.ended = 0
        self.config = work / "edgeslm.toml"
        self.bundles = [_version(bundle, work / f"v{number}", number) for number in (1, 2)]
        self._work = work
        passphrases = Passphrases(variable=_PASSPHRASE)
        self.repository: Repository = init_repository(work / "fleet", passphrases, FleetConfig())
        self.root = work / "root.json"
        self.root.write_bytes(self.repository.store.read("1.root.json"))
        for each in self.bundles:
            add(self.repository, [each], Stated())
        self._running: Child | None = None
        self._tries = 0
        self._forgets = False

    def look(self) -> None:
        """Go on with what is due, without waiting for it.

        Raises:
            RunFailedError: a stick was not taken, however often it was tried.
        """
        if self._running is None:
            if self.done < self.wanted:
                self._write()
                self._begin("--trust-clock", "--from", str(self._stick))
            return
        if (status := self._running.status) is None:
            return
        if self._forgets:
            self._forgets = False
            self._begin("--trust-clock", "--from", str(self._stick))
        elif status == 0:
            shutil.rmtree(self._stick)
            self.done += 1
            self._tries, self._running = 0, None
        elif self._tries == _TRIES:
            msg = f"update {self.done + 1} is not taken: {self._running.last_words()}"
            raise RunFailedError(msg)
        else:  # a version whose agent died in its trial is thought bad, until somebody says not
            self.ended += 1
            self._tries += 1
            self._forgets = True
            self._begin("--forget-bad", _name(self.bundles[0]))

    def close(self) -> None:
        """End what runs."""
        if self._running is not None:
            self._running.stop()

    @property
    def _stick(self) -> Path:
        return self._work / f"stick-{self.done}"

    def _write(self) -> None:
        wish = Wish(models={_name(self.bundles[0]): 2 - self.done % 2})
        engine = open_database(database_url(self.repository.config, self.repository.folder))
        try:
            assign(self.repository, engine, _DEVICE, wish)
            write_stick(self.repository, engine, self._stick, [_DEVICE])
        finally:
            engine.dispose()

    def _begin(self, *options: str) -> None:
        argv = [sys.executable, "-m", "edgeslm", "update", "--config", str(self.config), *options]
        self._running = Child("edgeslm update", argv, log=self._work / "update.log")


def _idle(updates: _Updates) -> bool:
    updates.look()
    return updates.done == updates.wanted


def _settled(speaks: Source, hears: Listener) -> bool:
    """Whether nothing is on its way, and nothing missing."""
    if hears.state.get("outbox") != 0:
        return False
    found = account(speaks.sent, speaks.again, list(hears.results))
    time.sleep(1.0)
    return not found.alerts_lost and not max(0, found.missing - hears.given_up)


@contextmanager
def _sending(speaks: Source) -> Iterator[Callable[[], None]]:
    """Publish at the rate in a thread of its own, until the call or the end."""
    ended = threading.Event()

    def run() -> None:
        begun, first = time.monotonic(), len(speaks.sent)
        while not ended.wait(1 / _PER_S):
            due = int((time.monotonic() - begun) * _PER_S)
            while len(speaks.sent) - first < due:
                speaks.send()

    thread = threading.Thread(target=run)
    thread.start()

    def stop() -> None:
        ended.set()
        thread.join()

    try:
        yield stop
    finally:
        stop()


def _version(bundle: Path, to: Path, number: int) -> Path:
    shutil.copytree(bundle, to)
    manifest = json.loads((to / MANIFEST).read_bytes())
    (to / MANIFEST).write_text(json.dumps({**manifest, "version": number}), "utf-8")
    return to


def _name(bundle: Path) -> str:
    name: str = json.loads((bundle / MANIFEST).read_bytes())["name"]
    return name


def _configure(work: Path, updates: _Updates, plan: Plan, source: int, uplink: int) -> Path:
    """Write the device's settings; what counts hours in its outbox is as much faster."""
    faster = 7 * 86_400.0 / plan.seconds
    model = _name(updates.bundles[0])
    profile = work / "profile.toml"
    profile.write_text(_PROFILE.format(name=detect_profile().name), "utf-8")
    said: dict[str, Any] = {
        "device_id": _DEVICE,
        "profile": profile,
        "state_dir": work / "state",
        "runtime_dir": work / "run",
        "state_interval_s": 1,
    }
    (work / "run").mkdir()
    lines = [f"{key} = {json.dumps(value, default=str)}" for key, value in said.items()]
    lines += [
        f'[uplink]\nhost = "127.0.0.1"\nport = {uplink}',
        f'[input]\nhost = "127.0.0.1"\nport = {source}',
        "[outbox]",
        f"max_results = {int(_PER_S * plan.seconds)}",
        f"thin_share = {_THIN_SHARE}",
        f"max_age_s = {max(60.0, _AGE_S / faster)}",
        f"summary_s = {max(1.0, _SUMMARY_S / faster)}",
        f"[models.{model}]\nbundle = {json.dumps(str(updates.bundles[0]))}",
        f"[update]\nroot = {json.dumps(str(updates.root))}",
        f"dir = {json.dumps(str(work / 'updater'))}",
    ]
    for name, lane in ((ALERTS, "alert"), (TELEMETRY, "telemetry")):
        lines += [
            f'[routes.{name}]\ntopic = "{name}/+"\nmodels = ["{model}"]\nlane = "{lane}"',
            'text = "/text"\nkey = "/n"\nid = "/n"',
        ]
    updates.config.write_text("\n".join([*lines, ""]), "utf-8")
    return updates.config


def _wait(done: Callable[[], bool], what: str, *, fails: bool = True) -> None:
    """Wait for it; where it does not come and `fails` says so, that is an error."""
    until = time.monotonic() + _LIMIT_S
    while not done():
        if time.monotonic() > until:
            if fails:
                raise RunFailedError(what)
            return
        time.sleep(_TICK_S)
