"""`slots.json`: which bundle each model of a device runs, and what is being changed.

The updater writes it, durably and whole; the agent reads it when it starts. `active` is what was
committed: a bundle on trial becomes active only when its trial is over, so that a device that comes
up in between comes up with the old one.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from edgeslm.contract.base import Name, Sha256, Typed
from edgeslm.contract.fleet import DeviceConfig, Version
from edgeslm.contract.messages import ErrorInfo, Phase

SLOTS_FILE: Final = "slots.json"
BUNDLES: Final = "bundles"
"""Folder beside it: bundles/MODEL/SLOT."""
SlotName = Literal["a", "b"]
MAX_BAD: Final = 32


class Slot(Typed):
    """One of a model's two places.

    `bundle` and `version` say what is there or is being put there; `whole` that every byte of it
    was written, held against its hash and flushed.
    """

    bundle: Sha256
    version: Version
    whole: bool = False


class Operation(Typed):
    """A change under way: of a model, or of the configuration where `model` is None."""

    model: Name | None
    seq: Annotated[int, Field(ge=0, description="Of the assignment; 0: from a stick without one.")]
    phase: Phase
    slot: SlotName | None = Field(None, description="That is filled, or on trial.")
    version: Version | None = None
    bundle: Sha256 | None = Field(None, description="Its hash; or that of a configuration.")
    config: DeviceConfig | None = Field(None, description="Where it is one that is changed.")
    blocks: Sha256 | None = Field(None, description="Of the block list.")
    attempts: Annotated[int, Field(ge=0)] = Field(0, description="Trials begun.")
    since: Annotated[float, Field(ge=0, description="Seconds since 1970, when it began.")] = 0.0
    boot: str = Field("", description="Boot in which its trial began.")
    agent: str = Field("", description="Instance of the agent that tries it.")


class Bad(Typed):
    """A bundle, or a configuration, that failed here: it is not tried again."""

    hash: Sha256
    version: Version | None = None
    error: ErrorInfo


class ModelSlots(Typed):
    """One model."""

    active: SlotName | None = Field(None, description="None: nothing was committed yet.")
    a: Slot | None = None
    b: Slot | None = None
    bad: Annotated[tuple[Bad, ...], Field(max_length=MAX_BAD)] = ()

    @model_validator(mode="after")
    def _active_is_whole(self) -> Self:
        if self.active is not None:
            slot = self.a if self.active == "a" else self.b
            if slot is None or not slot.whole:
                msg = "active: nothing whole is in that slot"
                raise ValueError(msg)
        return self


class SlotTable(Typed):
    """All of it."""

    schema_version: Literal[1] = 1
    models: dict[Name, ModelSlots] = Field(default={}, description="By name.")
    config: DeviceConfig | None = Field(None, description="Committed.")
    config_seq: Annotated[int, Field(ge=0)] = 0
    bad_config: Annotated[tuple[Bad, ...], Field(max_length=MAX_BAD)] = ()
    operation: Operation | None = None
