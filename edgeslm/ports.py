"""What edgeslm needs from outside, as Protocols. Fakes and real things pass tests/contract/."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeslm.contract.manifest import Artifact, Stage
from edgeslm.contract.messages import Cause, ClockTrust
from edgeslm.core.learning import Progress, School
from edgeslm.core.overlay import Kind, Lesson, Overlay
from edgeslm.errors import RejectedError, UnavailableError

if TYPE_CHECKING:  # the agent's start, or the exporter, does without them
    from edgeslm.contract.fleet import Assignment, BlockList, BundleOffer, Command, Keys
    from edgeslm.contract.slots import SlotName, SlotTable
    from edgeslm.core.backlog import Stored, Thinned

Tensor = NDArray[np.generic]
P = TypeVar("P", bound="Publication")
P_contra = TypeVar("P_contra", bound="Publication", contravariant=True)


class Clock(Protocol):
    """Where time comes from."""

    def wall(self) -> float:
        """Seconds since 1970, UTC; may jump."""

    def monotonic(self) -> float:
        """Seconds on a scale that never goes back."""


class DeviceClock(Clock, Protocol):
    """A clock that knows how far its wall time can be believed. Any thread may read it."""

    @property
    def boot(self) -> str:
        """Names the boot since which `monotonic` counts."""

    @property
    def trust(self) -> ClockTrust | None:
        """Whether wall time can be believed, as of the last look; None: not known."""

    def look(self) -> float | None:
        """See how the clock is now; return by how many seconds it was set since the last look.

        None where it was not. One thread's.
        """


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


class Request(NamedTuple):
    """One text to answer.

    Args:
        text: what it says.
        source: who says it; "" is nobody.
        time: of the text, seconds since 1970.
        key: the session or order that it is of.
        id: its publisher's own; the same again is the same text again.
        delivery: our number for what a broker delivers, the same when it delivers it again.
        last: it ends its session, as its publisher says.
    """

    text: str
    source: str = ""
    time: float | None = None
    key: str | None = None
    id: str | None = None
    delivery: int | None = None
    last: bool = False


class Answer(NamedTuple):
    """What a task says of one text; None where the task has no such field.

    Attributes are those of `contract.messages.Result`. All floats are finite.
    """

    label: str
    confidence: float
    score: float
    accepted: bool | None = None
    p_value: float | None = None
    channels: Mapping[str, float] = MappingProxyType({})
    source_known: bool | None = None
    truncated: bool = False
    explanation: Sequence[Cause] = ()
    lesson: int | None = None
    learning: Progress | None = None
    new: bool = False  # of a template that nobody has used or spoken of
    stage: Stage | None = None
    template: str | None = None  # of which the text is one; stays on the device


class Prepared(NamedTuple):
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


class Memory(Protocol):
    """What a task knows of the texts it was asked before; one stream's, and one thread's at a time.

    It depends on what was asked and in which order, and on what it was taught: no clock, no model.
    """

    @property
    def ordered(self) -> bool:
        """Whether answers depend on what was asked before: else any thread may use it."""

    @property
    def overlay(self) -> Overlay:
        """What operators have confirmed; one other thread may teach it while it is used."""

    @property
    def school(self) -> School | None:
        """What sources learn that were not in training; None: nothing."""

    def refuses(self, kind: Kind, label: str) -> str | None:
        """Say why a lesson of this kind, and label, is of no use to it; None where it is."""

    def may_silence(self, kind: Kind) -> bool:
        """Whether a lesson of this kind may end an alarm: then it takes an operator's token."""

    def understood(self, lesson: Lesson) -> Lesson:
        """Return a lesson as it is to be kept: what it covers is settled by the bundle in force.

        A thread that teaches may ask.
        """

    def counts(self) -> dict[str, int]:
        """How often what happened, by name, since it began; any thread may ask."""


class Task(Protocol):
    """Text <-> tensors <-> answer, for one bundle. Immutable: any thread may use it."""

    def memory(self) -> Memory | None:
        """Return a memory of nothing yet; None: no answer depends on what was asked before."""

    def prepare(self, request: Request) -> Prepared:
        """Read the text; pure, total for any string."""

    def finish(
        self,
        prepared: Prepared,
        outputs: Mapping[str, Tensor] | None,
        *,
        truncated: bool,
        memory: Memory | None = None,
    ) -> Answer:
        """Turn the model's outputs for one text (row 0 of each, batch axis dropped) into an answer.

        Args:
            prepared: from `prepare`.
            outputs: name -> array without the batch axis; None if `model_text` was None.
            truncated: the model saw only the first `max_tokens` tokens.
            memory: of what came before, from `memory` of this task; this text joins it. None:
                nothing came before, and nothing is to be remembered.
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
    """What a transport sends.

    At QoS 1 it is confirmed when the broker has acknowledged it. At QoS 0 when it has been written
    to the connection: it may be lost there, and by a broker that has no room for it. One that is an
    alert goes before all that wait and are none.
    """

    @property
    def topic(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def properties(self) -> Mapping[str, object]: ...
    @property
    def retain(self) -> bool: ...
    @property
    def qos(self) -> int: ...
    @property
    def alert(self) -> bool: ...


@dataclass(frozen=True, slots=True, eq=False)
class Letter:
    """A publication that is nothing else; `eq=False`, so that it is its own key."""

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = 1
    properties: Mapping[str, object] = field(default_factory=dict)
    alert: bool = False


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
    """These publications, the very objects given to `publish`, are with the broker.

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

    def silent_s(self) -> float:
        """For how many seconds its thread has not come round; 0 where it has none, or has ended."""


