"""Inputs -> results: what a model says of them, in their order where that matters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from edgeslm.agent.reading import id_of, read
from edgeslm.agent.sequencer import Sequencer
from edgeslm.agent.session import MAX_KILLS, Job
from edgeslm.contract.manifest import Coverage, Verified
from edgeslm.contract.messages import ModelRef, Result, encode, stamp
from edgeslm.core import overlay
from edgeslm.core.delivery import NO_PROPERTIES, Parcel
from edgeslm.core.drift import Trained
from edgeslm.errors import EdgeSLMError, UnavailableError
from edgeslm.logs import Log
from edgeslm.ports import Answer, DeviceClock, Memory, Request
from edgeslm.runtime.result import answered, refused

log = Log(__name__)
ALARM: Final = "anomaly"
QUIET_S: Final = 10.0  # between two log lines about faults of ours
EXPLAINED: Final = 20  # alarms that are explained in the log in so long, beside
TEMPLATES: Final = 100  # the first of each template, of so many
_NEVER: Final = "the model could not be loaded before it was removed"


class Model(Protocol):
    """What the agent needs of a loaded bundle; `edgeslm.runtime.model.Model` is one."""

    ref: ModelRef
    task: str
    provider: str
    node_share: float

    @property
    def together(self) -> int: ...
    @property
    def variant(self) -> str | None: ...
    @property
    def verified(self) -> Verified: ...
    @property
    def coverage(self) -> Coverage | None: ...
    @property
    def passed_over(self) -> Sequence[str]: ...
    @property
    def supported_until(self) -> str | None: ...
    @property
    def handed_over(self) -> float | None: ...
    @property
    def trained(self) -> Trained: ...
    @property
    def cache_hits(self) -> int: ...
    @property
    def cache_misses(self) -> int: ...
    def memory(self) -> Memory | None: ...
    def silences(self, lesson: overlay.Lesson, memory: Memory | None) -> bool: ...
    def overwritten(self) -> str | None: ...
    def answer_all(
        self, requests: Sequence[Request], memory: Memory | None
    ) -> list[Answer | Exception]: ...
    def read(self, requests: Sequence[Request]) -> Sequence[object]: ...
    def judge(self, readings: Sequence[Any], memory: Memory | None) -> list[Answer | Exception]: ...
    def replay_golden(self) -> object: ...
    def resize(self, cache_entries: int) -> None: ...


class ModelUnavailableError(UnavailableError):
    """There is no such model, or it was removed without ever having been loaded."""

    code = "model.unavailable"


class AbsentModel:
    """Stands in for a model that could not be loaded, so that its inputs get to know.

    Args:
        name: key of [models].
    """

    task = ""
    provider = ""
    variant = None
    verified: Verified = "none"
    node_share = 0.0
    coverage = None
    passed_over = ()
    supported_until = None
    trained = Trained()
    together = 1
    handed_over = None
    cache_hits = 0
    cache_misses = 0

    def __init__(self, name: str) -> None:
        self.ref: ModelRef = {"name": name, "version": 0, "hash": ""}

    def memory(self) -> None:
        """It needs none."""

    def silences(self, lesson: overlay.Lesson, memory: Memory | None = None) -> bool:
        """It knows nothing."""
        del lesson, memory
        return False

    def overwritten(self) -> None:
        """It has no files."""

    def answer_all(
        self, requests: Sequence[Request], memory: Memory | None = None
    ) -> list[Answer | Exception]:
        """Refuse each."""
        return self.judge(self.read(requests), memory)

    def read(self, requests: Sequence[Request]) -> Sequence[object]:
        """Refuse each."""
        return requests

    def judge(
        self, readings: Sequence[object], memory: Memory | None = None
    ) -> list[Answer | Exception]:
        """Refuse each."""
        del memory
        return [ModelUnavailableError(_NEVER) for _ in readings]

    def replay_golden(self) -> object:
        """Refuse."""
        raise ModelUnavailableError(_NEVER)

    def resize(self, cache_entries: int) -> None:
        """It keeps nothing."""


class Mind(NamedTuple):
    """A model, and what it remembers; None: nothing, and it cannot be taught."""

    model: Model
    memory: Memory | None

    @property
    def ordered(self) -> bool:
        """Whether its answers depend on what came before."""
        return self.memory is not None and self.memory.ordered


class _Asked(NamedTuple):
    """An input as it was understood."""

    job: Job
    request: Request
    own_id: str | None


class _Deposit(NamedTuple):
    """An input that was read, for whoever judges it."""

    mind: Mind
    asked: _Asked
    reading: object


class Lesson(NamedTuple):
    """What changes a memory, in its place among the inputs."""

    turn: int
    teach: Callable[[Memory], None]


Done = Callable[[Sequence[Job]], None]
"""Takes jobs that have come to their end, on the thread that brought them there."""


class Responder:
    """Turns inputs into results. Called from several threads at once.

    Where answers depend on what came before, `begin` gives each input its turn. They are read in
    any order, and judged in that of their turns, by whichever thread brings the one that is next.

    Args:
        model: who answers, until `equip` names another.
        memory: see there.
        device: this device's id.
        topic: where its results go.
        clock: for the times in results.
    """

    def __init__(
        self,
        model: Model,
        memory: Memory | None = None,
        *,
        device: str,
        topic: str,
        clock: DeviceClock,
    ) -> None:
        self.equip(model, memory)
        self._device = device
        self._topic = topic
        self._clock = clock
        self._quiet_until = 0.0
        self._explained_until = 0.0
        self._explained = self._unexplained = 0
        self._explained_of: set[str | None] = set()
        self._sequencer: Sequencer[_Deposit | Lesson] = Sequencer()

    @property
    def model(self) -> Model:
        """Who answers."""
        return self._mind.model

    @property
    def memory(self) -> Memory | None:
        """What it remembers; only a `Lesson` may change it, apart from the inputs."""
        return self._mind.memory

    def equip(self, model: Model, memory: Memory | None = None) -> None:
        """Let `model` answer from the next input on; what was read before is judged as it began.

        Args:
            model: who answers.
            memory: one of its own; None: of nothing yet. Windows and sessions begin anew with each
                model, since another one has other templates.
        """
        self._mind = Mind(model, model.memory() if memory is None else memory)

    @property
    def most(self) -> int:
        """See `Model.together` in edgeslm/runtime/."""
        return self.model.together

    @property
    def waiting(self) -> int:
        """Inputs that were read and wait for one before them."""
        return self._sequencer.waiting

    def begin(self, job: Job) -> None:
        """Give an input its turn, if that matters: called in the order in which they came."""
        job.turn = self._sequencer.turn() if self._mind.ordered else None

    def lesson(self, teach: Callable[[Memory], None]) -> Lesson | None:
        """Return what lets `teach` change the memory after the inputs begun so far.

        None where there is none to change.
        """
        return Lesson(self._sequencer.turn(), teach) if self._mind.ordered else None

    def learn(self, lesson: Lesson, done: Done) -> None:
        """Leave a lesson for its turn; `done` as in `respond`."""
        self._sequencer.bring(lesson.turn, lesson, partial(self._judge, done))

    def forgo(self, jobs: Iterable[Job], done: Done) -> None:
        """Let those behind not wait for these jobs; of no effect on those that were read."""
        for job in jobs:
            if (turn := job.turn) is not None:
                job.turn = None
                self._sequencer.skip(turn, partial(self._judge, done))

    def respond(self, jobs: Sequence[Job], done: Done) -> None:
        """Set `parcel` and `outcome` of each job, now or in its turn; raises nothing.

        Args:
            jobs: those that this thread has taken.
            done: is called with every job once: one that waits for its turn is another call's.
        """
        mind = self._mind
        asked: list[_Asked] = []
        ended: list[Job] = []
        for job in jobs:
            if (one := self._begin(job, mind.model)) is not None:
                asked.append(one)
            else:
                ended.append(job)
        if mind.ordered and asked:
            self._read(mind, asked, done)
        else:
            if asked:
                self._answer(mind, asked)
            ended = list(jobs)
        if ended:
            done(ended)
            self.forgo(ended, done)

    def _answer(self, mind: Mind, asked: Sequence[_Asked]) -> None:
        """Answer what depends on nothing that came before."""
        answers: Sequence[Answer | Exception]
        try:
            answers = mind.model.answer_all([request for _, request, _ in asked], mind.memory)
        except Exception as err:  # noqa: BLE001 -- inputs must not take the worker with them
            answers = [err] * len(asked)
        for one, answer in zip(asked, answers, strict=True):
            self._conclude(mind.model, one, answer)

    def _read(self, mind: Mind, asked: Sequence[_Asked], done: Done) -> None:
        """Read inputs, and leave each to be judged in its turn."""
        readings: Sequence[object]
        try:
            readings = mind.model.read([request for _, request, _ in asked])
        except Exception as err:  # noqa: BLE001 -- as above
            readings = [err] * len(asked)
        judge = partial(self._judge, done)
        for one, reading in zip(asked, readings, strict=True):
            job = one.job
            # While it waits it does the process no harm.
            job.session.ring.done(job.sequence)
            # It has no turn if it came when another model answered, which kept no order.
            turn = self._sequencer.turn() if job.turn is None else job.turn
            job.turn = None
            self._sequencer.bring(turn, _Deposit(mind, one, reading), judge)

    def _judge(self, done: Done, item: _Deposit | Lesson) -> None:
        """Judge what is next in turn; called by one thread at a time."""
        if isinstance(item, Lesson):
            memory = self._mind.memory
            try:
                if memory is not None:
                    item.teach(memory)
            except Exception as err:  # noqa: BLE001 -- a lesson must not end the inputs
                self._complain(err)
            return
        (model, memory), one, reading = item
        one.job.session.ring.begin(one.job.sequence)
        try:
            (answer,) = model.judge([reading], memory)
        except Exception as err:  # noqa: BLE001 -- one input must not take the others with it
            answer = err
        self._conclude(model, one, answer)
        done([one.job])

    def _conclude(self, model: Model, one: _Asked, answer: Answer | Exception) -> None:
        job, request, own_id = one
        job.session.ring.done(job.sequence)
        self._finish(job, model, request, own_id, answer)

    def _begin(self, job: Job, model: Model) -> _Asked | None:
        """Read an input, and note that it is being handled; None where that was all of it."""
        message, route = job.message, job.route
        assert route is not None  # noqa: S101 -- a job without one is not answered
        expiry = message.properties.get("MessageExpiryInterval") if message.properties else None
        if isinstance(expiry, int) and self._clock.monotonic() - message.received_at > expiry:
            job.outcome = "expired"
            return None
        if job.kills >= MAX_KILLS:
            why = f"the process ended {job.kills} times while handling it"
            # Not from its payload, which may be what ends the process.
            own_id = id_of(message, route)
            self._send(job, self._refuse(job, model, "input.poison", why, own_id, None))
            return None
        ring = job.session.ring
        ring.begin(job.sequence)
        try:
            delivery = job.sequence if message.qos else None  # QoS 0 is never delivered again
            request, own_id, code, why = read(message, route, size=job.size, delivery=delivery)
        except Exception as err:  # noqa: BLE001 -- one input must not take the others with it
            self._complain(err)
            request, own_id, code, why = None, None, "internal", type(err).__name__
        if request is None:
            ring.done(job.sequence)
            self._send(job, self._refuse(job, model, code, why, own_id, None))
            return None
        return _Asked(job, request, own_id)

    def _finish(
        self,
        job: Job,
        model: Model,
        request: Request,
        own_id: str | None,
        answer: Answer | Exception,
    ) -> None:
        if isinstance(answer, EdgeSLMError):
            said = self._refuse(job, model, answer.code, str(answer), own_id, request)
            self._send(job, said)
            return
        try:
            if isinstance(answer, Exception):
                raise answer  # noqa: TRY301 -- to be told like what fails below
            result = self._result(job, model, request, own_id, answer)
            self._send(job, result)
            if answer.explanation:
                self._explain(model, result, answer)
        except Exception as err:  # noqa: BLE001 -- as above
            self._complain(err)
            why = type(err).__name__
            self._send(job, self._refuse(job, model, "internal", why, None, None))

    def _send(self, job: Job, result: Result) -> None:
        clock = self._clock
        now = clock.monotonic()
        stamp(result, mono=round(now, 3), boot=clock.boot, trust=clock.trust)
        payload = encode(result)
        properties = job.message.properties
        if properties and "CorrelationData" in properties:
            properties = {"CorrelationData": properties["CorrelationData"]}
        else:
            properties = NO_PROPERTIES
        job.outcome = "error" if "error" in result else "answered"
        job.alarm = result.get("label") == ALARM
        lane = job.route.lane if job.route else None
        alert = job.alarm if lane is None else lane == "alert"
        again = job.message.dup
        job.parcel = Parcel(self._topic, payload, now, job, properties, alert=alert, again=again)

    def _result(
        self, job: Job, model: Model, request: Request, own_id: str | None, answer: Answer
    ) -> Result:
        message, route = job.message, job.route
        latency_s = self._clock.monotonic() - message.received_at
        now = self._clock.wall()
        id_ = own_id or self._id(job)
        job.said = id_, request, answer
        return answered(
            answer,
            ref=model.ref,
            task=model.task,
            device=self._device,
            topic=message.topic,
            id=id_,
            time_in=now - latency_s,
            time_out=now,
            latency_ms=latency_s * 1000,
            request=request,
            share=route.share if route else "none",
            redelivered=message.dup,
            retained=message.retain,
        )

    def _refuse(  # noqa: PLR0913, PLR0917 -- the parts of one result
        self,
        job: Job,
        model: Model,
        code: str,
        why: str,
        own_id: str | None,
        request: Request | None,
    ) -> Result:
        message = job.message
        latency_s = self._clock.monotonic() - message.received_at
        now = self._clock.wall()
        return refused(
            code,
            why,
            ref=model.ref,
            task=model.task,
            device=self._device,
            topic=message.topic,
            id=own_id or self._id(job),
            time_in=now - latency_s,
            time_out=now,
            latency_ms=latency_s * 1000,
            request=request,
            share=job.route.share if job.route else "none",
            redelivered=message.dup,
            retained=message.retain,
        )

    def _id(self, job: Job) -> str:
        ring = job.session.ring
        return f"{self._device}:{job.message.topic}:{ring.epoch}:{job.sequence}"

    def _explain(self, model: Model, result: Result, answer: Answer) -> None:
        """Log what an alarm is of, whatever its route shares: the log stays on the device.

        And whatever the log's level. A flood of alarms is no flood of lines, which would wear the
        disk: in `QUIET_S` the first of each template and `EXPLAINED` others, and with the next line
        how many more there were.
        """
        now = time.monotonic()
        if now >= self._explained_until:
            self._explained_until, self._explained = now + QUIET_S, 0
            self._explained_of.clear()
        if answer.template not in self._explained_of and len(self._explained_of) < TEMPLATES:
            self._explained_of.add(answer.template)
        elif self._explained < EXPLAINED:
            self._explained += 1
        else:
            self._unexplained += 1
            return
        log.record(
            "alarm_explained",
            model=model.ref["name"],
            id=result["id"],
            source=result["source"],
            p_value=answer.p_value,
            causes=list(answer.explanation),
            unexplained=self._unexplained,
        )
        self._unexplained = 0

    def _complain(self, err: BaseException) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_S
            log.fault("answer_failed", err, task=self.model.task)
