"""Fit the anomaly score on normal lines, and put its embedding distance into the graph.

Calibration scores come from lines that the statistics had not seen: each source's lines are cut
into ten blocks in time order (file order where there are no times), and each block is scored by
what the other nine teach. Blocks stay whole, since neighbouring readings resemble each other and
shuffled folds would leak. Final statistics are fitted on all lines.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeslm.core import calibration, numbers
from edgeslm.core.novelty import Vocabulary
from edgeslm.core.template import number, readable, split
from edgeslm.errors import RejectedError
from edgeslm.tasks.anomaly import DISTANCE, Line
from exporters.data import Row
from exporters.heads.base import Advance, Embed

FOLDS: Final = 10
MAX_REFERENCES: Final = 1024
"""Most reference templates in the graph, the most frequent first: 1.5 MB at 384 dimensions."""
BATCH: Final = 32
FEW: Final = 20
"""Lines below which a source's own history of a template gives way to the pooled one."""


class TrainingDataError(RejectedError):
    """The training lines cannot make a detector."""

    code = "data.training"


@dataclass(frozen=True, slots=True)
class _Example:
    """One training line: its template's index, its source and its numbers."""

    template: int
    source: str
    slots: list[str]


@dataclass(frozen=True, slots=True)
class AnomalyHead:
    """The fitted head; see `base.FittedHead`."""

    parameters: bytes
    references: NDArray[np.float32]
    """[references, dim], rows of length 1."""

    def attach(self, encoder: onnx.ModelProto) -> onnx.ModelProto:
        """Return `encoder` with mean pooling, cosine and distance; output `distance` [batch]."""
        model = onnx.ModelProto()
        model.CopyFrom(encoder)
        graph = model.graph
        hidden = graph.output[0].name
        constants = {
            "head/references": np.ascontiguousarray(self.references.T),
            "head/tokens_axis": np.array([1], np.int64),
            "head/last_axis": np.array([-1], np.int64),
            "head/tiny": np.array(1e-9, np.float32),
            "head/one": np.array(1.0, np.float32),
        }
        graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items())

        def node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
            name = f"head/{output}"
            full = DISTANCE if output == DISTANCE else name
            graph.node.append(helper.make_node(op, inputs, [full], name=name, **attributes))

        node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
        node("Unsqueeze", ["head/mask", "head/last_axis"], "mask3")
        node("Mul", [hidden, "head/mask3"], "kept")
        # The mean's divisor cancels in the normalisation, so the sum is enough.
        node("ReduceSum", ["head/kept", "head/tokens_axis"], "sum", keepdims=0)
        node("ReduceL2", ["head/sum", "head/last_axis"], "length", keepdims=1)
        node("Max", ["head/length", "head/tiny"], "safe_length")
        node("Div", ["head/sum", "head/safe_length"], "embedding")
        node("MatMul", ["head/embedding", "head/references"], "cosines")
        node("ReduceMax", ["head/cosines", "head/last_axis"], "nearest", keepdims=0)
        node("Sub", ["head/one", "head/nearest"], DISTANCE)
        del graph.output[:]
        graph.output.append(helper.make_tensor_value_info(DISTANCE, TensorProto.FLOAT, ["batch"]))
        return model


