"""Rewrites that accelerators need: fixed shapes, masks looked up in a table, float16.

Each gives a graph that computes the same: shapes are folded by ONNX Runtime, and a mask becomes a
table only where running the graph proves it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgeslm.errors import RejectedError
from edgeslm.runtime.tokenizer import INPUTS
from exporters.room import temporary
from exporters.sources.base import drop_unused
from exporters.targets.base import Feeds

MASK: Final = INPUTS[1]
MASKED: Final = -1e4
"""What is added to a padded token's score: softmax leaves nothing of it, and it fits into float16,
which ends at 65504. Exported encoders have float32's least, -3.4e38."""
_BASIC: Final = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
_ERRORS_ONLY: Final = 3  # ONNX Runtime's log severity
_SHAPE_ONLY: Final = frozenset({"Shape", "Size"})  # do not look at values
_STRETCHING: Final = frozenset({"Add", "Mul", "Sub", "Where"})  # broadcast what they are given
# MatMul and Add would become Gemm and two Reshapes; quantised tensors would be copied and moved.
_LEFT_OUT: Final = ["MatMulAddFusion", "EnsureUniqueDQForNodeUnit", "QDQPropagationTransformer"]
_TRIES: Final = ((3, 7), (1, 5))  # [batch, sequence] on which a table is proved
_HALF_MAX: Final = float(np.finfo(np.float16).max)
_SAFETY: Final = 2.0  # times the largest value seen: other texts have larger ones


class DynamicShapeError(RejectedError):
    """A tensor has no fixed shape, on a target that needs one of each."""

    code = "target.dynamic_shape"


class BucketError(RejectedError):
    """A sequence length of the profile is longer than the model takes."""

    code = "target.bucket"


class HalfOverflowError(RejectedError):
    """Values of the model come near the end of float16, or pass it."""

    code = "target.float16_overflow"


def fold(model: onnx.ModelProto, *, length: int | None = None) -> onnx.ModelProto:
    """Return float32 `model` with everything computed that is constant, and nothing fused.

    Args:
        model: inputs int64 [batch, sequence], both free.
        length: of all texts, which come one at a time; None: both stay free.

    Raises:
        DynamicShapeError: with `length`, a shape is left that depends on the text.
        BucketError: the model does not take so many tokens.
    """
    if length is None:
        return _folded(model)
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    set_shape(fixed, length)
    try:
        folded = _folded(fixed)
    except Exception as err:  # noqa: BLE001 -- ONNX Runtime's errors share no narrower base
        why = str(err).splitlines()[0][:200]
        msg = (
            f"the model does not take texts of {length} tokens: {why}. Leave that length out of "
            "`buckets` in the profile."
        )
        raise BucketError(msg) from None
    check_static(folded)
    return folded


def unpack_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with its int8 weights as float32, as a session without QDQ unpacks them."""
    return _folded(model, {"session.disable_quant_qdq": "1"})


def other_kernels(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` fused for the CPU: the same sums by other kernels, in integers where it can.

    How far that is from `model` as it is written says how far a device may be from either.
    """
    return _folded(model, level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)


def _folded(
    model: onnx.ModelProto,
    config: Mapping[str, str] | None = None,
    level: onnxruntime.GraphOptimizationLevel = _BASIC,
) -> onnx.ModelProto:
    """Let ONNX Runtime compute what is constant, and more at a higher level."""
    options = _options(level)
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    with temporary() as folder:
        options.optimized_model_filepath = str(folder / "folded.onnx")
        onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=_LEFT_OUT,
        )
        folded = onnx.load(options.optimized_model_filepath)
    used = {node.domain for node in folded.graph.node} | {""}
    opsets = [opset for opset in folded.opset_import if opset.domain in used]
    del folded.opset_import[:]
    folded.opset_import.extend(opsets)
    return folded


