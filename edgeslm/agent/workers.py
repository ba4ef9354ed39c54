"""Threads that answer: one pool per model, all threads on one shared session."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from edgeslm.agent.responder import Done, Lesson, Responder
from edgeslm.agent.session import Job


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
        self._jobs: SimpleQueue[Job | Lesson | None] = SimpleQueue()
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
                # A lesson that was not begun is not missed: whoever gave it keeps it.
                if isinstance(job := self._jobs.get_nowait(), Job):
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
        get, finished, wake = self._jobs.get, self._done, self._wake
        since, now, current = self._since, time.monotonic, self._current

        def done(jobs: Sequence[Job]) -> None:
            finished.extend(jobs)
            since[index] = now()  # of others, maybe, which are judged here: it has not stopped
            wake()

        while (job := get()) is not None:
            if isinstance(job, Lesson):
                since[index] = now()
                responder.learn(job, done)
                since[index] = None
                continue
            if self._ended:
                responder.forgo([job], done)
                since[index] = None
                return
            jobs = self._with_company(job, responder, done)
            since[index] = now()
            current[index] = jobs
            try:
                responder.respond(jobs, done)
            finally:
                responder.forgo(jobs, done)
            since[index] = None
            current[index] = ()

    def _with_company(self, job: Job, responder: Responder, done: Done) -> list[Job]:
        """Return `job` and this thread's share of what waits behind it: nothing, if it is idle."""
        jobs = [job]
        more = min(responder.most - 1, self._jobs.qsize() // len(self._since))
        with contextlib.suppress(Empty):
            for _ in range(more):
                other = self._jobs.get_nowait()
                if other is None:
                    self._jobs.put(None)  # to stop one thread: this one, after its jobs
                    break
                if isinstance(other, Lesson):
                    responder.learn(other, done)
                else:
                    jobs.append(other)
        return jobs
