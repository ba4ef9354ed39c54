"""Graphs whose rows do not depend on their neighbours: made so, and proved on this machine.

Static int8 and float32 look at each token by itself, attention at each text by itself. What is
left is the order of sums: where a kernel adds up in another order for a batch, or for a padded
row, the last bits differ. Measured on MiniLM: the hidden states are equal to the last bit, alone,
in batches and padded; the sum over tokens was not, whose kernel depends on the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeslm.adapters.ort import make_session
from edgeslm.ports import Session, SessionOptions, Tensor
from edgeslm.runtime.batches import MASK, stack
from exporters.heads.base import PREFIX
from exporters.targets.base import Feeds

_SIZES: Final = (2, 3, 5, 8, 16)
_ROUNDS: Final = 2  # each text meets so many sets of neighbours of every size
_JOINED: Final = 4  # texts joined into one, for lengths that no text has


def sum_in_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model`, whose head sums over tokens one after another, whatever is behind them.

    A running sum in place of ReduceSum, and of it the last: padding is masked, and adds zeros.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type != "ReduceSum" or not node.name.startswith(PREFIX):
            nodes.append(node)
            continue
        values, axes = node.input
        (axis,) = constants[axes].tolist()
        where, last, running = (f"{node.name}/{part}" for part in ("axis", "last", "running"))
        graph.initializer.append(numpy_helper.from_array(np.array(axis), where))
        graph.initializer.append(numpy_helper.from_array(np.array(-1), last))
        nodes += [
            helper.make_node("CumSum", [values, where], [running], name=running),
            helper.make_node("Gather", [running, last], node.output, name=node.name, axis=axis),
        ]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    onnx.checker.check_model(changed)
    return changed


def disproof(
    graph: Path, options: SessionOptions, texts: Sequence[Feeds], *, max_tokens: int
) -> str | None:
    """Say where a row of `graph` depends on its neighbours; None: nowhere, to the last bit.

    Each text alone is held against itself in batches of several sizes, among several neighbours;
    where the graph takes a mask, also padded to the length of the longest.

    Args:
        graph: file, as devices get it.
        options: of the session, as devices open it.
        texts: int64 [1, sequence] each, unpadded, of many lengths.
        max_tokens: longest that it takes.
    """
    session = make_session(graph, options=options)
    rows = [{name: text[name] for name in session.inputs} for text in texts]
    rows += _joined(rows, max_tokens)
    alone = [session.run(row) for row in rows]
    random = np.random.default_rng(0)
    for size in _SIZES:
        for _ in range(_ROUNDS):
            order = random.permutation(len(rows)).tolist()
            if MASK not in session.inputs:  # then only texts of equal length go together
                order.sort(key=lambda i: _length(rows[i]))
            for start in range(0, len(order), size):
                batch = order[start : start + size]
                if MASK not in session.inputs:
                    batch = [i for i in batch if _length(rows[i]) == _length(rows[batch[0]])]
                if found := _difference(session, rows, alone, batch):
                    return found
    return None


def _difference(
    session: Session,
    rows: Sequence[Feeds],
    alone: Sequence[Mapping[str, Tensor]],
    batch: Sequence[int],
) -> str | None:
    together = session.run(stack([rows[i] for i in batch]))
    for place, i in enumerate(batch):
        for name, value in alone[i].items():
            if value[0].tobytes() != together[name][place].tobytes():
                return f"{name} of a text of {_length(rows[i])} tokens among {len(batch)}"
    return None


def _joined(rows: Sequence[Feeds], max_tokens: int) -> list[dict[str, NDArray[np.generic]]]:
    """Return longer texts, of several of these one behind the other."""
    return [
        {
            name: np.concatenate([row[name] for row in group], axis=1)[:, :max_tokens]
            for name in group[0]
        }
        for start in range(0, len(rows) - _JOINED + 1, 2 * _JOINED)
        for group in [rows[start : start + _JOINED]]
    ]


def _length(row: Feeds) -> int:
    return int(next(iter(row.values())).shape[1])
