"""What a lock file keeps of training."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from edgeslm.contract.base import Typed

MAX_TOKENS: Final = 128
"""Where texts are cut while training, unless the user says; as the profiles that ship do."""


class TrainingPlan(Typed):
    """What an export decided of training, partly by the clock: with it, the same weights again."""

    steps: Annotated[int, Field(ge=1, description="Planned; the rates depend on them.")]
    stop: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Step after which it ended before that; null: it did not."
    )
