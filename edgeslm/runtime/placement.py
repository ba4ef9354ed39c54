"""Where a model runs and where it has been proved, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from edgeslm.contract.manifest import Coverage, Verified
from edgeslm.runtime.model import Model

PROVED: Final[dict[Verified, str]] = {
    "silicon": "run on such a chip",
    "emulated": "run on its emulator",
    "static": "checked node by node, never run",
    "none": "never run on such a device, nor on its emulator",
}


def proved(verified: Verified | None) -> str:
    """Return the word of the manifest and what it means."""
    word = verified or "none"
    return f"{word} ({PROVED[word]})"


def placed(found: Coverage, provider: str) -> str:
    """Return how much of a graph `provider` takes, in a line."""
    pieces = "1 piece" if found.partitions == 1 else f"{found.partitions} pieces"
    line = f"{found.nodes_taken} of {found.nodes} nodes on {provider}, in {pieces}"
    if not found.operations:
        return line
    taken = found.operations_taken / found.operations
    return f"{line}; {taken:.1%} of about {found.operations / 1e6:.3g} M multiply-adds"


def fallen(found: Coverage) -> Iterator[str]:
    """Yield what it does not take: a line for each operator."""
    for one in found.fallen:
        yield f"{one.count} {one.operator}: {one.why}"


def remarks(model: Model) -> Iterator[str]:
    """Yield what somebody who runs `model` may not expect: nothing where all is as wished."""
    for reason in model.passed_over:
        yield f"passed over {reason}"
    if model.node_share < 1:
        yield f"{placed(model.coverage, model.provider)}; the CPU runs the rest"
        yield from fallen(model.coverage)
