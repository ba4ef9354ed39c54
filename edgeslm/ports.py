"""What edgeslm needs from outside, as Protocols. Fakes and real things pass tests/contract/."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeslm.contract.manifest import Artifact
from edgeslm.contract.messages import Cause
from edgeslm.errors import UnavailableError

Tensor = NDArray[np.generic]
P = TypeVar("P", bound="Publication")
P_contra = TypeVar("P_contra", bound="Publication", contravariant=True)


class Clock(Protocol):
    """Where time comes from."""

    def wall(self) -> float:
        """Seconds since 1970, UTC; may jump."""

    def monotonic(self) -> float:
        """Seconds on a scale that never goes back."""


class Piece(NamedTuple):
    """Part of a graph that one provider runs.

    `ep` is ONNX Runtime's name of the provider; `nodes` are (name, operator) pairs.
    """

    ep: str
    nodes: Sequence[tuple[str, str]]


class Session(Protocol):
    """A compiled graph. `run` may be called from several threads at once."""

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return every output by name.

        Raises:
            InferenceError: the provider failed on these inputs.
        """

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs, all of which `run` must be fed."""

    @property
    def provider(self) -> str:
        """Key of edgeslm/providers/ that took the graph."""

    @property
    def pieces(self) -> Sequence[Piece]:
        """Which provider took which nodes, as far as it tells."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a graph runs on one provider: made by edgeslm/providers/, obeyed by adapters/ort.py.

    Args:
        provider: key of edgeslm/providers/.
        ep: ONNX Runtime's name of it.
        ep_options: its own options.
        config: ONNX Runtime session configuration entries.
        threads: threads inside one inference; 1 where several callers share the session.
        optimize: let ONNX Runtime rewrite the graph; bundles hold graphs already rewritten.
        cpu_fallback: nodes that the provider does not take run on the CPU; else loading fails.
        plugin: (name, library) of a provider that ONNX Runtime loads from a file of its own.
        hardware: kind of device that a plug-in is to use: "CPU", "GPU", "NPU"; None: its first.
    """

    provider: str
    ep: str
    ep_options: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    optimize: bool = False
    cpu_fallback: bool = True
    plugin: tuple[str, str] | None = None
    hardware: str | None = None


class Provider(Protocol):
    """What each module of edgeslm/providers/ exports."""

    def problem(self) -> str | None:
        """Say why this provider cannot be used on this device; None where it can."""

    def options(self, graph: Artifact) -> SessionOptions:
        """How to open a session on it for this graph of a bundle."""

    def runtime(self) -> str:
        """Version of the runtime or SDK that an artifact's `requires.runtime` is held against."""


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


class Received(NamedTuple):
    """One MQTT message as it came in: a tuple, since thousands are made in a second.

    `mid`, `dup`, `qos` are the broker's; `epoch` counts this client's connections.
    `properties` holds the MQTT 5 properties that matter to us, under paho's names:
    MessageExpiryInterval (seconds), CorrelationData (bytes), UserProperty (list of pairs).
    """

    topic: str
    payload: bytes
    mid: int
    qos: int
    dup: bool
    retain: bool
    epoch: int
    received_at: float  # monotonic seconds
    properties: Mapping[str, object] = {}


class Publication(Protocol):
    """What a transport sends: always at QoS 1, so that it is confirmed."""

    @property
    def topic(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def properties(self) -> Mapping[str, object]: ...
    @property
    def retain(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Up:
    """A connection is up.

    Args:
        epoch: its number, from 1.
        session_present: the broker kept our session: what it sent before stays valid.
        max_packet_bytes: the largest packet that the broker takes (MQTT 5); None: it named none.
    """

    epoch: int
    session_present: bool
    max_packet_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Down:
    """A connection is gone, or an attempt failed.

    Args:
        epoch: its number; what was published on it and not confirmed may be lost.
        reason: for people; names no secret.
        refused: the broker said no (password, client id, protocol); it may do so for good.
    """

    epoch: int
    reason: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Arrived:
    """Messages, in order."""

    messages: Sequence[Received]


@dataclass(frozen=True, slots=True)
class Confirmed(Generic[P]):
    """The broker acknowledged these publications, the very objects given to `publish`.

    Args:
        publications: those it took, in order.
        refused: those it refuses for good (MQTT 5), with its reasons.
        deferred: those it does not take now (MQTT 5), with its reasons; it may later.
    """

    publications: Sequence[P]
    refused: Sequence[tuple[P, str]] = ()
    deferred: Sequence[tuple[P, str]] = ()


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The session's filters have changed.

    Args:
        held: those the broker now holds for the session.
        refused: those it refused.
    """

    held: frozenset[str]
    refused: frozenset[str] = frozenset()


class Transport(Protocol[P_contra]):
    """One MQTT session, kept up until it is stopped; reports by the sink given to it.

    The sink is called on the transport's own thread, in order, and never blocks. All methods may
    be called from one other thread; only `join` waits.
    """

    def start(self) -> None:
        """Begin to connect, and go on with it until `stop`."""

    def subscribe(self, filters: Iterable[str]) -> None:
        """Make these the filters of the session, at QoS 1."""

    def publish(self, publications: Sequence[P_contra], *, epoch: int) -> None:
        """Send these in order; each is confirmed, or lost with the connection (`Down`).

        They are dropped unless the connection `epoch` is up: their owner has put them back when
        it learns of that, and sends them again.
        """

    def settle(self, messages: Sequence[Received]) -> None:
        """Acknowledge these; of an older connection, only make room for others."""

    def pause(self) -> None:
        """Take no more messages, for good: the process is about to stop."""

    def stop(self, last: P_contra | None = None, *, forget: bool = False) -> None:
        """Begin to end: do what was asked for so far, send `last`, disconnect.

        With `forget` the broker is asked to drop the session with all it keeps for it.
        """

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; return whether it came. The sink is not called after it."""


Report = Up | Down | Arrived | Confirmed[Any] | Subscribed
Sink = Callable[[Report], None]


class OutboxFullError(UnavailableError):
    """A bound of the outbox would be passed; nothing was written."""

    code = "outbox.full"


class OutboxUnavailableError(UnavailableError):
    """The disk refused; nothing was written."""

    code = "outbox.unavailable"


OutboxRow = tuple[int, str, bytes, Mapping[str, object]]


class Outbox(Protocol):
    """A bounded, durable, ordered queue of (topic, payload)."""

    def open(self) -> int:
        """Make ready, where that has not been done; return how many rows were found by it.

        Raises:
            OutboxUnavailableError: the disk refused; try again later.
        """

    def append(self, rows: Sequence[tuple[str, bytes, Mapping[str, object]]]) -> list[int]:
        """Commit all rows or none; return their ids, ascending.

        Raises:
            OutboxFullError: a bound would be passed; nothing was written.
            OutboxUnavailableError: the disk refused; nothing was written.
        """

    def peek(self, limit: int, *, after: int) -> list[OutboxRow]:
        """Oldest rows with an id above `after`, at most `limit`.

        Raises:
            OutboxUnavailableError: the disk cannot be read.
        """

    def remove(self, ids: Sequence[int]) -> None:
        """Forget rows that the broker has acknowledged; unknown ids are ignored.

        Raises:
            OutboxUnavailableError: the disk refused; none was removed.
        """

    def __len__(self) -> int: ...
