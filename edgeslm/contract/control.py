"""What the programs of one device say to each other over Unix sockets, a JSON line each.

The agent listens and owns what runs; the updater connects and decides. Either may be killed at any
line: what counts is `slots.json`, and what a message asks for may be asked for twice. Commands on
the device ask the updater in the same way.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from edgeslm.contract.base import Name, Sha256, Typed
from edgeslm.contract.fleet import DeviceConfig
from edgeslm.contract.messages import ErrorInfo, UpdateState
from edgeslm.contract.slots import SlotName
from edgeslm.errors import EXIT_REJECTED

MAX_LINE_BYTES: Final = 256 * 1024
PROTOCOL: Final = 1


class _Line(Typed):
    # Either side may be a version ahead while a device is upgraded.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Try(_Line):
    """Load the bundle in a slot, and have it serve if its golden file passes.

    Beside the one that serves; or in its place, by the device's profile (`trial.side_by_side`).
    """

    do: Literal["try"] = "try"
    model: Name
    slot: SlotName
    bundle: Sha256


class Recheck(_Line):
    """Replay the golden file of what serves a model now, on its provider."""

    do: Literal["recheck"] = "recheck"
    model: Name


class Commit(_Line):
    """What is on trial is the model from now on."""

    do: Literal["commit"] = "commit"
    model: Name | None = Field(description="None: the configuration.")


class Revert(_Line):
    """Go back to what served before the trial; nothing if nothing is on trial.

    Where it was let go for the trial, it is done when that has been loaded again.
    """

    do: Literal["revert"] = "revert"
    model: Name | None = Field(description="None: the configuration.")


class Configure(_Line):
    """Live by this configuration, on trial."""

    do: Literal["configure"] = "configure"
    seq: int
    config: DeviceConfig | None = Field(description="None: that of the settings file.")


class Query(_Line):
    """Say how things are."""

    do: Literal["query"] = "query"


Order = Annotated[Try | Recheck | Commit | Revert | Configure | Query, Field(discriminator="do")]


class ServingModel(_Line):
    """One model as it serves; counts are since the agent began, quantiles of the last minute."""

    model: Name
    state: Literal["loading", "serving", "failed"]
    bundle: Sha256 | None = None
    version: int | None = None
    trial: bool = False
    answered: Annotated[int, Field(ge=0)] = 0
    errors: Annotated[int, Field(ge=0)] = 0
    p50_ms: Annotated[float, Field(ge=0)] | None = Field(None, description="Of an answer.")
    p99_ms: Annotated[float, Field(ge=0)] | None = None
    error: ErrorInfo | None = None


class Report(_Line):
    """How things are: sent at the beginning, and for `Query`."""

    say: Literal["report"] = "report"
    protocol: int = PROTOCOL
    instance: str = Field(description="Of the agent's process; another after each start.")
    models: tuple[ServingModel, ...] = ()
    config_seq: int = 0
    config_trial: bool = False


class Done(_Line):
    """An order was carried out."""

    say: Literal["done"] = "done"
    do: str
    model: Name | None = None
    took_ms: Annotated[float, Field(ge=0)] = 0.0


class Failed(_Line):
    """It was not; what served before serves."""

    say: Literal["failed"] = "failed"
    do: str
    model: Name | None = None
    error: ErrorInfo


class Leaving(_Line):
    """The agent was asked to stop: that is no crash."""

    say: Literal["leaving"] = "leaving"


News = Annotated[Report | Done | Failed | Leaving, Field(discriminator="say")]
ORDERS: Final[TypeAdapter[Order]] = TypeAdapter(Order)
NEWS: Final[TypeAdapter[News]] = TypeAdapter(News)


class Errand(_Line):
    """A command on the device asks its updater for something."""

    do: Literal["status", "take", "forget"]
    path: str | None = Field(None, description="Of the stick to take models from.")
    model: Name | None = Field(
        None, description="Of which to forget what failed here; None: of the configuration."
    )
    trust_clock: bool = Field(
        False,  # noqa: FBT003
        description="The operator says that the device's clock is right.",
    )


class Answer(_Line):
    """What the updater answers: for `take` again and again until it is over."""

    state: UpdateState | None = None
    over: bool = False
    errors: tuple[ErrorInfo, ...] = ()
    exit_status: int = Field(EXIT_REJECTED, description="Of the command, where there are errors.")
