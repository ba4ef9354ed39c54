"""What a device can spare for a model: variants that take more are left out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import RejectedError
from edgeslm.ports import Request
from edgeslm.runtime.model import Model

NOMINAL_TOKENS: Final = 32  # budgets are for texts of this length
_LOOKED_AT: Final = 64  # texts among which those of that length are looked for
_TEXTS: Final = 8
_PASSES: Final = 5
_MB: Final = 1e6


class OverBudgetError(RejectedError):
    """No variant is as small or as fast as the profile's budget asks for."""

    code = "export.over_budget"


def size_bytes(folder: Path) -> int:
    """Return what the graphs and weights of a variant's folder take."""
    return sum(file.stat().st_size for file in folder.iterdir() if not _is_paper(file))


def _is_paper(file: Path) -> bool:
    return file.suffix in {".json", ".jsonl"}


def over_size(profile: DeviceProfile, name: str, size: float) -> OverBudgetError | None:
    """Return why a variant of so many bytes is too large; None where it is not."""
    limit = profile.budget.size_mb
    size /= _MB
    if limit is None or size <= limit:
        return None
    return OverBudgetError(
        f"{name}: graph and weights take {size:.1f} MB, and profile {profile.name} has budget for "
        f"{limit:g} MB. Raise budget.size_mb, or take a smaller model or precision."
    )


def latency_ms(model: Model, requests: Sequence[Request]) -> float:
    """Return the median time of an inference of about `NOMINAL_TOKENS` tokens.

    Args:
        model: on the device itself.
        requests: of the first of which those nearest to that length are taken.
    """
    looked_at = requests[:_LOOKED_AT]
    nearest = sorted(looked_at, key=lambda r: abs(model.tokens(r) - NOMINAL_TOKENS))[:_TEXTS]
    took = []
    for _ in range(_PASSES):
        for request in nearest:
            model.forget()
            begun = time.perf_counter()
            model.answer(request)
            took.append(time.perf_counter() - begun)
    return 1000 * statistics.median(took)


def too_slow(profile: DeviceProfile, took: Sequence[float]) -> bool:
    """Whether the profile has budget for none of these inferences, ms; nothing is said of none."""
    limit = profile.budget.latency_ms
    return limit is not None and bool(took) and min(took) > limit


def check_latency(profile: DeviceProfile, provider: str, took: Sequence[float]) -> None:
    """Make sure that some variant of a provider is fast enough.

    None is left out for its time, since the next export would measure another.

    Args:
        profile: of the device.
        provider: key of its target.
        took: time of one inference of each variant that was timed here, ms.

    Raises:
        OverBudgetError: none of them is.
    """
    limit = profile.budget.latency_ms
    if limit is None or not too_slow(profile, took):
        return
    msg = (
        f"{provider}: the fastest variant takes {min(took):.3g} ms for a text of "
        f"{NOMINAL_TOKENS} tokens on this machine, and profile {profile.name} has budget for "
        f"{limit:g} ms. Raise budget.latency_ms, try --tune, or take a smaller model."
    )
    raise OverBudgetError(msg)
