"""What a provider takes of a graph, from its documentation: for hardware that is not here.

Each node is held against what the provider documents: operators, opsets, types, shapes, and where
weights may be. Pieces are counted as ONNX Runtime makes them: nodes that can run together without
waiting for one outside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from onnx import TensorProto, numpy_helper

from edgeslm.contract.manifest import Coverage, Fallen
from exporters.costs import UncountedError, node_costs

_NAMES: Final = {number: name.lower() for name, number in TensorProto.DataType.items()}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a graph's tensors before it runs.

    Args:
        types: of each tensor, as `onnx.TensorProto.DataType`.
        shapes: of each tensor of known rank; None for an axis of any length.
        constants: tensors that are initialisers.
        opset: of the default domain.
        zeros: those of them that hold nothing but zeros.
        external: those of them that lie in another file.
        inputs: of the graph.
    """

    types: Mapping[str, int]
    shapes: Mapping[str, tuple[int | None, ...]]
    opset: int
    constants: frozenset[str]
    zeros: frozenset[str]
    external: frozenset[str]
    inputs: frozenset[str]


@dataclass(frozen=True, slots=True)
class Rule:
    """When a provider takes an operator.

    Args:
        types: of its inputs' elements, lower case, by position; a position beyond them is like
            the last.
        since: oldest opset.
        more: says why not, from what else the documentation asks.
    """

    types: tuple[frozenset[str], ...] = ()
    since: int = 1
    more: Callable[[onnx.NodeProto, Facts], str | None] | None = None


@dataclass(frozen=True, slots=True)
class Documented:
    """A provider's documentation.

    Args:
        name: of the provider, for people.
        rules: by operator; one of another domain than ONNX's is "domain:operator".
        static: every shape must be fixed.
        embedded: weights must lie in the graph's own file.
        max_rank: most axes of a tensor; None: any.
    """

    name: str
    rules: Mapping[str, Rule]
    static: bool = False
    embedded: bool = False
    max_rank: int | None = None

    def refusal(self, node: onnx.NodeProto, facts: Facts) -> str | None:
        """Say why the provider does not take `node`; None where it does."""
        key = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
        rule = self.rules.get(key)
        if rule is None:
            return f"not among the operators that {self.name} documents"
        if not node.domain and facts.opset < rule.since:
            return f"needs opset {rule.since}, this is {facts.opset}"
        return (
            self._tensors(node, facts)
            or _types(node, facts, rule)
            or (rule.more(node, facts) if rule.more is not None else None)
        )

    def _tensors(self, node: onnx.NodeProto, facts: Facts) -> str | None:
        for name in filter(None, [*node.input, *node.output]):
            shape = facts.shapes.get(name)
            if self.static and (shape is None or None in shape):
                return "a shape is not fixed"
            if self.max_rank is not None and shape is not None and len(shape) > self.max_rank:
                return f"more than {self.max_rank} axes"
            if self.embedded and name in facts.external:
                return "weights outside the graph's file"
        return None


def _types(node: onnx.NodeProto, facts: Facts, rule: Rule) -> str | None:
    if not rule.types:
        return None
    for position, name in enumerate(node.input):
        if not name:
            continue
        allowed = rule.types[min(position, len(rule.types) - 1)]
        found = _NAMES.get(facts.types.get(name, 0), "unknown")
        if found not in allowed:
            return f"input {position} is {found}, it takes {', '.join(sorted(allowed))}"
    return None


def static_coverage(graph: Path, documented: Documented) -> Coverage:
    """Return what a provider takes of the graph in a file, by its documentation."""
    model = onnx.load(graph, load_external_data=False)
    facts = _facts(model, graph.parent)
    refused = {
        index: why
        for index, node in enumerate(model.graph.node)
        if (why := documented.refusal(node, facts)) is not None
    }
    try:
        costs = node_costs(graph)
    except UncountedError:
        costs = {}
    nodes = model.graph.node
    taken = sum(costs.get(n.name, 0) for i, n in enumerate(nodes) if i not in refused)
    fallen = Counter((nodes[index].op_type, why) for index, why in refused.items())
    return Coverage(
        nodes=len(nodes),
        nodes_taken=len(nodes) - len(refused),
        operations=sum(costs.get(node.name, 0) for node in nodes),
        operations_taken=taken,
        partitions=_pieces(model.graph, frozenset(refused)),
        fallen=tuple(
            Fallen(operator=operator, count=count, why=why)
            for (operator, why), count in sorted(fallen.items())
        ),
    )


def _facts(model: onnx.ModelProto, folder: Path) -> Facts:
    """Return what `model`, read from `folder`, says of its tensors, and what follows from it."""
    known = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    types = {tensor.name: tensor.data_type for tensor in known.initializer}
    shapes: dict[str, tuple[int | None, ...]] = {t.name: tuple(t.dims) for t in known.initializer}
    for value in [*known.input, *known.value_info, *known.output]:
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            dims = tensor.shape.dim
            shapes[value.name] = tuple(
                d.dim_value if d.HasField("dim_value") else None for d in dims
            )
    external = {t.name for t in known.initializer if t.data_location == TensorProto.EXTERNAL}
    vectors = [t for t in known.initializer if len(t.dims) <= 1]  # zero points are no more
    return Facts(
        types=types,
        shapes=shapes,
        opset=next((o.version for o in model.opset_import if not o.domain), 1),
        constants=frozenset(tensor.name for tensor in known.initializer),
        zeros=frozenset(t.name for t in vectors if not numpy_helper.to_array(t, str(folder)).any()),
        external=frozenset(external),
        inputs=frozenset(value.name for value in known.input),
    )


def _pieces(graph: onnx.GraphProto, refused: frozenset[int]) -> int:
    """Count the pieces that the nodes which are not `refused` run in.

    A node joins the earliest piece in which all that it needs is there: the one of its producers,
    or the next where a refused node stands between.
    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/providers/partitioning_utils.cc
    """
    piece: dict[str, int] = {}  # from which on a tensor can be used; 0 what is given
    inside: set[str] = set()
    used: set[int] = set()
    for index, node in enumerate(graph.node):
        if index in refused:
            ready = max((piece.get(n, 0) + (n in inside) for n in node.input), default=0)
        else:
            ready = max((piece.get(n, 0) for n in node.input), default=0)
            used.add(ready)
            inside.update(node.output)
        piece.update(dict.fromkeys(node.output, ready))
    return len(used)
