"""What made an encoder smaller before it was compiled, and what each of these steps cost.

Float32 against float32, on the held-out rows: what int8 costs is judged apart, by the gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx

from exporters.heads.base import FittedHead
from exporters.quality import tidy
from exporters.recipes.base import Fitter
from exporters.sources.base import Encoder
from exporters.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Reduction:
    """One step.

    Args:
        name: of the kind of step.
        what: was done, a sentence.
        before: the encoder as it was.
        same_head: on training texts both encoders say the same, so one head is for both; else each
            is judged under its own.
        fitter: makes that of the encoder before; None: whoever makes that of the one after.
    """

    name: str
    what: str
    before: Encoder
    same_head: bool = False
    fitter: Fitter | None = None


def judge(steps: Sequence[Reduction], bench: Workbench) -> list[dict[str, Any]]:
    """Return what `quality.json` says of each step.

    Args:
        steps: in the order in which they were taken.
        bench: of the encoder that came of the last.
    """
    found: list[dict[str, Any]] = []
    for step in reversed(steps):
        head: FittedHead | None = bench.fit() if step.same_head else None
        before = bench.beside(step.before, head=head, fitter=step.fitter or bench.fitter)
        found.append(_judge(step, before, bench))
        bench = before
    return found[::-1]


def _judge(step: Reduction, before: Workbench, after: Workbench) -> dict[str, Any]:
    rows, recipe = after.split.held_out, after.recipe
    was = before.reference_metrics(rows), before.reference_answers(rows)
    now = after.reference_metrics(rows), after.reference_answers(rows)
    return {
        "name": step.name,
        "what": step.what,
        "parameters": {"before": parameters(before.encoder), "after": parameters(after.encoder)},
        "before": tidy(was[0]),
        "after": tidy(now[0]),
        "lost_points": tidy(recipe.losses(was, now)),
    }


def parameters(encoder: Encoder) -> int:
    """Return how many float weights an encoder has."""
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    graph = encoder.model.graph
    inside = [a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute]
    tensors = [t for t in [*graph.initializer, *inside] if t.data_type in floats]
    return sum(prod(tensor.dims) for tensor in tensors)


def cautions(judged: Sequence[dict[str, Any]], *, limit: float) -> list[str]:
    """Return a sentence for each step that lost more than `limit` points of something."""
    return [
        f"{one['what']}: {points:.2g} points of {name} lost in float32, more than the {limit:g} "
        "that int8 may lose; the gate does not see these"
        for one in judged
        for name, points in one["lost_points"].items()
        if points > limit
    ]
