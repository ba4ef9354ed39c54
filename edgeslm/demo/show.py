"""The demo itself: bundles, broker and agent come up, the factory plays, the books are added up."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

from edgeslm.contract.messages import ModelState, Result, State
from edgeslm.contract.topics import DEFAULT_ROOT, Topics
from edgeslm.demo import broker, bundles, replay
from edgeslm.demo.errors import AgentFailedError
from edgeslm.demo.factory import FAULT_SHARE, Factory, Message, play
from edgeslm.demo.interrupts import Interrupts, deferred
from edgeslm.demo.orders import training_orders
from edgeslm.demo.player import MACHINES_TOPIC, ORDERS_TOPIC, Player, parse
from edgeslm.demo.processes import Child
from edgeslm.demo.tally import Outcome, Summary, Tally
from edgeslm.runtime.profiles import detect_profile

TOPICS: Final = Topics(DEFAULT_ROOT, "demo")
TRAINING_SEED: Final = "training"
_TRAINING_MESSAGES: Final = 8_000
_TRAINING_ORDERS: Final = 80
_START: Final = 1_767_596_400.0  # a Monday, 07:00 UTC: factory time does not follow the clock
# The user's choice, as for any plant: three of a thousand normal lines may alarm.
_ALARM_BUDGET: Final = 0.003
_REPLAY_BUDGET: Final = 0.01
_WINDOW: Final = 400  # messages under way at once
_REFRESH_S: Final = 0.25
_SERVING_S: Final = 60.0
_DRAIN_S: Final = 10.0
_DRAIN_INTERRUPTED_S: Final = 2.0
_LATE_S: Final = 0.2  # after the last answer: for duplicates


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for.

    Args:
        seconds: of play; None: no limit of time.
        messages: to send; None: no limit of number.
        rate: messages a second; None: as fast as they are answered.
        seed: of the factory's play.
        replay: a log file to play in place of the factory.
        broker: which broker to start.
        quiet: keep the exporter's progress off the terminal.
    """

    seconds: float | None = 60.0
    messages: int | None = None
    rate: float | None = 50.0
    seed: int = 1
    replay: Path | None = None
    broker: broker.Wanted = "auto"
    quiet: bool = False


@dataclass(slots=True)
class Vitals:
    """How the play and the agent are doing, beside the tally."""

    elapsed_s: float = 0.0
    progress: float = 0.0  # in [0, 1]
    pss_mb: float | None = None
    models: list[ModelState] = field(default_factory=list)


class View(Protocol):
    """Where the demo shows itself."""

    def stage(self, what: str, how: str) -> None:
        """Say that a part of the stage stands, or is being built."""

    def begin(self, tally: Tally, vitals: Vitals) -> None:
        """The play begins; both arguments are kept up to date."""

    def sent(self, message: Message) -> None:
        """A message was published."""

    def outcome(self, outcome: Outcome) -> None:
        """A message was answered."""

    def refresh(self) -> None:
        """A quarter of a second has passed."""

    def end(self) -> None:
        """The play is over, whatever the reason; called once if `begin` was."""


@dataclass(frozen=True, slots=True)
class _Material:
    """What to train on and what to play."""

    wanted: dict[str, bundles.Wanted]  # by the model's key on the device
    messages: Iterator[Message]
    truth_known: bool
    total: int | None


