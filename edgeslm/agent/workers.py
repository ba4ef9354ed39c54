"""Threads that answer: one pool per model, all threads on one shared session."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from edgeslm.agent.reading import id_of, read
from edgeslm.agent.session import MAX_KILLS, Job
from edgeslm.contract.manifest import Coverage, Verified
from edgeslm.contract.messages import ModelRef, Result, encode, stamp
from edgeslm.core.delivery import NO_PROPERTIES, Parcel
from edgeslm.errors import EdgeSLMError, UnavailableError
from edgeslm.logs import Log
from edgeslm.ports import Answer, DeviceClock, Request
from edgeslm.runtime.result import answered, refused

log = Log(__name__)
ALARM: Final = "anomaly"
TOGETHER: Final = 32
"""Most inputs that a thread takes at once: the first of them waits for the last."""
QUIET_S: Final = 10.0  # between two log lines about faults of ours
_NEVER: Final = "the model could not be loaded before it was removed"


class Model(Protocol):
    """What the agent needs of a loaded bundle; `edgeslm.runtime.model.Model` is one."""

    ref: ModelRef
    task: str
    provider: str
    node_share: float

    @property
    def batch_invariant(self) -> bool: ...
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
    def cache_hits(self) -> int: ...
    @property
    def cache_misses(self) -> int: ...
    def answer_all(self, requests: Sequence[Request]) -> list[Answer | Exception]: ...
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
    batch_invariant = False
    cache_hits = 0
    cache_misses = 0

    def __init__(self, name: str) -> None:
        self.ref: ModelRef = {"name": name, "version": 0, "hash": ""}

    def answer_all(self, requests: Sequence[Request]) -> list[Answer | Exception]:
        """Refuse each."""
        return [ModelUnavailableError(_NEVER) for _ in requests]

    def replay_golden(self) -> object:
        """Refuse."""
        raise ModelUnavailableError(_NEVER)

    def resize(self, cache_entries: int) -> None:
        """It keeps nothing."""


class Responder:
    """Turns inputs into results. Called from several threads at once.

    Args:
        model: who answers; may be replaced between two calls.
        device: this device's id.
        topic: where its results go.
        clock: for the times in results.
    """

    def __init__(self, model: Model, *, device: str, topic: str, clock: DeviceClock) -> None:
        self.model = model
        self._device = device
        self._topic = topic
        self._clock = clock
        self._quiet_until = 0.0

    @property
    def most(self) -> int:
        """Inputs worth taking together: more than one only where that changes no answer."""
        return TOGETHER if self.model.batch_invariant else 1

    def respond(self, jobs: Sequence[Job]) -> None:
        """Set `parcel` and `outcome` of each job; raises nothing."""
        model = self.model
        asked = [one for job in jobs if (one := self._begin(job, model)) is not None]
        if not asked:
            return
        answers: Sequence[Answer | Exception]
        try:
            answers = model.answer_all([request for _, request, _ in asked])
        except Exception as err:  # noqa: BLE001 -- inputs must not take the worker with them
            answers = [err] * len(asked)
        for (job, request, own_id), answer in zip(asked, answers, strict=True):
            job.session.ring.done(job.sequence)
            self._finish(job, model, request, own_id, answer)

    def _begin(self, job: Job, model: Model) -> tuple[Job, Request, str | None] | None:
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
            request, own_id, code, why = read(message, route, size=job.size)
        except Exception as err:  # noqa: BLE001 -- one input must not take the others with it
            self._complain(err)
            request, own_id, code, why = None, None, "internal", type(err).__name__
        if request is None:
            ring.done(job.sequence)
            self._send(job, self._refuse(job, model, code, why, own_id, None))
            return None
        return job, request, own_id

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
            self._send(job, self._result(job, model, request, own_id, answer))
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
        return answered(
            answer,
            ref=model.ref,
            task=model.task,
            device=self._device,
            topic=message.topic,
            id=own_id or self._id(job),
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

    def _complain(self, err: BaseException) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_S
            log.fault("answer_failed", err, task=self.model.task)


class Pool:
    """Threads that take jobs from one queue, in order.

    Args:
        name: of its threads.
        threads: how many.
        responder: answers jobs: what waits for it, shared among the threads, up to its `most`.
        done: where finished jobs go.
        wake: called after each.
    """

    def __init__(
        self,
        name: str,
        *,
        threads: int,
        responder: Responder,
        done: deque[Job],
        wake: Callable[[], None],
    ) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._done = done
        self._wake = wake
        self._ended = False
        self._since: list[float | None] = [None] * threads
        self._current: list[Sequence[Job]] = [()] * threads
        self.put = self._jobs.put
        # They alone hold the responder, and its model: with the last of them it may be gone.
        self._threads = [
            threading.Thread(target=self._run, args=(i, responder), name=f"{name} {i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether a thread of it has not ended."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> bool:
        """Whether a job was put that no thread has begun."""
        return not self._jobs.empty()

    def longest_s(self) -> float:
        """How long the slowest thread has been at its job."""
        now = time.monotonic()
        return max((now - t for t in self._since if t is not None), default=0.0)

    def at_work(self) -> list[tuple[str, int, float]]:
        """Threads that are at a job: name, identity, and since when, monotonic seconds."""
        pairs = zip(self._threads, self._since, strict=True)
        return [
            (thread.name, thread.ident, since)
            for thread, since in pairs
            if since is not None and thread.ident is not None
        ]

    def stop(self) -> None:
        """Let each thread end when it has done what was put before."""
        for _ in self._threads:
            self._jobs.put(None)

    def end(self) -> list[Job]:
        """Begin no more, not even what a thread has just taken; return what was not begun."""
        self._ended = True
        return self.withdraw()

    def withdraw(self) -> list[Job]:
        """Let each thread end when it has done what it has begun; return the other jobs."""
        left: list[Job] = []
        with contextlib.suppress(Empty):
            while True:
                if (job := self._jobs.get_nowait()) is not None:
                    left.append(job)
        self.stop()
        return left

    def join(self, until: float) -> bool:
        """Wait for the threads, until then (monotonic seconds); return whether all have ended.

        What is still at work is noted as no fault of its input's: it is the process that leaves.
        """
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        for jobs in self._current:
            for job in jobs:
                job.session.ring.done(job.sequence)
        return not self.alive

    def _run(self, index: int, responder: Responder) -> None:
        get, respond, finished, wake = self._jobs.get, responder.respond, self._done, self._wake
        since, now, current = self._since, time.monotonic, self._current
        while (job := get()) is not None:
            if self._ended:
                return
            jobs = self._with_company(job, responder.most)
            since[index] = now()
            current[index] = jobs
            respond(jobs)
            finished.extend(jobs)
            since[index] = None
            current[index] = ()
            wake()

    def _with_company(self, job: Job, most: int) -> list[Job]:
        """Return `job` and this thread's share of what waits behind it: nothing, if it is idle."""
        jobs = [job]
        more = min(most - 1, self._jobs.qsize() // len(self._since))
        with contextlib.suppress(Empty):
            for _ in range(more):
                if (other := self._jobs.get_nowait()) is None:
                    self._jobs.put(None)  # to stop one thread: this one, after its jobs
                    break
                jobs.append(other)
        return jobs
