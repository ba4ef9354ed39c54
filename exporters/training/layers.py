"""Which of a teacher's layers its student keeps: measured before any training.

Layers of one encoder are not equally needed, and which of them go together shows at once: under the
teacher's own head, untrained, MiniLM's layers 0, 4 and 5 answer 90 % of CLINC150 as they should,
and 0, 2 and 4 half of it. So every choice is tried, on texts that the teacher was not trained on.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgeslm.errors import RejectedError
from exporters.heads.base import Advance
from exporters.training.network import Network, judge

_MOST: Final = 1000  # choices that are tried
_WORTH: Final = 20_000  # texts times layers: about ten seconds of MiniLM's
_TEXTS: Final = (64, 512)  # least and most that a choice is tried on


class LayersError(RejectedError):
    """No student of so many layers can be cut out of this teacher."""

    code = "distil.layers"


@dataclass(frozen=True, slots=True)
class Choice:
    """Layers, and how good they are without any training.

    Args:
        layers: of the teacher, from 0, ascending.
        accuracy: in per cent.
        surprise: mean cross-entropy, nats.
    """

    layers: tuple[int, ...]
    accuracy: float
    surprise: float


def choices(network: Network, keep: int) -> list[tuple[int, ...]]:
    """Return every choice of `keep` layers, in their order.

    Raises:
        LayersError: there are none, or too many to try.
    """
    count = len(stack_of(network))
    if not 0 < keep < count:
        msg = f"--student layers={keep}: the teacher has {count} layers; take 1 to {count - 1}"
        raise LayersError(msg)
    if (number := math.comb(count, keep)) > _MOST:
        msg = (
            f"--student layers={keep}: {number} choices of {count} layers are too many to try one "
            f"by one; up to {_MOST} are. Take fewer layers."
        )
        raise LayersError(msg)
    return list(itertools.combinations(range(count), keep))


def stack_of(network: Network) -> nn.ModuleList:
    """Return the layers of an encoder.

    Raises:
        LayersError: they are not one list.
    """
    count = getattr(network.encoder.config, "num_hidden_layers", None)
    lists = [m for m in network.encoder.modules() if isinstance(m, nn.ModuleList)]
    found = [one for one in lists if len(one) == count]
    if len(found) != 1:
        msg = "--student layers: this teacher's layers are not one after another in one list"
        raise LayersError(msg)
    return found[0]


def cut(network: Network, layers: Sequence[int]) -> Network:
    """Return a copy of `network` with these of its layers."""
    student = copy.deepcopy(network)
    stack = stack_of(student)
    kept = nn.ModuleList(stack[layer] for layer in layers)
    for module in student.encoder.modules():
        for name, child in module.named_children():
            if child is stack:
                setattr(module, name, kept)
    student.encoder.config.num_hidden_layers = len(layers)
    return student


def choose(
    network: Network,
    tried: Sequence[tuple[int, ...]],
    texts: Sequence[NDArray[np.int64]],
    labels: NDArray[np.int64],
    advance: Advance,
) -> list[Choice]:
    """Return all choices with what they come to, the best first.

    Args:
        network: the teacher, its head included.
        tried: see `choices`.
        texts: token ids of texts that it was not trained on.
        labels: their numbers.
        advance: called once a choice.
    """
    least, most = _TEXTS
    count = min(most, max(least, _WORTH // (len(tried) * len(tried[0]))), len(texts))
    picked = np.linspace(0, len(texts) - 1, count).round().astype(int).tolist()
    found = []
    for layers in tried:
        accuracy, surprise = judge(cut(network, layers), texts, labels, picked)
        found.append(Choice(layers, accuracy, surprise))
        advance(1)
    return sorted(found, key=lambda one: (-one.accuracy, one.surprise, one.layers))