Report = Up | Down | Arrived | Confirmed[Any] | Subscribed
Sink = Callable[[Report], None]


class OutboxFullError(UnavailableError):
    """A bound of the outbox would be passed; nothing was written.

    `rows` and `size` say how much of it is too much, where it is: rows, and bytes.
    """

    code = "outbox.full"

    def __init__(self, message: str, *, rows: int, size: int) -> None:
        super().__init__(message)
        self.rows = rows
        self.size = size


class OutboxUnavailableError(UnavailableError):
    """The disk refused; nothing was written."""

    code = "outbox.unavailable"


class OutboxDamagedError(OutboxUnavailableError):
    """What is on disk can no longer be read; see `Outbox.set_away`."""


OutboxRow = tuple[int, str, bytes, Mapping[str, object]]


class Rows(NamedTuple):
    """How many rows each lane of an outbox has."""

    alerts: int
    telemetry: int


class Outbox(Protocol):
    """Two durable, ordered queues of (topic, payload), alerts and telemetry, with one bound.

    Ids are a lane's own. A commit of alerts outlives a power cut; one of telemetry outlives a
    killed process, and a power cut may take the last few.
    """

    @property
    def rows(self) -> Rows:
        """What is held."""

    @property
    def share(self) -> float:
        """Which share of its bounds is held: 1 is full."""

    @property
    def given_up(self) -> Mapping[str, int]:
        """How many results were given up, by reason; kept as what is held is."""

    def open(self) -> Rows:
        """Make ready, where that has not been done; return which rows were found by it.

        Raises:
            OutboxUnavailableError: the disk refused; try again later.
        """

    def append(
        self, rows: Sequence[tuple[str, bytes, Mapping[str, object]]], *, alert: bool
    ) -> list[int]:
        """Commit all rows or none; return their ids, ascending.

        Raises:
            OutboxFullError: a bound would be passed; nothing was written.
            OutboxUnavailableError: the disk refused; nothing was written.
        """

    def peek(self, limit: int, *, after: int, alert: bool) -> list[OutboxRow]:
        """Oldest rows with an id above `after`, at most `limit`.

        Raises:
            OutboxUnavailableError: the disk cannot be read.
        """

    def newest(self, limit: int, *, alert: bool) -> list[bytes]:
        """Payloads of the newest rows, at most `limit`, in no order.

        Raises:
            OutboxUnavailableError: the disk cannot be read.
        """

    def set_away(self) -> Path:
        """Keep what is held under another name, which is returned, and hold nothing until `open`.

        Raises:
            OutboxUnavailableError: the disk refused.
        """

    def remove(self, ids: Sequence[int], *, alert: bool) -> None:
        """Forget rows that the broker has acknowledged; unknown ids are ignored.

        Raises:
            OutboxUnavailableError: the disk refused; none was removed.
        """

    def oldest(self, limit: int, *, after: int, alert: bool = False) -> list[Stored]:
        """What is known of the oldest rows with an id above `after`, of telemetry or of alerts.

        Raises:
            OutboxUnavailableError: the disk cannot be read.
        """

    def give_up(self, ids: Sequence[int], *, reason: str, results: int) -> None:
        """Forget rows of telemetry that nobody gets, and count their results, both or neither.

        Raises:
            OutboxUnavailableError: the disk refused; nothing was changed.
        """

    def thin(self, thinned: Thinned, *, reason: str) -> None:
        """Overwrite and forget rows of telemetry, and count what is summed up, all or none.

        Raises:
            OutboxUnavailableError: the disk refused; nothing was changed.
        """

    def limit(self, *, max_rows: int, max_bytes: int) -> None:
        """Hold no more than this from now on; what is held already stays."""

    def __len__(self) -> int: ...


class NotThereError(UnavailableError):
    """The repository has no such file; of root metadata that means: the newest is known."""

    code = "trust.not_there"


Fetch = Callable[[str, int], bytes]
"""Returns a metadata file by its name, such as 7.snapshot.json, and at most so many bytes of it.

Raises NotThereError where there is none, another UnavailableError where it cannot be had now.
"""


@dataclass(frozen=True, slots=True)
class Offer:
    """A bundle that the repository has, as signed.

    Args:
        bundle: what it is, and what it needs.
        sha256: of its block list.
        length: of its block list, bytes.
    """

    bundle: BundleOffer
    sha256: str
    length: int


