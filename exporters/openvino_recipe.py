"""One way to quantise an encoder for OpenVINO: all that `--tune` can choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import onnx
from pydantic import Field

from edgeslm.contract.base import Typed
from edgeslm.contract.profile import DeviceProfile, OpenVinoTarget
from exporters.quantize import ffn_down, static_int8
from exporters.shapes import fold, tabulate_mask
from exporters.targets.base import Feeds, Plan, section

CALIBRATION_TEXTS: Final = 256


class OpenVinoRecipe(Typed):
    """See `apply`; the same recipe gives the same graph."""

    exclude: tuple[str, ...] = Field((), description="Nodes left in float32, by name.")
    gelu: bool = Field(False, description="What leads out of GELU is int8, too.")  # noqa: FBT003
    reduce_range: bool = Field(description="7-bit weights.")
    symmetric: bool = Field(
        False,  # noqa: FBT003
        description="Activations are signed, and have no zero point of their own.",
    )


def by_profile(wanted: OpenVinoTarget) -> OpenVinoRecipe:
    """Return the recipe that a profile asks for."""
    # Sums of two 8-bit products saturate on processors without VNNI. NNCF does the same:
    # https://openvinotoolkit.github.io/nncf/autoapi/nncf/quantization/advanced_parameters/index.html
    return OpenVinoRecipe(reduce_range=wanted.device == "CPU")


def planned(profile: DeviceProfile, recipe: OpenVinoRecipe) -> Plan:
    """Return the variant that is made by `recipe`.

    Raises:
        ConfigError: the profile has no [openvino] section.
    """
    wanted = section(profile, profile.openvino, "openvino")
    return Plan(
        "openvino-int8",
        "openvino",
        "int8-static",
        profile.requires.model_copy(update={"accelerator": wanted.device}),
        placement=profile.placement,
        lengths=wanted.buckets or (),
        recipe=recipe,
    )


def prepare(encoder: onnx.ModelProto) -> onnx.ModelProto:
    """Return `encoder` (float32, as exported) as it is before it is quantised."""
    return fold(tabulate_mask(encoder))


def left(recipe: OpenVinoRecipe, prepared: onnx.ModelProto) -> set[str]:
    """Return the names of the nodes that stay float32."""
    return {*recipe.exclude, *(() if recipe.gelu else ffn_down(prepared))}


def apply(
    recipe: OpenVinoRecipe, encoder: onnx.ModelProto, calibration: Callable[[int], Sequence[Feeds]]
) -> onnx.ModelProto:
    """Return `encoder` (float32, as exported) as the recipe says, its shapes free.

    Args:
        recipe: what to do.
        encoder: as exported.
        calibration: gives so many texts, as the encoder reads them.

    Raises:
        CalibrationError: texts are too few.
    """
    prepared = prepare(encoder)
    return static_int8(
        prepared,
        calibration(CALIBRATION_TEXTS),
        exclude=left(recipe, prepared),
        activation="int8" if recipe.symmetric else "uint8",
        reduce_range=recipe.reduce_range,
        symmetric=recipe.symmetric,
    )
