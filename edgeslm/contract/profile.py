"""`device-profiles/*.toml`: one device type, for exporter and agent alike."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgeslm.contract.base import Name, Typed
from edgeslm.contract.manifest import Requirements, Tolerance


class Int8Recipe(Typed):
    """How the CPU target quantises; see exporters/targets/cpu.py."""

    reduce_range: bool = Field(description="7-bit weights: exact on x86 without VNNI.")
    per_channel: bool = Field(True, description="A scale for each output channel.")  # noqa: FBT003


class CpuTarget(Typed):
    """What the CPU provider of this device wants."""

    int8: Int8Recipe
    graph_optimization: Literal["none", "basic", "extended"] = Field(
        "extended", description="Level at which the graph is saved; the device adds none."
    )


class Gate(Typed):
    """What an export may lose."""

    accuracy_drop_max: Annotated[float, Field(ge=0, le=100)] = Field(
        0.5, description="Points of the task's metric, int8 against fp32."
    )


class DeviceProfile(Typed):
    """One device type."""

    name: Annotated[Name, Field(description="The file's name without .toml; lower case.")]
    description: str = Field(description="Which device, for people.")
    requires: Requirements
    providers: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        description="Keys of edgeslm/providers/, best first."
    )
    max_tokens: Annotated[int, Field(ge=4, le=8192, description="Longer texts are cut.")] = 128
    cpu: CpuTarget | None = None
    gate: Gate = Gate()
    tolerance: Tolerance | None = Field(
        None, description="Used where the exporter cannot run the target itself."
    )

    @model_validator(mode="after")
    def _targets(self) -> Self:
        if "cpu" in self.providers and self.cpu is None:
            msg = "providers: cpu needs [cpu.int8], which says how to quantise"
            raise ValueError(msg)
        return self