def run(options: Options, view: View) -> Summary:
    """Play the demo and return what it adds up to. Everything started is ended, whatever happens.

    Raises:
        MissingExtraError: something is not installed; says what to install.
        ReplayError: the file to play cannot be used.
        ExportFailedError, BrokerFailedError, AgentFailedError: that part did not come up.
    """
    with Interrupts() as interrupts, ExitStack() as stack:
        material = _material(options)
        choice = broker.choose(options.broker)
        profile = detect_profile()
        cache = bundles.cache_folder()
        paths = {}
        for key, wanted in material.wanted.items():
            if found := bundles.find(wanted, cache, profile):
                view.stage("bundle", f"{wanted.task} model, exported before")
                paths[key] = found
            else:
                view.stage("bundle", f"{wanted.task} model, exported now for {profile.name}")
                paths[key] = bundles.make(wanted, cache, profile, quiet=options.quiet)
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="edgeslm-demo-", ignore_cleanup_errors=True)
            )
        )
        with deferred():
            server, port = broker.start(choice, folder)
            stack.enter_context(server)
        view.stage("broker", f"{choice.said}, 127.0.0.1:{port}")
        player = stack.enter_context(Player(port, TOPICS))
        with deferred():
            agent = stack.enter_context(_start_agent(folder, port, paths))
        vitals = Vitals()
        _wait_until_serving(player, agent, vitals)
        view.stage("agent", f"process {agent.pid} serves {' and '.join(paths)}")
        return _Show(options, material, player, agent, vitals, view, interrupts).play()


def _material(options: Options) -> _Material:
    if options.replay:
        log = replay.read(options.replay)
        data = bundles.anomaly_rows(log.train)
        wanted = bundles.Wanted(
            "anomaly", "demo-replay", data, ("--alarm-budget", str(_REPLAY_BUDGET))
        )
        return _Material({"anomaly": wanted}, iter(log.play), False, len(log.play))  # noqa: FBT003
    factory = Factory(TRAINING_SEED, fault_share=0, order_share=0, fresh=False)
    normal = bundles.anomaly_rows(islice(play(factory, _START), _TRAINING_MESSAGES))
    orders = bundles.intent_rows(training_orders(TRAINING_SEED, per_intent=_TRAINING_ORDERS))
    budget = ("--alarm-budget", str(_ALARM_BUDGET))
    wanted_of = {
        "anomaly": bundles.Wanted("anomaly", "demo-anomaly", normal, budget),
        "intent": bundles.Wanted("intent", "demo-intent", orders),
    }
    played = play(Factory(f"play {options.seed}", fault_share=FAULT_SHARE), _START)
    return _Material(wanted_of, played, True, None)  # noqa: FBT003


def _start_agent(folder: Path, port: int, paths: dict[str, Path]) -> Child:
    """Start `edgeslm run` as a user would, on a configuration in `folder`."""
    config = folder / "edgeslm.toml"
    config.write_text(configuration(folder, port, paths), encoding="utf-8")
    argv = [sys.executable, "-m", "edgeslm", "run", "--config", str(config)]
    return Child("agent", argv, log=folder / "agent.log")


def configuration(folder: Path, port: int, paths: dict[str, Path]) -> str:
    """The agent's settings, TOML: a route per model, JSON pointers, explanations shared."""
    topics = {"anomaly": f"{MACHINES_TOPIC}/#", "intent": f"{ORDERS_TOPIC}/#"}
    parts = [
        f"device_id = {json.dumps(TOPICS.device)}",
        f"state_dir = {json.dumps(str(folder / 'state'))}",
        f"runtime_dir = {json.dumps(str(folder / 'run'))}",
        "state_interval_s = 1.0",
        'log_level = "warning"',
        f'[uplink]\nhost = "127.0.0.1"\nport = {port}',
    ]
    for key, path in paths.items():
        parts += [
            f"[models.{key}]\nbundle = {json.dumps(str(path))}",
            f"[routes.{key}]\ntopic = {json.dumps(topics[key])}\nmodels = [{json.dumps(key)}]",
            'text = "/text"\nsource = "/from"\ntime = "/at"\nid = "/id"\nshare = "explanation"',
        ]
    return "\n".join(parts) + "\n"


def _wait_until_serving(player: Player, agent: Child, vitals: Vitals) -> None:
    deadline = time.monotonic() + _SERVING_S
    while time.monotonic() < deadline:
        if agent.status is not None:
            msg = f"the agent ended with status {agent.status}: {agent.last_words()}"
            raise AgentFailedError(msg)
        for arrival in player.arrivals(0.05):
            kind, said = parse(arrival, TOPICS)
            if kind == "state" and _serves(said, vitals):
                return
    msg = f"the agent does not serve after {_SERVING_S:.0f} s: {agent.last_words()}"
    raise AgentFailedError(msg)


