"""A task for tests whose answers depend on earlier texts, or so it says."""

from __future__ import annotations

from edgeslm.core.memory import LineMemory
from edgeslm.ports import Memory
from tests.runtime.tasks.double import DoubleTask


class RecallsTask(DoubleTask):
    """A `DoubleTask` with a memory."""

    def memory(self) -> Memory | None:  # type: ignore[override]
        return LineMemory[object]()


def load(parameters: bytes) -> RecallsTask:
    """Read nothing."""
    del parameters
    return RecallsTask([])
