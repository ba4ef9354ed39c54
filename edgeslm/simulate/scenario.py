"""Scenarios: which devices a simulated fleet has, how versions do on them, and what goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from edgeslm.contract.base import Name, Typed
from edgeslm.contract.fleet import Version
from edgeslm.contract.messages import MAX_TAGS
from edgeslm.contract.settings import Tag
from edgeslm.errors import ConfigError
from edgeslm.fleet.files import read_toml_file

MAX_DEVICES: Final = 20_000
_MAX_BYTES: Final = 65_536
_REMEDY: Final = "docs/simulator.md lists every key."

Fault = Literal["silent", "slow", "flapping", "dying", "lying", "clock_off", "disk_full", "old"]
FAULTS: Final[dict[Fault, str]] = {
    "silent": "says what it runs when it starts, and nothing ever after",
    "slow": "takes ten times as long to download",
    "flapping": "loses its connection again and again: `up_s`, then `down_s`",
    "dying": "goes down in the middle of a trial, `deaths` times",
    "lying": "says that it has committed a version, and goes on to answer with the old one",
    "clock_off": "has a clock that is `clock_off_s` ahead",
    "disk_full": "has no room for a new version",
    "old": "speaks an older contract, without profile, platform, tags, alarms and latencies",
}
_Share = Annotated[float, Field(ge=0, le=1)]
_Seconds = Annotated[float, Field(ge=0, le=86_400)]


class ScenarioError(ConfigError):
    """A scenario cannot be read, or is wrong; names each key."""

    code = "simulate.scenario"


class Behaviour(Typed):
    """How a version of the model does."""

    answers_per_minute: Annotated[float, Field(ge=0, le=1_000_000)] = 60.0
    errors: _Share = Field(0.0, description="Of answers.")
    alarms: _Share = Field(0.01, description="Of answers.")
    p50_ms: Annotated[float, Field(gt=0)] = 5.0
    p99_ms: Annotated[float, Field(gt=0)] = 20.0
    golden: bool = Field(
        True,  # noqa: FBT003
        description="It passes its golden file; false: devices refuse it.",
    )
    size_mb: Annotated[float, Field(gt=0, le=4096)] | None = Field(
        None, description="Told as it is downloaded; absent: what the repository says."
    )


class Group(Typed):
    """Devices of one kind. Either `count` or `share`; no group: what the others leave."""

    name: Name
    count: Annotated[int, Field(ge=1, le=MAX_DEVICES)] | None = None
    share: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="Of all devices.")
    profiles: Annotated[tuple[str, ...], Field(min_length=1, max_length=16)] = Field(
        ("generic-x86_64",), description="Device profiles, in turn; names or .toml files."
    )
    tags: Annotated[dict[Name, Tag], Field(max_length=MAX_TAGS)] = Field({})
    version: Version | None = Field(None, description="At the start; absent: the scenario's.")
    versions: dict[str, Behaviour] = Field(
        {}, description="How versions do on these devices, where otherwise than on others."
    )
    download_s: _Seconds = Field(2.0, description="Mean; each device differs by up to a half.")
    trial_s: _Seconds = Field(2.0, description="In place of the profile's own.")
    fault: Fault | None = None
    up_s: Annotated[float, Field(gt=0, le=86_400)] = 5.0
    down_s: _Seconds = 5.0
    deaths: Annotated[int, Field(ge=1, le=100)] = 1
    clock_off_s: Annotated[float, Field(ge=-1e9, le=1e9)] = 86_400.0

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if self.count is not None and self.share is not None:
            msg = "count or share, not both"
            raise ValueError(msg)
        return self


class Scenario(Typed):
    """A simulated fleet."""

    seed: int = 1
    model: Name
    version: Version = Field(1, description="That devices run at the start.")
    state_interval_s: Annotated[float, Field(ge=0.2, le=86_400)] = 10.0
    results_per_minute: Annotated[float, Field(ge=0, le=6000)] = Field(
        0.0, description="Messages with an answer that each device sends; `state` counts them all."
    )
    start_s: _Seconds = Field(5.0, description="Over which devices connect at first.")
    versions: dict[str, Behaviour] = Field({}, description="By number; others do as the defaults.")
    group: Annotated[tuple[Group, ...], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for where in (self.versions, *(group.versions for group in self.group)):
            if wrong := [key for key in where if not key.isdecimal() or int(key) < 1]:
                msg = f"versions: {wrong[0]!r} is not a version"
                raise ValueError(msg)
        names = [group.name for group in self.group]
        if len(set(names)) != len(names):
            msg = "group: two have the same name"
            raise ValueError(msg)
        if sum(group.count is None and group.share is None for group in self.group) > 1:
            msg = "group: only one can be what the others leave"
            raise ValueError(msg)
        return self

    def behaviour(self, group: Group, version: int) -> Behaviour:
        """Return how a version does on the devices of a group."""
        key = str(version)
        return group.versions.get(key) or self.versions.get(key) or Behaviour()

    def sizes(self, devices: int) -> list[int]:
        """Return how many of so many devices are in each group.

        Raises:
            ValueError: they do not come to that number.
        """
        sizes = [
            group.count if group.count is not None else round((group.share or 0.0) * devices)
            for group in self.group
        ]
        left = devices - sum(sizes)
        rest = [n for n, g in enumerate(self.group) if g.count is None and g.share is None]
        by_share = [n for n, group in enumerate(self.group) if group.share is not None]
        if rest and left >= 0:
            sizes[rest[0]] += left
        elif by_share and abs(left) <= len(by_share):  # of rounding
            sizes[by_share[0]] += left
        elif left:
            msg = f"the groups have {sum(sizes)} devices of {devices}"
            raise ValueError(msg)
        return sizes


def read_scenario(file: Path, devices: int) -> Scenario:
    """Return a scenario from a TOML file, which must do for so many devices.

    Raises:
        ScenarioError: see there.
    """
    scenario = read_toml_file(
        Scenario, file, max_bytes=_MAX_BYTES, remedy=_REMEDY, error=ScenarioError
    )
    try:
        scenario.sizes(devices)
    except ValueError as err:
        raise ScenarioError(str(file), [("group", str(err))], remedy=_REMEDY) from None
    return scenario
