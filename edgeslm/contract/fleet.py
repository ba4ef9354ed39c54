"""What a fleet manager's side and a device say to each other: assignments, blocks, times, deltas.

Nothing here is trusted for being well-formed. An assignment and a time are signed; block lists are
targets of a TUF repository; requests, indexes and delta offers are hints, and what they lead to is
held against signed hashes.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgeslm.contract.base import Name, RelativePath, Sha256, Typed, spelled
from edgeslm.contract.learning import FeedbackSettings
from edgeslm.contract.manifest import Requirements
from edgeslm.contract.messages import ErrorInfo, SchemaVersion
from edgeslm.contract.routes import Route
from edgeslm.contract.settings import OutboxSettings

BLOCK_BYTES: Final = 128 * 1024
"""Of a block; the last of a blob is shorter. AWS IoT's streams take as much at most."""
MAX_BLOB_BYTES: Final = 4 * 2**30
MAX_BLOCKS: Final = MAX_BLOB_BYTES // BLOCK_BYTES
MAX_RANGES: Final = 64
MAX_SIGNED_BYTES: Final = 256 * 1024
MAX_REQUEST_BYTES: Final = 16 * 1024
ASSIGNMENT: Final = "application/vnd.edgeslm.assignment+json"
"""DSSE payload type of `Assignment`; that of another kind of message does not verify as one."""
TIME: Final = "application/vnd.edgeslm.time+json"
"""DSSE payload type of `TimeReply`."""
COMMAND: Final = "application/vnd.edgeslm.command+json"
"""DSSE payload type of `Command`."""
MAX_COMMAND_BYTES: Final = 16 * 1024
MAX_COMMAND_LIFE_S: Final = 600.0
MAX_OUTPUT_BYTES: Final = 64 * 1024
MAX_REPLY_BYTES: Final = MAX_OUTPUT_BYTES + 4096
DIRECTOR: Final = "director.json"
"""Target of the repository's own role whose `custom` is a `Keys`: who may sign assignments."""
TIME_KEYS: Final = "x-edgeslm-time"
"""Field of root metadata that is a `Keys`: who may say what time it is. In root, whose chain is
verified without a clock, since everything else needs one."""

DeviceId = Annotated[
    str,
    spelled(
        r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        "not an id: letters, digits, '.', '_', '-', up to 64, the first a letter or digit",
    ),
]
Seconds = Annotated[float, Field(ge=0, le=32_503_680_000, description="Since 1970, UTC.")]
Version = Annotated[int, Field(ge=1, le=2**53)]
Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Diagnosis = Literal["doctor", "bench"]
"""Programs that a fleet's manager may have a device run; there are no others."""


class Open(BaseModel):
    """Part of what travels: fields that this build does not know are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Wire(Open):
    """A message: within a major version, fields are added and never changed."""

    schema_: SchemaVersion = Field(1, alias="schema")


class Keys(Typed):
    """Public keys, and how many of them must sign."""

    keys: dict[str, dict[str, Any]] = Field(description="As in TUF metadata, by key id.")
    threshold: Annotated[int, Field(ge=1, le=16)] = 1


class AssignedModel(Open):
    """Which version of a model a device runs."""

    version: Version


class ModelLimits(Typed):
    """What of [models.NAME] an assignment may set."""

    workers: Annotated[int, Field(ge=1, le=64)] | None = None
    cache_entries: Annotated[int, Field(ge=0, le=1_000_000)] | None = None


class DeviceConfig(Typed):
    """What an assignment may set of a device's settings; what is absent stays as it is."""

    routes: dict[Name, Route] | None = Field(
        None, description="All routes of the device, in place of those of its file."
    )
    models: dict[Name, ModelLimits] = Field(default={}, description="By name.")
    outbox: OutboxSettings | None = None
    feedback: FeedbackSettings | None = Field(
        None, description="In place of the file's: so keys of tokens change, and tokens end."
    )
    state_interval_s: Annotated[float, Field(ge=1, le=86_400)] | None = None


class Assignment(Wire):
    """What one device is to run. Signed by a director's key, retained."""

    device: DeviceId
    seq: Annotated[int, Field(ge=1, le=2**53, description="Only ever grows.")]
    issued: Seconds
    expires: Annotated[float, Field(ge=0, description="No install begins after it.")]
    models: Annotated[dict[Name, AssignedModel], Field(max_length=64)] = {}
    config: DeviceConfig | None = None


class TimeReply(Wire):
    """What time it is, to whoever asked with this nonce. Signed by a time key."""

    device: DeviceId
    nonce: Nonce
    time: Seconds


class Command(Wire):
    """Have one device look at itself. Signed by a director's key, not retained, heeded once."""

    device: DeviceId
    nonce: Nonce
    issued: Seconds
    expires: Seconds
    do: Diagnosis
    model: Name | None = Field(None, description="To measure; where there is one, that one.")
    reply: Annotated[
        str, Field(max_length=512, description="Topic of the answer: ROOT/DEVICE/fleet/reply/NAME.")
    ]


