"""Which input is answered when: all at once, but for those that may end the process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from edgeslm.agent.session import Job
from edgeslm.logs import Log

log = Log(__name__)


class Dispatcher:
    """Hands inputs to the workers. Owned by the agent's main thread.

    An input that was being handled when the process died is suspect. It runs while nothing else
    does: so the guilty one is found, and those that merely ran beside it get their answers.

    Args:
        put: gives an input to the workers of its model.

    Attributes:
        running: inputs with the workers.
    """

    def __init__(self, put: Callable[[Job], None]) -> None:
        self.running = 0
        self._put = put
        self._suspects: deque[Job] = deque()
        self._held: deque[Job] = deque()  # inputs that wait until no suspect is left

    def take(self, job: Job) -> None:
        """Have `job` answered."""
        if job.kills:
            self._suspects.append(job)
            self._try_suspect()
        elif self._suspects:
            self._held.append(job)
        else:
            self.running += 1
            self._put(job)

    def finished(self, job: Job) -> None:
        """A worker is done with `job`."""
        self.running -= 1
        if job.kills:
            self._suspects.popleft()
            log.warning("suspect_answered", model=job.session.model, kills=job.kills)
        self._try_suspect()

    def _try_suspect(self) -> None:
        if self.running:
            return
        if self._suspects:
            self.running += 1
            self._put(self._suspects[0])
        else:
            self.running += len(self._held)
            while self._held:
                self._put(self._held.popleft())
