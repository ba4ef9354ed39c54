"""Where training has come to, in one file that is whole or as it was before."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import safetensors
import torch
from pydantic import Field, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from edgeslm.adapters.fs import flush_folder
from edgeslm.contract.base import Typed
from exporters.training.network import Network

CHECKPOINT: Final = "checkpoint.safetensors"
_STATE: Final = "state"
# What AdamW keeps of each parameter.
_MOMENTS: Final = ("step", "exp_avg", "exp_avg_sq")


class Judged(Typed):
    """What the held-out texts said after so many steps."""

    step: Annotated[int, Field(ge=0)]
    accuracy: float
    """In per cent."""
    surprise: float
    """Mean cross-entropy, nats."""

    def beats(self, other: Judged) -> bool:
        """Whether these weights are the better ones."""
        return (self.accuracy, -self.surprise) > (other.accuracy, -other.surprise)


class Progress(Typed):
    """Everything that training knows besides tensors.

    Args:
        steps: planned.
        step: done.
        judged: after the start, and after each epoch.
        cpu_s: of all processes that came so far, in seconds.
        wall_s: as cpu_s, by the clock.
    """

    steps: Annotated[int, Field(ge=1)]
    step: Annotated[int, Field(ge=0)] = 0
    judged: tuple[Judged, ...] = ()
    cpu_s: float = 0.0
    wall_s: float = 0.0

    @property
    def best(self) -> Judged:
        """The judgement that no later one beats."""
        best = self.judged[0]
        for one in self.judged[1:]:
            best = one if one.beats(best) else best
        return best


def save(
    folder: Path,
    progress: Progress,
    network: Network,
    optimiser: torch.optim.AdamW,
    best: dict[str, Tensor],
) -> None:
    """Replace the checkpoint in `folder`.

    Raises:
        OSError: the disk refuses; the one before stays.
    """
    tensors = {f"best/{name}": value for name, value in best.items()}
    for name, parameter in network.trained().items():
        tensors[f"now/{name}"] = parameter.detach()
        state = optimiser.state.get(parameter, {})
        tensors |= {f"{key}/{name}": state[key] for key in _MOMENTS if key in state}
    fresh = folder / f".{CHECKPOINT}"
    try:
        # Copies: the format has no two names for one memory.
        save_file(
            {name: value.clone().contiguous() for name, value in tensors.items()},
            fresh,
            metadata={_STATE: progress.model_dump_json()},
        )
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(folder / CHECKPOINT)
    finally:
        fresh.unlink(missing_ok=True)
    flush_folder(folder)


def restore(
    folder: Path, network: Network, optimiser: torch.optim.AdamW
) -> tuple[Progress, dict[str, Tensor]] | None:
    """Go on from the checkpoint in `folder`; None: there is none that can be used."""
    try:
        with safetensors.safe_open(folder / CHECKPOINT, framework="pt") as file:
            progress = Progress.model_validate_json(file.metadata()[_STATE])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no dict
        moved = network.trained()
        best = _weights("best", tensors, moved)
        now = _weights("now", tensors, moved)
        moments = {name: _moments(name, tensors) for name in moved}
    except (OSError, KeyError, TypeError, ValidationError, safetensors.SafetensorError):
        return None
    with torch.no_grad():
        for name, parameter in moved.items():
            parameter.copy_(now[name])
            if moments[name]:
                optimiser.state[parameter] = moments[name]
    return progress, best


def _weights(
    kind: str, tensors: Mapping[str, Tensor], moved: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return those of a kind.

    Raises:
        KeyError: one is missing, or of another shape.
    """
    found = {name: tensors[f"{kind}/{name}"] for name in moved}
    for name, value in found.items():
        if value.shape != moved[name].shape:
            raise KeyError(name)
    return found


def _moments(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the optimiser kept of a parameter; nothing before the first step.

    Raises:
        KeyError: some of it is missing.
    """
    if all(f"{key}/{name}" not in tensors for key in _MOMENTS):
        return {}
    return {key: tensors[f"{key}/{name}"] for key in _MOMENTS}
