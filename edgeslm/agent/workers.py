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
from edgeslm.contract.messages import ModelRef, Result, encode
from edgeslm.core.delivery import NO_PROPERTIES, Parcel
from edgeslm.errors import EdgeSLMError, UnavailableError
from edgeslm.logs import Log
from edgeslm.ports import Answer, Clock, Request
from edgeslm.runtime.result import answered, refused

log = Log(__name__)
QUIET_S: Final = 10.0  # between two log lines about faults of ours


class Model(Protocol):
    """What the agent needs of a loaded bundle; `edgeslm.runtime.model.Model` is one."""

    ref: ModelRef
    task: str
    provider: str
    node_share: float

    @property
    def variant(self) -> str | None: ...
    @property
    def verified(self) -> Verified: ...
    @property
    def coverage(self) -> Coverage | None: ...
    @property
    def passed_over(self) -> Sequence[str]: ...
    @property
    def cache_hits(self) -> int: ...
    @property
    def cache_misses(self) -> int: ...
    def answer(self, request: Request) -> Answer: ...


class ModelUnavailableError(UnavailableError):
    """The model was removed from the settings without ever having been loaded."""

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
    cache_hits = 0
    cache_misses = 0

    def __init__(self, name: str) -> None:
        self.ref: ModelRef = {"name": name, "version": 0, "hash": ""}

    def answer(self, request: Request) -> Answer:
        """Refuse.

        Raises:
            ModelUnavailableError: always.
        """
        del request
        msg = "the model could not be loaded before it was removed"
        raise ModelUnavailableError(msg)


class Responder:
    """Turns one input into one result. Called from several threads at once.

    Args:
        model: who answers; may be replaced between two inputs.
        device: this device's id.
        topic: where its results go.
        clock: for the times in results.
    """

    def __init__(self, model: Model, *, device: str, topic: str, clock: Clock) -> None:
        self.model = model
        self._device = device
        self._topic = topic
        self._clock = clock
        self._quiet_until = 0.0

    def respond(self, job: Job) -> None:
        """Set the job's `parcel` and `outcome`; raises nothing."""
        message = job.message
        properties = message.properties
        if properties:
            expiry = properties.get("MessageExpiryInterval")
            waited_s = self._clock.monotonic() - message.received_at
            if isinstance(expiry, int) and waited_s > expiry:
                job.outcome = "expired"
                return
        model = self.model
        try:
            result = self._result(job, model)
            payload = encode(result)
        except Exception as err:  # noqa: BLE001 -- one input must not take the others with it
            self._complain(err)
            result = self._refuse(job, model, "internal", type(err).__name__, None, None)
            payload = encode(result)
        job.outcome = "error" if "error" in result else "answered"
        if properties and "CorrelationData" in properties:
            properties = {"CorrelationData": properties["CorrelationData"]}
        else:
            properties = NO_PROPERTIES
        job.parcel = Parcel(self._topic, payload, self._clock.monotonic(), job, properties)

    def _result(self, job: Job, model: Model) -> Result:
        message, route = job.message, job.route
        assert route is not None  # noqa: S101 -- a job without one is not answered
        if job.kills >= MAX_KILLS:
            why = f"the process ended {job.kills} times while handling it"
            # Not from its payload, which may be what ends the process.
            own_id = id_of(message, route)
            return self._refuse(job, model, "input.poison", why, own_id, None)
        ring = job.session.ring
        ring.begin(job.sequence)
        try:
            request, own_id, code, why = read(message, route, size=job.size)
            if request is None:
                return self._refuse(job, model, code, why, own_id, None)
            try:
                answer = model.answer(request)
            except EdgeSLMError as err:
                return self._refuse(job, model, err.code, str(err), own_id, request)
        finally:
            ring.done(job.sequence)
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
            share=route.share,
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
        respond: called with each job.
        done: where finished jobs go.
        wake: called after each.
    """

    def __init__(
        self,
        name: str,
        *,
        threads: int,
        respond: Callable[[Job], None],
        done: deque[Job],
        wake: Callable[[], None],
    ) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._respond = respond
        self._done = done
        self._wake = wake
        self._ended = False
        self._since: list[float | None] = [None] * threads
        self._current: list[Job | None] = [None] * threads
        self.put = self._jobs.put
        self._threads = [
            threading.Thread(target=self._run, args=(i,), name=f"{name} {i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether a thread of it has not ended."""
        return any(thread.is_alive() for thread in self._threads)

    def longest_s(self) -> float:
        """How long the slowest thread has been at its job."""
        now = time.monotonic()
        return max((now - t for t in self._since if t is not None), default=0.0)

    def stop(self) -> None:
        """Let each thread end when it has done what was put before."""
        for _ in self._threads:
            self._jobs.put(None)

    def end(self) -> list[Job]:
        """Begin no more; return the jobs that were put and not begun."""
        self._ended = True
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
        for job in self._current:
            if job is not None:
                job.session.ring.done(job.sequence)
        return not self.alive

    def _run(self, index: int) -> None:
        get, respond, finished, wake = self._jobs.get, self._respond, self._done, self._wake
        since, now, current = self._since, time.monotonic, self._current
        while (job := get()) is not None:
            if self._ended:
                return
            since[index] = now()
            current[index] = job
            respond(job)
            finished.append(job)
            since[index] = current[index] = None
            wake()