def _serves(state: State, vitals: Vitals) -> bool:
    vitals.models = state["models"]
    for model in vitals.models:
        if model["state"] == "failed":
            why = model.get("error", {}).get("message", "it does not say why")
            msg = f"the agent cannot serve {model['name']}: {why}"
            raise AgentFailedError(msg)
    return bool(vitals.models) and all(m["state"] == "serving" for m in vitals.models)


@dataclass(slots=True)
class _Show:
    """The play: paces messages, books answers, keeps the view fresh."""

    options: Options
    material: _Material
    player: Player
    agent: Child
    vitals: Vitals
    view: View
    interrupts: Interrupts
    tally: Tally = field(init=False)
    started: float = 0.0  # all in monotonic seconds
    refreshed: float = 0.0
    weighed: float = 0.0

    def __post_init__(self) -> None:
        self.tally = Tally(truth_known=self.material.truth_known)

    def play(self) -> Summary:
        """Send, receive, draw; then wait for what is still under way.

        Raises:
            AgentFailedError: the agent ended before the play did.
        """
        self.interrupts.raising = False
        self.started = time.monotonic()
        self.view.begin(self.tally, self.vitals)
        try:
            self._send()
            self._drain()
            pss_mb = self.agent.pss_mb()
        finally:
            self.view.end()
        return self.tally.summary(pss_mb=pss_mb)

    def _send(self) -> None:
        gap_s = 1 / self.options.rate if self.options.rate else 0.0
        due = self.started
        for message in islice(self.material.messages, self.options.messages):
            while not self._over():
                wait_s = due - time.monotonic()
                if wait_s <= 0 and self.tally.waiting < _WINDOW:
                    break
                self._turn(min(max(wait_s, 0.001), _REFRESH_S))
            if self._over():
                return
            self.tally.sending(message, time.monotonic())
            self.player.publish(message)
            self.view.sent(message)
            # After a hitch it goes on at its pace: a burst would measure the hitch twice.
            due = max(due + gap_s, time.monotonic() - gap_s)

    def _over(self) -> bool:
        limit = self.options.seconds
        timed_out = limit is not None and time.monotonic() - self.started >= limit
        return timed_out or self.interrupts.asked

    def _drain(self) -> None:
        last, patience_s = time.monotonic(), _DRAIN_S
        while self.tally.waiting:
            if self.interrupts.asked:
                patience_s = _DRAIN_INTERRUPTED_S
            if self._turn(0.05):
                last = time.monotonic()
            elif time.monotonic() - last > patience_s:
                break
        late = time.monotonic() + _LATE_S
        while (left_s := late - time.monotonic()) > 0:
            self._turn(left_s)

    def _turn(self, wait_s: float) -> int:
        """Take what has come, waiting at most `wait_s`; return how many results there were."""
        results = 0
        for arrival in self.player.arrivals(wait_s):
            kind, said = parse(arrival, TOPICS)
            if kind == "state":
                self.vitals.models = said["models"]
            elif kind == "result":
                results += 1
                self._book(said, arrival.at)
        now = time.monotonic()
        if now - self.refreshed >= _REFRESH_S:
            self.refreshed = now
            self._keep_fresh(now)
        return results

    def _book(self, result: Result, at: float) -> None:
        outcome = self.tally.received(result, at)
        if outcome:
            self.view.outcome(outcome)

    def _keep_fresh(self, now: float) -> None:
        if self.agent.status is not None:
            msg = f"the agent ended with status {self.agent.status}: {self.agent.last_words()}"
            raise AgentFailedError(msg)
        if now - self.weighed >= 1.0:
            self.weighed = now
            self.vitals.pss_mb = self.agent.pss_mb()
        self.vitals.elapsed_s = now - self.started
        self.vitals.progress = self._progress()
        self.view.refresh()

    def _progress(self) -> float:
        shares = [0.0]
        if self.options.seconds:
            shares.append(self.vitals.elapsed_s / self.options.seconds)
        if total := self.options.messages or self.material.total:
            shares.append(self.tally.sent / total)
        return min(max(shares), 1.0)
