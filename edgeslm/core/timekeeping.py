"""Whether the wall clock can be believed, and whether it was set: what two looks at it say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeslm.contract.messages import ClockTrust

JUMP_S: Final = 1.0  # less than that is how a clock is kept right, and passes unnoticed


@dataclass(frozen=True, slots=True)
class Look:
    """What the clocks show at one moment.

    Args:
        wall: seconds since 1970.
        elapsed: seconds since the boot, those in which the device slept included.
        synchronised: whether the system says that the wall clock follows another; None: it does
            not say.
    """

    wall: float
    elapsed: float
    synchronised: bool | None


def trust_of(look: Look, *, earliest: float) -> ClockTrust | None:
    """Return what results say of the wall clock; None: that is not known.

    Args:
        look: at the clocks.
        earliest: it cannot be before that, whatever the system says: seconds since 1970.
    """
    # The comparison is false for NaN.
    if look.synchronised is False or not look.wall >= earliest:
        return "untrusted"
    return None if look.synchronised is None else "synchronised"


def jump_of(before: Look, after: Look) -> float | None:
    """Return by how many seconds the wall clock was set between two looks; None: it was not."""
    by_s = (after.wall - before.wall) - (after.elapsed - before.elapsed)
    return by_s if abs(by_s) >= JUMP_S else None
