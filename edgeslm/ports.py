"""What edgeslm needs from outside, as Protocols. Fakes and real things pass tests/contract/."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeslm.contract.messages import Cause

Tensor = NDArray[np.generic]


class Clock(Protocol):
    """Where time comes from."""

    def wall(self) -> float:
        """Seconds since 1970, UTC; may jump."""

    def monotonic(self) -> float:
        """Seconds on a scale that never goes back."""


class Session(Protocol):
    """A compiled graph. `run` may be called from several threads at once."""

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return every output by name.

        Raises:
            InferenceError: the provider failed on these inputs.
        """

    @property
    def provider(self) -> str:
        """Key of edgeslm/providers/ that took the graph."""

    @property
    def node_share(self) -> float:
        """Share of the graph's nodes on that provider, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Request:
    """One text to answer."""

    text: str
    source: str = ""
    time: float | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a task says of one text; None where the task has no such field.

    Attributes are those of `contract.messages.Result`. All floats are finite.
    """

    label: str
    confidence: float
    score: float
    accepted: bool | None = None
    p_value: float | None = None
    channels: Mapping[str, float] = field(default_factory=dict)
    source_known: bool | None = None
    truncated: bool = False
    explanation: Sequence[Cause] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as its task sees it, before the model runs.

    Args:
        request: what was asked.
        model_text: what the model reads, and the key under which its output is kept;
            None where the answer does not depend on the model.
        context: whatever `Task.finish` needs besides the model's output.
    """

    request: Request
    model_text: str | None
    context: object = None


class Task(Protocol):
    """Text <-> tensors <-> answer, for one bundle. Stateless between requests, thread-safe."""

    def prepare(self, request: Request) -> Prepared:
        """Read the text; pure, total for any string."""

    def finish(
        self, prepared: Prepared, outputs: Mapping[str, Tensor] | None, *, truncated: bool
    ) -> Answer:
        """Turn the model's outputs for one text (row 0 of each, batch axis dropped) into an answer.

        Args:
            prepared: from `prepare`.
            outputs: name -> array without the batch axis; None if `model_text` was None.
            truncated: the model saw only the first `max_tokens` tokens.
        """


class TaskFactory(Protocol):
    """The `load` that each module of edgeslm/tasks/ exports."""

    def __call__(self, parameters: bytes) -> Task:
        """Return the task of a bundle from the bytes of its `parameters` artifact.

        Raises:
            InvalidFileError: the bytes are not parameters of this task.
        """


@dataclass(frozen=True, slots=True)
class Received:
    """One MQTT message as it came in.

    `mid`, `dup`, `qos` are the broker's; `epoch` counts this client's connections, and an
    acknowledgement of an older one is dropped unless the broker kept the session.
    """

    topic: str
    payload: bytes
    mid: int
    qos: int
    dup: bool
    retain: bool
    epoch: int
    received_at: float  # monotonic seconds
    properties: Mapping[str, object] = field(default_factory=dict)


class Inbox(Protocol):
    """Where a transport puts what comes in; called on the transport's thread, never blocks."""

    def __call__(self, message: Received) -> None: ...


class Outbox(Protocol):
    """A bounded, durable, ordered queue of (topic, payload)."""

    def append(self, rows: Sequence[tuple[str, bytes, Mapping[str, object]]]) -> list[int]:
        """Commit all rows or none; return their ids, ascending.

        Raises:
            OutboxFullError: a bound would be passed; nothing was written.
            OutboxUnavailableError: the disk refused; nothing was written.
        """

    def peek(self, limit: int, *, after: int) -> list[tuple[int, str, bytes, Mapping[str, object]]]:
        """Oldest rows with an id above `after`, at most `limit`."""

    def remove(self, ids: Sequence[int]) -> None:
        """Forget rows that the broker has acknowledged; unknown ids are ignored."""

    def __len__(self) -> int: ...


Wake = Callable[[], None]
