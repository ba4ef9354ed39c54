"""The recipes of OpenVINO's plug-in: what it makes of a graph is its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import onnx

from edgeslm.contract.base import Typed
from edgeslm.contract.profile import DeviceProfile
from exporters.openvino_recipe import OpenVinoRecipe, by_profile, left, planned, prepare
from exporters.quantize import quantizable
from exporters.targets.base import Plan, section
from exporters.tune.space import Choice, by_kind

_VNNI: Final = frozenset({"avx512_vnni", "avx_vnni"})  # as /proc/cpuinfo says them


class OpenVinoTunable:
    """Implements `exporters.tune.space.Tunable`."""

    def choices(self, profile: DeviceProfile) -> Sequence[Choice]:
        """With what reads GELU's outputs or without, with zero points or without, 7 or 8 bits.

        8-bit weights on a processor only where the profile promises VNNI: without it sums saturate,
        which a search on a machine that has it would not see.
        """
        wanted = section(profile, profile.openvino, "openvino")
        own = by_profile(wanted)
        tried = [
            own.model_copy(update={"gelu": gelu, "symmetric": symmetric})
            for symmetric in (False, True)
            for gelu in (False, True)
        ]
        if wanted.device != "CPU" or _promises_vnni(profile):
            bits = {"reduce_range": not own.reduce_range}
            tried += [recipe.model_copy(update=bits) for recipe in tried]
        return [_choice(planned(profile, recipe), recipe) for recipe in tried]

    def groups(self, choice: Choice, encoder: onnx.ModelProto) -> Mapping[str, Sequence[str]]:
        """By what a node does."""
        recipe, prepared = _recipe(choice), prepare(encoder)
        kept = left(recipe, prepared)
        return by_kind([name for name in quantizable(prepared) if name not in kept])

    def without(self, choice: Choice, nodes: Sequence[str]) -> Choice:
        """See `Tunable.without`."""
        recipe = _recipe(choice)
        exclude = tuple(sorted({*recipe.exclude, *nodes}))
        return _choice(choice.plan, recipe.model_copy(update={"exclude": exclude}))

    def settings(self, choice: Choice) -> Sequence[Choice]:
        """None: a graph says nothing of how the plug-in opens it."""
        del choice
        return []

    def read(self, provider: str, recipe: object) -> Typed:
        """See `Tunable.read`."""
        del provider
        return OpenVinoRecipe.model_validate(recipe, strict=False)


def _promises_vnni(profile: DeviceProfile) -> bool:
    """Whether every device of the profile has VNNI."""
    requires = profile.requires
    any_of = frozenset(requires.cpu_features_any)
    return bool(_VNNI.intersection(requires.cpu_features)) or (bool(any_of) and any_of <= _VNNI)


def _choice(plan: Plan, recipe: OpenVinoRecipe) -> Choice:
    parts = ["int8-static", f"{7 if recipe.reduce_range else 8}-bit weights"]
    if recipe.gelu:
        parts.append("GELU's readers, too")
    if recipe.symmetric:
        parts.append("symmetric")
    if recipe.exclude:
        parts.append(f"but {len(recipe.exclude)} nodes")
    return Choice(", ".join(parts), replace(plan, recipe=recipe))


def _recipe(choice: Choice) -> OpenVinoRecipe:
    recipe = choice.plan.recipe
    assert isinstance(recipe, OpenVinoRecipe)  # noqa: S101 -- all of ours have one
    return recipe
