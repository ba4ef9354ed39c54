"""What each node of a saved graph costs: multiply-adds of one inference, about.

Shapes come from one run on the CPU that keeps every tensor: ONNX Runtime knows them for each
operator that it runs, its own fused and quantised ones too, which no shape inference does.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime

from edgeslm.runtime.coverage import Costs
from edgeslm.runtime.tokenizer import INPUTS

NOMINAL_TOKENS: Final = 32
"""Length at which a graph of any length is counted; the same that budgets are for."""
CONTEXT: Final = "EPContext"
"""Node that hides what was compiled ahead of time."""
_FOLDER: Final = "session.model_external_initializers_file_folder_path"
_SILENT: Final = 4  # ONNX Runtime's log severity: what fails is raised as well

Shapes = Mapping[str, Sequence[int]]

# [.., m, k] @ [.., k, n]: every element of the output is a sum of k products.
_PRODUCTS: Final = frozenset({
    "DynamicQuantizeMatMul", "FusedMatMul", "Gemm", "MatMul", "MatMulInteger",
    "MatMulIntegerToFloat", "MatMulNBits", "QGemm", "QLinearMatMul",
})  # fmt: skip
# Attention of [batch, sequence, width], with its projections inside or without.
_PROJECTING: Final = frozenset({"Attention", "QAttention"})
_ATTENTIONS: Final = frozenset({*_PROJECTING, "GroupQueryAttention", "MultiHeadAttention"})
# Move, look up or reshape, and compute nothing.
_MOVES: Final = frozenset({
    "Cast", "Concat", "Constant", "ConstantOfShape", "Expand", "Flatten", "Gather",
    "GatherElements", "GatherND", "Identity", "Pad", "Range", "Reshape", "Shape", "Slice", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip


class UncountedError(ValueError):
    """The CPU does not run the graph, so nobody knows its shapes."""


def node_costs(graph: Path, *, tokens: int = NOMINAL_TOKENS) -> dict[str, int]:
    """Return the multiply-adds of each node of an ONNX graph, by name, for one text.

    Quantising, normalising and arithmetic count one for each element that goes in or comes out,
    moving none, and none what is made of constants alone: that is done before the first inference.

    Args:
        graph: its file, with external data beside it.
        tokens: length of the text, where the graph takes any.

    Raises:
        UncountedError: the CPU does not run it.
    """
    model = onnx.load(graph, load_external_data=False)
    constant = {"", *(tensor.name for tensor in model.graph.initializer)}
    shapes = _shapes(model, graph.parent, tokens)
    total: Counter[str] = Counter()
    for node in model.graph.node:
        if constant.issuperset(node.input):
            constant.update(node.output)
        else:
            total[node.name] += _cost(node, shapes)
    # Coverage counts each node by its name: those without one share what they cost.
    count = Counter(node.name for node in model.graph.node)
    return {name: total[name] // nodes for name, nodes in count.items()}


def write_costs(folder: Path, graphs: Sequence[str], file: str, *, original: Path) -> list[str]:
    """Write what the nodes of `graphs` cost into `file`, as `edgeslm.runtime.coverage` reads it.

    A node compiled ahead of time hides what is in it: it stands for the whole of `original`.

    Args:
        folder: of the variant.
        graphs: their names in it.
        file: name of the file to write there.
        original: graph in float32, of any length.

    Returns:
        A sentence for each graph that is not counted.
    """
    costs: Costs = {}
    notes = []
    for name in graphs:
        path = folder / name
        try:
            costs[f"{folder.name}/{name}"] = _context_costs(path, original) or node_costs(path)
        except UncountedError as err:
            notes.append(f"{folder.name}/{name}: its operations are not counted: {err}")
    (folder / file).write_text(json.dumps(costs, indent=0, sort_keys=True) + "\n", "utf-8")
    return notes


def _context_costs(graph: Path, original: Path) -> dict[str, int]:
    """Return what the nodes cost where some were compiled; nothing where none was."""
    loaded = onnx.load(graph, load_external_data=False).graph
    compiled = sum(node.op_type == CONTEXT for node in loaded.node)
    if not compiled:
        return {}
    [_, tokens] = _input_shape(loaded.input[0], NOMINAL_TOKENS)
    whole = sum(node_costs(original, tokens=tokens).values())
    share = whole // compiled
    return {node.name: share if node.op_type == CONTEXT else 0 for node in loaded.node}


def _shapes(model: onnx.ModelProto, folder: Path, tokens: int) -> dict[str, Sequence[int]]:
    """Run `model`, which has its external data in `folder`; return the shape of every tensor.

    Raises:
        UncountedError: the CPU does not run it.
    """
    feeds = {
        value.name: np.full(_input_shape(value, tokens), value.name == INPUTS[1], np.int64)
        for value in model.graph.input
    }
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    del kept.graph.output[:]
    names = [name for node in model.graph.node for name in node.output if name]
    kept.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.add_session_config_entry(_FOLDER, str(folder))
    try:
        session = onnxruntime.InferenceSession(
            kept.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        values = session.run(names, feeds)
    except Exception as err:  # noqa: BLE001 -- its errors share no narrower base
        why = (str(err).strip().splitlines() or [type(err).__name__])[0]
        raise UncountedError(why[:200]) from None
    shapes: dict[str, Sequence[int]] = {t.name: tuple(t.dims) for t in model.graph.initializer}
    shapes |= {name: value.shape for name, value in feeds.items()}
    return shapes | {name: v.shape for name, v in zip(names, values, strict=True)}


def _input_shape(value: onnx.ValueInfoProto, tokens: int) -> tuple[int, int]:
    """[1, sequence] of a graph's input; `tokens` where its length is free."""
    [_, sequence] = value.type.tensor_type.shape.dim
    return 1, sequence.dim_value or tokens


def _cost(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Return the multiply-adds of one node."""
    if node.op_type in _MOVES:
        return 0
    inputs = [shapes[name] for name in node.input if name]
    first, out = inputs[0], shapes[node.output[0]]
    if node.op_type in _PRODUCTS:
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(out) * first[-2 if transposed else -1]
    if node.op_type in _ATTENTIONS:
        batch, sequence, width = first
        between = 2 * batch * sequence * sequence * out[-1]
        inside = 3 * batch * sequence * width * out[-1]
        return between + (inside if node.op_type in _PROJECTING else 0)
    return max(map(math.prod, [out, *inputs]))