def set_shape(model: onnx.ModelProto, length: int) -> None:
    """Fix batch at 1 and sequence at `length` in the inputs and outputs of `model`."""
    sequence = model.graph.input[0].type.tensor_type.shape.dim[1].dim_param
    for value in [*model.graph.input, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_value = length if dim.dim_param == sequence else 1
    del model.graph.value_info[:]


def check_static(model: onnx.ModelProto) -> None:
    """Make sure that every tensor has a fixed shape.

    Raises:
        DynamicShapeError: names the first nodes whose output has none.
    """
    known = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    fixed = {
        value.name
        for value in [*known.value_info, *known.input, *known.output]
        if value.type.tensor_type.HasField("shape")
        and all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }
    free = [n for n in known.node if any(name and name not in fixed for name in n.output)]
    if free:
        names = ", ".join(f"{node.name} ({node.op_type})" for node in free[:3])
        msg = (
            f"{len(free)} of {len(known.node)} nodes have no fixed shape, which this target needs: "
            f"{names}. Export the encoder so that shapes follow from those of its inputs."
        )
        raise DynamicShapeError(msg)


def tabulate_mask(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with what it makes of the attention mask looked up in tables of two values.

    Exporters compute the mask by integers, comparisons and infinities, which accelerators do not
    take, or round badly. What depends on the mask alone is one value where a token is real and one
    where it is padding: a Gather, after which all is floating point. Values below `MASKED` become
    it. A tensor that runs do not prove to be such a table stays as it is.
    """
    tables = _proved(model, _mask_ends(model))
    tabled = onnx.ModelProto()
    tabled.CopyFrom(model)
    graph = tabled.graph
    nodes: list[onnx.NodeProto] = []
    for name, (axes, values) in tables.items():
        row = f"{name}/row" if axes else name
        graph.initializer.append(numpy_helper.from_array(values, f"{name}/table"))
        nodes.append(helper.make_node("Gather", [f"{name}/table", MASK], [row], name=row))
        if axes:
            graph.initializer.append(numpy_helper.from_array(np.array(axes), f"{name}/axes"))
            inputs = [row, f"{name}/axes"]
            nodes.append(helper.make_node("Unsqueeze", inputs, [name], name=name))
    kept = [node for node in graph.node if tables.keys().isdisjoint(node.output)]
    del graph.node[:]
    graph.node.extend([*nodes, *kept])
    del graph.value_info[:]  # shapes of masks that were expanded
    drop_unused(graph)
    return tabled


def _mask_ends(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Return what depends on the mask alone (and on shapes), and the operators that mix it."""
    depends: dict[str, frozenset[str]] = {v.name: frozenset({v.name}) for v in model.graph.input}
    ends: defaultdict[str, list[str]] = defaultdict(list)
    for node in model.graph.node:
        inputs = [] if node.op_type in _SHAPE_ONLY else [n for n in node.input if n in depends]
        on = frozenset().union(*(depends[name] for name in inputs))
        for name in inputs:
            if depends[name] == {MASK} != on and name != MASK:
                ends[name].append(node.op_type)
        if on:
            depends.update(dict.fromkeys(node.output, on))
    return dict(ends)


Table = tuple[list[int], NDArray[np.generic]]
"""Axes to add to [batch, sequence]; the values of padding and of a real token."""


def _proved(model: onnx.ModelProto, ends: Mapping[str, Sequence[str]]) -> dict[str, Table]:
    """Run `model` on masks; return the table of each tensor in `ends` that is one."""
    if not ends:
        return {}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ends)
    session = _session(probe)
    random = np.random.default_rng(0)
    found: dict[str, set[tuple[tuple[int, ...], bytes]]] = {name: set() for name in ends}
    tables: dict[str, Table] = {}
    for free in _TRIES:
        given = model.graph.input[0].type.tensor_type.shape.dim
        shape = tuple(d.dim_value or size for d, size in zip(given, free, strict=True))
        mask = random.integers(0, 2, shape)
        mask[:, 0], mask[:, -1] = 1, 0
        feeds = {v.name: np.zeros(shape, np.int64) for v in model.graph.input} | {MASK: mask}
        for name, value in zip(ends, session.run(list(ends), feeds), strict=True):
            table = _table(value, mask, stretched=_STRETCHING.issuperset(ends[name]))
            key = ((), b"") if table is None else (tuple(table[0]), table[1].tobytes())
            found[name].add(key)
            if table is not None:
                tables[name] = table
    return {name: table for name, table in tables.items() if len(found[name]) == 1}


def _table(value: NDArray[np.generic], mask: NDArray[np.int64], *, stretched: bool) -> Table | None:
    """Return the table that makes `value` of `mask`; None where none does.

    Args:
        value: of any rank, the batch first.
        mask: int64 [batch, sequence].
        stretched: what uses `value` would stretch it over axes along which it does not change.
    """
    batch, sequence = mask.shape
    for axis in range(1, value.ndim):
        others = [i for i in range(1, value.ndim) if i != axis]
        thin = value[tuple(slice(1) if i in others else slice(None) for i in range(value.ndim))]
        if thin.size != mask.size or value.shape[0] != batch or value.shape[axis] != sequence:
            continue
        row = thin.reshape(mask.shape)
        pads, reals = row[mask == 0], row[mask == 1]
        alike = (pads == pads[0]).all() and (reals == reals[0]).all()
        same = np.array_equal(value, np.broadcast_to(thin, value.shape))
        if alike and same and (stretched or thin.shape == value.shape):
            values = np.array([pads[0], reals[0]])
            if np.issubdtype(values.dtype, np.floating):
                values = np.maximum(values, np.array(MASKED, values.dtype))
            return others, values
    return None


def check_half(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> None:
    """Make sure that float32 `model`, its masks tabulated, has room enough in float16.

    Args:
        model: what is to become float16.
        feeds: texts to try it on.

    Raises:
        HalfOverflowError: a value comes near the end of float16; names the tensor.
    """
    name, value = max(_largest(model, feeds).items(), key=lambda item: item[1])
    if value * _SAFETY > _HALF_MAX:
        msg = (
            f"float16 ends at {_HALF_MAX:.0f}, and {name} reaches {value:.3g} on training texts: "
            f"less than {_SAFETY:.0f} times are left. Export this model in int8 or float32."
        )
        raise HalfOverflowError(msg)


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return float32 `model` in float16, its inputs and outputs as they are."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    made: onnx.ModelProto = convert_float_to_float16(
        copy, keep_io_types=True, disable_shape_infer=True, op_block_list=[]
    )
    del made.graph.value_info[:]  # of float32 tensors
    return made


def _largest(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> dict[str, float]:
    """Return the largest absolute value of each float32 tensor and weight of `model`."""
    found = {
        tensor.name: float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    names = [name for node in model.graph.node for name in node.output if name]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = _session(probe)
    inputs = {value.name for value in session.get_inputs()}
    for feed in feeds:
        values = session.run(names, {k: v for k, v in feed.items() if k in inputs})
        for name, value in zip(names, values, strict=True):
            if value.dtype == np.float32:
                largest = float(np.abs(value).max(initial=0.0))
                found[name] = max(found.get(name, 0.0), largest)
    return found


def widen_look_ups(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with int64 in tables of int32, as one that leads words to others has."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    looked_up = {node.input[0] for node in wide.graph.node if node.op_type == "Gather"}
    for tensor in wide.graph.initializer:
        if tensor.data_type == TensorProto.INT32 and tensor.name in looked_up:
            values = numpy_helper.to_array(tensor).astype(np.int64)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return wide


def spell_out_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with each ReduceL2 as what it stands for, which more providers take."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.node[:]
    for node in model.graph.node:
        if node.op_type != "ReduceL2":
            plain.graph.node.append(node)
            continue
        value, *axes = node.input
        square, total = f"{node.name}/square", f"{node.name}/sum"
        plain.graph.node.extend(
            [
                helper.make_node("Mul", [value, value], [square], name=square),
                onnx.NodeProto(
                    op_type="ReduceSum",
                    input=[square, *axes],
                    output=[total],
                    name=total,
                    attribute=node.attribute,
                ),
                helper.make_node("Sqrt", [total], node.output, name=node.name),
            ]
        )
    return plain


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Run on the CPU what is asked for and as it is written."""
    options = _options(onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _options(level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = 1
    return options
