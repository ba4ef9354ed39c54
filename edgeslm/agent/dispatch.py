"""Which input is answered when: all at once, but for those that may end the process."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable

from edgeslm.agent.session import Job
from edgeslm.logs import Log

log = Log(__name__)


class Dispatcher:
    """Hands inputs to the workers. Owned by the agent's main thread.

    An input that was being handled when the process died is suspect. Suspects run one at a time,
    and each while its model does nothing else: so the guilty one is found, and those that merely
    ran beside it get their answers. Models without a suspect go on.

    Args:
        put: gives an input to the workers of its model.
    """

    def __init__(self, put: Callable[[Job], None]) -> None:
        self._put = put
        self._running: Counter[str] = Counter()  # by model: inputs with its workers
        self._suspects: deque[Job] = deque()
        self._suspected: Counter[str] = Counter()  # by model: those, and the one on trial
        self._on_trial = False
        # By model: inputs that wait until it has no suspect left.
        self._held: defaultdict[str, deque[Job]] = defaultdict(deque)

    @property
    def running(self) -> int:
        """Inputs with the workers."""
        return self._running.total()

    def take(self, job: Job) -> None:
        """Have `job` answered."""
        model = job.session.model
        if job.kills:
            self._suspects.append(job)
            self._suspected[model] += 1
            self._try_suspect()
        elif self._suspected[model]:
            self._held[model].append(job)
        else:
            self._begin(job)

    def finished(self, job: Job) -> None:
        """A worker is done with `job`."""
        model = job.session.model
        self._running[model] -= 1
        if job.kills:
            self._on_trial = False
            self._suspected[model] -= 1
            log.warning("suspect_answered", model=model, kills=job.kills)
            if not self._suspected[model]:
                for held in self._held.pop(model, ()):
                    self._begin(held)
        if self._suspects:
            self._try_suspect()

    def unbegun(self, jobs: Iterable[Job]) -> None:
        """These were taken back from the workers; `take` takes them again."""
        for job in jobs:
            self._running[job.session.model] -= 1
            if job.kills:
                self._on_trial = False
                self._suspected[job.session.model] -= 1
        if self._suspects:
            self._try_suspect()

    def _begin(self, job: Job) -> None:
        self._running[job.session.model] += 1
        self._put(job)

    def _try_suspect(self) -> None:
        if self._on_trial:
            return
        for job in self._suspects:
            if not self._running[job.session.model]:
                self._suspects.remove(job)
                self._on_trial = True
                self._begin(job)
                return