def fit(
    rows: Sequence[Row],
    embed: Embed,
    *,
    alarm_budget: float,
    seed: int,
    advance: Advance,
) -> AnomalyHead:
    """Fit the score on the normal and unlabelled lines of `rows`.

    Args:
        rows: training lines, in file order; "anomaly" ones are left out.
        embed: gives the embeddings of the encoder that the head will be attached to.
        alarm_budget: share of normal lines that may alarm, in (0, 1).
        seed: unused, since nothing here is drawn at random; part of every head's signature.
        advance: called with the number of templates just embedded.

    Raises:
        TrainingDataError: no normal line.
        BudgetError: too few lines for the budget; names how many are needed.
    """
    del seed
    normal = [row for row in rows if row.label in {None, "normal"}]
    if not normal:
        msg = 'no normal lines to learn from: give lines without a label, or labelled "normal"'
        raise TrainingDataError(msg)
    calibration.require(alarm_budget, len(normal))
    normal = _in_time_order(normal)
    templates, examples = _split_all(normal)
    embeddings = _embed_all(templates, embed, advance)
    text, number_ = _cross_fitted(templates, embeddings, examples)
    tails = {"text": calibration.tail(text), "number": calibration.tail(number_)}
    fused = [
        calibration.fused({
            "text": tails["text"].log_p_value(t), "number": tails["number"].log_p_value(x)
        })
        for t, x in zip(text, number_, strict=True)
    ]  # fmt: skip
    tails["fused"] = calibration.tail(fused)
    own, pooled = _histories(examples, len(templates))
    parameters = {
        "alarm_budget": alarm_budget,
        "calibration_lines": len(examples),
        "sources": sorted({e.source for e in examples}),
        "templates": templates,
        "pooled": [[_plain(h) for h in slots] for slots in pooled],
        "histories": [
            {"source": source, "template": template, "slots": [_plain(h) for h in slots]}
            for (source, template), slots in sorted(own.items())
        ],
        **{name: _plain(t) for name, t in tails.items()},
    }
    raw = json.dumps(parameters, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    frequency = Counter(e.template for e in examples)
    kept = sorted(i for i, _ in frequency.most_common(MAX_REFERENCES))
    return AnomalyHead(raw.encode("utf-8"), embeddings[kept])


def _in_time_order(rows: list[Row]) -> list[Row]:
    """Rows by time where all have one, else as they came."""
    if any(row.time is None for row in rows):
        return rows
    return sorted(rows, key=lambda row: row.time or 0.0)


def _split_all(rows: Sequence[Row]) -> tuple[list[str], list[_Example]]:
    """Return the distinct templates by first appearance, and every line in terms of them."""
    index: dict[str, int] = {}
    examples = []
    for row in rows:
        template, slots = split(row.text)
        place = index.setdefault(template, len(index))
        examples.append(_Example(place, row.source, slots))
    return list(index), examples


def _embed_all(templates: Sequence[str], embed: Embed, advance: Advance) -> NDArray[np.float32]:
    """Return the embedding of each template, float32 [templates, dim]."""
    out = []
    for start in range(0, len(templates), BATCH):
        batch = [readable(t) for t in templates[start : start + BATCH]]
        out.append(embed(batch))
        advance(len(batch))
    return np.concatenate(out).astype(np.float32)


def _folds(examples: Sequence[_Example]) -> list[int]:
    """Return each line's fold: its source's lines in ten contiguous blocks."""
    totals = Counter(e.source for e in examples)
    seen: Counter[str] = Counter()
    folds = []
    for e in examples:
        folds.append(FOLDS * seen[e.source] // totals[e.source])
        seen[e.source] += 1
    return folds


def _cross_fitted(
    templates: Sequence[str], embeddings: NDArray[np.float32], examples: Sequence[_Example]
) -> tuple[list[float], list[float]]:
    """Return text and number score of each line, by statistics of the other folds."""
    folds = _folds(examples)
    text, number_ = [0.0] * len(examples), [0.0] * len(examples)
    for fold in sorted(set(folds)):
        others = [e for e, f in zip(examples, folds, strict=True) if f != fold]
        known = sorted({e.template for e in others})
        if not known:
            continue
        vocabulary = Vocabulary([templates[i] for i in known])
        own, pooled = _histories(others, len(templates))
        lines = {key: Line(slots) for key, slots in own.items()}
        pooled_lines = [Line(slots) for slots in pooled]
        distances: dict[int, float] = {}
        for i, (e, f) in enumerate(zip(examples, folds, strict=True)):
            if f != fold:
                continue
            place = vocabulary.index(templates[e.template])
            if place is not None:
                line = lines.get((e.source, known[place])) or pooled_lines[known[place]]
                number_[i] = line.score(e.slots)
                continue
            if e.template not in distances:
                cosines = embeddings[known] @ embeddings[e.template]
                distances[e.template] = min(max(1 - float(cosines.max()), 0.0), 2.0)
            text[i] = vocabulary.score(templates[e.template], distances[e.template])
    return text, number_


def _histories(
    examples: Sequence[_Example], templates: int
) -> tuple[dict[tuple[str, int], list[numbers.History]], list[list[numbers.History]]]:
    """Return the histories per (source, template), and pooled per template."""
    columns: dict[tuple[str, int], list[list[float]]] = defaultdict(list)
    for e in examples:
        columns[e.source, e.template].append([number(s) for s in e.slots])
    by_template: dict[int, list[tuple[str, list[list[float]]]]] = defaultdict(list)
    own = {}
    for (source, template), lines in columns.items():
        by_template[template].append((source, lines))
        if lines[0] and len(lines) >= FEW:
            own[source, template] = [numbers.history(c) for c in zip(*lines, strict=True)]
    pooled: list[list[numbers.History]] = []
    for template in range(templates):
        groups = by_template[template]
        width = len(groups[0][1][0]) if groups else 0
        pooled.append([
            _pooled([[line[slot] for line in lines] for _, lines in groups])
            for slot in range(width)
        ])  # fmt: skip
    return own, pooled


def _pooled(groups: Sequence[Sequence[float]]) -> numbers.History:
    """Return the history of one slot over all sources."""
    effective = sum(numbers.history(group).effective for group in groups)
    return numbers.history([v for group in groups for v in group], effective=effective)


def _plain(item: numbers.History | calibration.Tail) -> dict[str, Any]:
    return {name: getattr(item, name) for name in item.__slots__}
