"""`golden.jsonl`: inputs and expected outputs that a device replays before it trusts a model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgeslm.contract.base import Typed
from edgeslm.contract.manifest import Stage


class GoldenRequest(Typed):
    """An input, as it would arrive."""

    text: Annotated[str, Field(max_length=65_536)]
    source: str = ""
    time: float | None = None
    key: str | None = None


class GoldenExpectation(Typed):
    """What the exporter's machine answered, through the same code."""

    label: str
    accepted: bool | None = None
    score: float
    confidence: float
    p_value: float | None = None
    stage: Stage | None = Field(None, description="Of a cascade: who answered.")


class GoldenCase(Typed):
    """One line of the golden file."""

    request: GoldenRequest
    expect: GoldenExpectation
    near_threshold: bool = Field(
        False,  # noqa: FBT003
        description="A score within its tolerance may fall on either side: label is not compared.",
    )
    fault: bool = Field(
        False,  # noqa: FBT003
        description="Whoever exported it has labelled it an anomaly: who teaches the device that "
        "it is normal is told so. Written only where it is true.",
    )
