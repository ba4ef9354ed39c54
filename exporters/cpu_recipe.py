"""One way to compile an encoder for ONNX Runtime's own kernels: all that `--tune` can choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)
from pydantic import Field

from edgeslm.contract.base import Typed
from edgeslm.contract.profile import CpuTarget
from exporters.lean import Form, rewrite
from exporters.qoperators import static_operators
from exporters.quantize import dynamic_int8, ffn_down, quantizable, quietly, static_int8
from exporters.targets.base import Feeds

Precision = Literal["int8-dynamic", "int8-static", "int8-weights", "fp32"]
CALIBRATION_TEXTS: Final = 128
_BITS: Final = 8
_WIDE: Final = 16
_BLOCK: Final = 128  # weights of one scale; kernels for 32 take half as long again
_INT8_SUMS: Final = 4  # MatMulNBits's accuracy level: activations as int8, a scale for each block


class CpuRecipe(Typed):
    """See `apply`; the same recipe gives the same graph."""

    precision: Precision
    form: Form = "plain"
    exclude: tuple[str, ...] = Field((), description="Nodes left in float32, by name.")
    level: Literal["none", "basic", "extended"] = Field(
        "extended", description="Of ONNX Runtime's rewriting, when the graph is saved."
    )
    norm_apart: bool = Field(
        False,  # noqa: FBT003
        description="LayerNorm and the sum before it stay two nodes, whose kernels are faster.",
    )
    per_channel: bool = True
    reduce_range: bool = False
    gelu_bits: Literal[8, 16] = Field(
        8, description="Of activations that lead out of GELU: int8-static, as exported."
    )


def by_profile(
    section: CpuTarget, precision: Precision, *, form: Form = "lean", norm_apart: bool = True
) -> CpuRecipe:
    """Return the recipe that a profile asks for.

    Measured on an AMD EPYC with AVX512-VNNI, MiniLM, texts of 16 to 32 tokens, alone: static int8
    takes .84 of the time of the plain form if lean, dynamic .82; norms apart are half of that.
    """
    return CpuRecipe(
        precision=precision,
        form=form,
        norm_apart=norm_apart,
        level=section.graph_optimization,
        per_channel=section.int8.per_channel,
        reduce_range=section.int8.reduce_range,
    )


def apply(
    recipe: CpuRecipe, encoder: onnx.ModelProto, calibration: Callable[[int], Sequence[Feeds]]
) -> onnx.ModelProto:
    """Return `encoder` (float32) as the recipe says, not yet saved.

    Args:
        recipe: what to do.
        encoder: as exported.
        calibration: gives so many texts, as the encoder reads them.

    Raises:
        NotLeanError: the recipe's form is not known for this encoder.
        CalibrationError: texts are too few for static int8.
    """
    model = rewrite(encoder, recipe.form)
    exclude = frozenset(recipe.exclude)
    match recipe.precision:
        case "fp32":
            return model
        case "int8-dynamic":
            return dynamic_int8(
                model,
                per_channel=recipe.per_channel,
                reduce_range=recipe.reduce_range,
                exclude=exclude,
            )
        case "int8-static":
            inputs = {value.name for value in model.graph.input}
            feeds = [
                {name: value for name, value in feed.items() if name in inputs}
                for feed in calibration(CALIBRATION_TEXTS)
            ]
            if recipe.form == "plain":
                return static_int8(
                    model,
                    feeds,
                    exclude=exclude,
                    per_channel=recipe.per_channel,
                    reduce_range=recipe.reduce_range,
                    options=_wide(model) if recipe.gelu_bits == _WIDE else None,
                )
            return static_operators(
                model,
                feeds,
                exclude=exclude,
                per_channel=recipe.per_channel,
                reduce_range=recipe.reduce_range,
            )
        case "int8-weights":
            return _weights(model, recipe)


def _wide(model: onnx.ModelProto) -> dict[str, Any]:
    """Say to the quantiser that what leads out of GELU has 16 bits."""
    down = ffn_down(model)
    read = sorted({node.input[0] for node in model.graph.node if node.name in down})
    return {"TensorQuantOverrides": {name: [{"quant_type": QuantType.QUInt16}] for name in read}}


def _weights(model: onnx.ModelProto, recipe: CpuRecipe) -> onnx.ModelProto:
    """Weights in 8 bits, a scale for each block of them; embeddings a scale for each table."""
    multiplied = {node.name for node in model.graph.node if node.op_type != "Gather"}
    small = dynamic_int8(
        model,
        per_channel=recipe.per_channel,
        reduce_range=False,
        exclude=multiplied | set(recipe.exclude),
    )
    config = DefaultWeightOnlyQuantConfig(
        block_size=_BLOCK, is_symmetric=True, accuracy_level=_INT8_SUMS, bits=_BITS
    )
    left = [name for name in quantizable(small) if name in recipe.exclude]
    with quietly():
        quantiser = MatMulNBitsQuantizer(small, algo_config=config, nodes_to_exclude=left)
        quantiser.process()
    found: onnx.ModelProto = quantiser.model.model
    return found