class CommandReply(Wire):
    """What came of a `Command`, which was verified: to any other there is no answer."""

    device: DeviceId
    nonce: Nonce
    do: Diagnosis
    status: int | None = Field(None, description="Exit status of the program; None: it has none.")
    error: ErrorInfo | None = Field(None, description="Why there is none.")
    output: Annotated[str, Field(max_length=MAX_OUTPUT_BYTES)] = ""
    cut: bool = Field(False, description="There was more output than travels.")  # noqa: FBT003
    took_s: Annotated[float, Field(ge=0)] = 0.0


class Index(Wire):
    """Which metadata there are. Unsigned: who hides a version here could as well not send it."""

    root: Version = Field(description="Newest version of root.")
    files: Annotated[tuple[str, ...], Field(max_length=4096)] = Field(
        (), description="Names of all metadata retained, such as 7.snapshot.json."
    )


class OfferedVariant(Typed):
    """One compiled form in a bundle, by what a device needs for it."""

    name: Name | None = None
    provider: Name | None = None
    requires: Requirements = Requirements()


class BundleOffer(Typed):
    """`custom` of a block list's target: enough for a device to choose by."""

    model: Name
    version: Version
    bundle: Sha256 = Field(description="Hash of manifest.json.")
    task: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    profiles: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    variants: Annotated[tuple[OfferedVariant, ...], Field(min_length=1, max_length=64)]
    size: Annotated[int, Field(ge=1, le=MAX_BLOB_BYTES, description="Bytes of all its files.")]


class BlobFile(Typed):
    """One file of a bundle."""

    path: RelativePath
    size: Annotated[int, Field(ge=0, le=MAX_BLOB_BYTES)]
    sha256: Sha256
    blocks: Annotated[tuple[Sha256, ...], Field(max_length=MAX_BLOCKS)] = Field(
        (), description="Of each block in order; none where one block is all of it."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        count = -(-self.size // BLOCK_BYTES)
        if len(self.blocks) != (count if count > 1 else 0):
            msg = f"blocks: {len(self.blocks)} hashes, {count} blocks"
            raise ValueError(msg)
        return self


class BlockList(Typed):
    """A target: the files of a bundle, block by block."""

    schema_version: Literal[1] = 1
    bundle: Sha256
    block_bytes: Literal[131072] = BLOCK_BYTES
    files: Annotated[tuple[BlobFile, ...], Field(min_length=1, max_length=257)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        paths = [file.path for file in self.files]
        if len(set(paths)) != len(paths):
            msg = "files: two have the same path"
            raise ValueError(msg)
        parents = {p.rsplit("/", n)[0] for p in paths for n in range(1, p.count("/") + 1)}
        if clash := sorted(parents & set(paths)):
            msg = f"files: {clash[0]} is a file and a folder"
            raise ValueError(msg)
        [*manifest] = [file for file in self.files if file.path == "manifest.json"]
        if len(manifest) != 1 or manifest[0].sha256 != self.bundle:
            msg = "files: manifest.json is not the one that `bundle` names"
            raise ValueError(msg)
        return self


Range = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


class Want(Wire):
    """A device asks for blocks of a blob: on the blob's want topic, answered on its data topic."""

    device: DeviceId
    ranges: Annotated[tuple[Range, ...], Field(min_length=1, max_length=MAX_RANGES)] = Field(
        description="First and last block, both included."
    )
    again: bool = Field(False, description="They were asked for before and did not come.")  # noqa: FBT003


class DeltaAsked(Open):
    """For a way from a file that a device has to one that it wants."""

    want: Sha256
    have: Annotated[tuple[Sha256, ...], Field(min_length=1, max_length=8)]


class Ask(Wire):
    """A device asks for something that is for it alone; the answer comes on its own topic."""

    device: DeviceId
    nonce: Nonce
    time: bool = Field(False, description="For a `TimeReply`.")  # noqa: FBT003
    delta: DeltaAsked | None = None


Algorithm = Literal["bytes-zstd", "bsdiff"]
"""`bytes-zstd`: the bytewise difference of equally long files, compressed; `bsdiff`: any two."""


class DeltaOffer(Wire):
    """Answer to `DeltaAsked`: a hint, since what counts is the hash of the outcome."""

    nonce: Nonce
    want: Sha256
    have: Sha256 | None = Field(None, description="None: there is no delta.")
    algorithm: Algorithm | None = None
    blob: Sha256 | None = None
    size: Annotated[int, Field(ge=0, le=MAX_BLOB_BYTES)] = 0


class Missing(Wire):
    """A server has no such blob."""

    blob: Sha256
