"""What a fleet manager asks of a roll-out: which devices, in which waves, when it stops itself."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from edgeslm.contract.base import Name, Typed, spelled
from edgeslm.contract.fleet import Version
from edgeslm.contract.settings import Hours

MAX_WAVES: Final = 32
MAX_FILTER_CHARS: Final = 2000
_ALL: Final = 100  # percent

Share = Annotated[
    str,
    spelled(
        r"^(100(\.0{1,3})?|[0-9]{1,2}(\.[0-9]{1,3})?)%$",
        "not a share, such as 5%",
        description="Of devices.",
    ),
]
Amount = Annotated[
    str,
    spelled(
        r"^([1-9][0-9]{0,6}|(100(\.0{1,3})?|[0-9]{1,2}(\.[0-9]{1,3})?)%)$",
        "not a number of devices or a share of them, such as 20 or 1%",
        description="Devices: so many, or such a share; all waves up to this one together.",
    ),
]
Seconds = Annotated[float, Field(ge=0, le=90 * 86_400)]


class Limits(Typed):
    """Beyond which a roll-out stops itself. Shares are of the devices moved so far."""

    failed: Share = Field(
        "5%",
        description="Devices that refused it, went back, did not end, or run it badly, at most.",
    )
    silent: Share = Field("20%", description="Devices of which nothing is heard, at most.")
    error_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="Of answers that are errors: so much more than the model before had."
    )
    latency_ratio: Annotated[float, Field(ge=1, le=1000)] | None = Field(
        2.0, description="Of median p99 latencies, new against before."
    )
    alarm_ratio: Annotated[float, Field(ge=1, le=1000)] | None = Field(
        1.5, description="Of alarms per answer, new against before."
    )
    answers: Annotated[int, Field(ge=1, le=2**53)] = Field(
        100, description="Answers before and after from which shares and ratios are judged."
    )


class Plan(Typed):
    """A roll-out as it is asked for."""

    model: Name
    version: Version = Field(description="That the devices are to run; an older one will do.")
    where: Annotated[str, Field(max_length=MAX_FILTER_CHARS)] = Field(
        "", description="Filter of devices (docs/rollouts.md); empty: all that are registered."
    )
    targets: Literal["frozen", "live"] = Field(
        "frozen", description="live: devices that match later join while it goes on."
    )
    waves: Annotated[tuple[Amount, ...], Field(min_length=1, max_length=MAX_WAVES)] = Field(
        ("1%", "10%", "100%"),
        description="Devices that have been moved when each is over: so many, or such a share.",
    )
    canaries_per_type: Annotated[int, Field(ge=0, le=1000)] = Field(
        1,
        description="Of each device type, in the first wave, at least; the rest of it is moved "
        "when one has succeeded. A type is a profile.",
    )
    soak_s: Seconds = Field(
        3600.0, description="From the last decision in a wave to the next wave."
    )
    deadline_s: Annotated[float, Field(ge=1, le=90 * 86_400)] = Field(
        86_400.0,
        description="From a device's assignment: not heard of by then, it is silent; heard of and "
        "not done, it has failed.",
    )
    quiet_s: Annotated[float, Field(ge=1, le=90 * 86_400)] = Field(
        2700.0,
        description="A device that has succeeded and is not heard of for so long is silent; at "
        "least three times the devices' `state_interval_s`.",
    )
    limits: Limits = Limits()
    on_breach: Literal["abort", "pause"] = Field(
        "abort", description="abort: those already moved are taken back."
    )
    hours: Annotated[tuple[Hours, ...], Field(max_length=8)] = Field(
        (), description="When devices may be moved, UTC; empty: always."
    )
    late: Literal["catch_up", "write_off"] = Field(
        "catch_up",
        description="What has not succeeded by the end keeps its new assignment, or is given back "
        "its old one.",
    )

    @model_validator(mode="after")
    def _growing(self) -> Self:
        for shares in (True, False):
            sizes = [_size(wave) for wave in self.waves if wave.endswith("%") == shares]
            if any(b <= a for a, b in itertools.pairwise(sizes)):
                msg = "waves: each must reach further than the one before"
                raise ValueError(msg)
        if _size(self.waves[0]) == 0:
            msg = "waves: one of no devices proves nothing"
            raise ValueError(msg)
        if not self.waves[-1].endswith("%") or _size(self.waves[-1]) < _ALL:
            msg = "waves: the last must be 100%"
            raise ValueError(msg)
        return self

    def reach(self, wave: int, total: int) -> int:
        """Return how many of `total` devices the waves up to this one hold, at least 1.

        Args:
            wave: from 0.
            total: devices in all; a share of them is rounded down.
        """
        amount = self.waves[wave]
        if not amount.endswith("%"):
            return min(int(amount), total)
        return max(1, math.floor(share(amount) * total))


def share(text: str) -> Fraction:
    """Return a `Share` as a number from 0 to 1, exactly: 29% of 100 devices are 29."""
    return _size(text) / _ALL


def _size(amount: str) -> Fraction:
    return Fraction(amount.removesuffix("%"))