class TrustedMetadata(Protocol):
    """What is genuine, by the fleet's signatures and by what was trusted before. One thread's."""

    def walk_roots(self) -> Keys:
        """Follow the chain of roots to its end, which needs no clock; return who may sign times.

        Raises:
            EdgeSLMError: see `edgeslm/core/trust.py`.
        """

    def time_of(self, envelope: bytes, *, device: str, nonce: str) -> float:
        """Return the time in a signed `TimeReply` to this device and nonce; it becomes a floor.

        Raises:
            ClockUntrustedError: it is not that, or before a time signed earlier.
        """

    @property
    def time_floor(self) -> float:
        """Seconds since 1970 before which it cannot be; 0 where no time was seen signed."""

    def refresh(self, now: float) -> None:
        """Bring the repository's metadata up to date, at a time that is trusted.

        Raises:
            EdgeSLMError: see `edgeslm/core/trust.py`; nothing is offered then until it succeeds.
        """

    def offers(self, model: str) -> list[Offer]:
        """Return the bundles of a model, as of the last `refresh`; none where it is not known.

        Raises:
            EdgeSLMError: see `edgeslm/core/trust.py`.
        """

    def blocks(self, offer: Offer, raw: bytes) -> BlockList:
        """Return the block list of an offer from bytes that came from anywhere.

        Raises:
            TrustMismatchError, TrustMalformedError: it is not that.
        """

    def assignment(self, envelope: bytes, *, device: str, now: float) -> Assignment:
        """Return what a signed envelope assigns to this device; the floor stays where it is.

        Raises:
            EdgeSLMError: codes `assignment.*`.
        """

    def accept(self, assignment: Assignment) -> None:
        """Keep the assignment that was verified last, and trust no older one from now on."""

    @property
    def accepted(self) -> int:
        """Number of the assignment that was accepted last; 0: none was."""

    def command(self, envelope: bytes) -> Command:
        """Return a signed command; whom it is for, and whether it is fresh, is not looked at.

        Raises:
            CommandMalformedError: it is none, or no director has signed it.
        """

    @property
    def kept(self) -> bytes | None:
        """Envelope of the assignment accepted last, to be verified again; None: none was."""


class DiskFullError(UnavailableError):
    """There is no room on the disk for what an update needs; what serves is left alone."""

    code = "disk.full"


class UpdaterRunningError(UnavailableError):
    """Another updater, or `edgeslm update`, holds this directory."""

    code = "updater.running"


class SlotsUnavailableError(UnavailableError):
    """The updater's directory cannot be read or written."""

    code = "slots.unavailable"


class SlotStore(Protocol):
    """A device's bundles and the table of them. One process's, and one thread's."""

    def read(self) -> SlotTable:
        """Return the table as it was written last.

        Raises:
            SlotsUnavailableError: the disk refused.
        """

    def write(self, table: SlotTable) -> None:
        """Replace the table, durably; where that fails, `read` says which of the two there is.

        Raises:
            DiskFullError, SlotsUnavailableError: the disk refused.
        """

    def folder(self, model: str, slot: SlotName) -> Path:
        """Return where a slot's bundle lies, or would: there may be nothing."""

    def empty(self, model: str, slot: SlotName) -> Path:
        """Remove all that is in a slot; return its folder, which is there and empty.

        Raises:
            IllegalStepError: it is active, or whole by the table.
            DiskFullError, SlotsUnavailableError: the disk refused.
        """


class DamagedBlobError(RejectedError):
    """All its bytes are here, and they are not those that were promised; what is wrong goes."""

    code = "fetch.damaged"


class Download(Protocol):
    """One blob on its way to disk, block by block, in any order; it outlives a killed process.

    Owned by one thread. All methods raise `DiskFullError` or `SlotsUnavailableError` where the
    disk refuses; what was kept before is then still there.
    """

    @property
    def missing(self) -> int:
        """Blocks that are not here."""

    def here(self) -> list[int]:
        """Blocks that are, ascending."""

    def put(self, block: int, data: bytes | memoryview) -> bool:
        """Keep a block; return False where the bytes are not those of the block."""

    def flush(self) -> None:
        """Have the disk keep what was put so far."""

    def finish(self) -> Path:
        """Return the file, whole and flushed, its hash checked.

        Raises:
            DamagedBlobError: it is not what was promised; what is wrong of it counts as missing.
        """

    def close(self) -> None:
        """Let go of the files; what was flushed stays."""


class BlockStore(Protocol):
    """A folder of blobs under way."""

    def begin(self, blob: str, size: int, blocks: Sequence[str]) -> Download:
        """Make room for a blob, or go on with it.

        Args:
            blob: SHA-256 of all of it.
            size: its bytes.
            blocks: SHA-256 of each block; empty where it has one block, or they are not known.

        Raises:
            DiskFullError: no room; nothing is left behind.
            SlotsUnavailableError: the disk refused.
        """

    def held(self, blob: str) -> int:
        """Bytes of disk that a blob takes already."""

    def move(self, blob: str, to: Path) -> None:
        """Put a finished blob in its place, durably; the folder of `to` is there.

        Raises:
            DiskFullError, SlotsUnavailableError: the disk refused.
        """

    def sweep(self, keep: Collection[str] = ()) -> None:
        """Remove all but these blobs.

        Raises:
            SlotsUnavailableError: the disk refused.
        """
