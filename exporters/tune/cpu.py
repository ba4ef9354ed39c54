"""The recipes of ONNX Runtime's own kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import onnx

from edgeslm.adapters.process import cores
from edgeslm.contract.base import Typed
from edgeslm.contract.manifest import SessionSettings
from edgeslm.contract.profile import DeviceProfile
from exporters.cpu_recipe import CpuRecipe, Precision, by_profile
from exporters.lean import Form, NotLeanError, rewrite
from exporters.quantize import quantizable
from exporters.targets.base import Plan, section
from exporters.tune.space import Choice, by_kind

# The most promising first, as measured on x86-64 with VNNI: time may run out.
_TRIED: Final[Sequence[tuple[Precision, Form, bool]]] = (
    ("int8-static", "lean", True),
    ("int8-static", "lean-tanh", True),
    ("int8-dynamic", "lean", True),
    ("int8-dynamic", "lean-tanh", True),
    ("int8-dynamic", "plain", True),
    ("int8-static", "plain", True),
    ("fp32", "lean", True),
    ("int8-weights", "plain", True),
    ("int8-dynamic", "lean", False),
    ("fp32", "plain", False),
)
_BITS: Final = 8


class CpuTunable:
    """Implements `exporters.tune.space.Tunable`."""

    def choices(self, profile: DeviceProfile) -> Sequence[Choice]:
        """See `Tunable.choices`."""
        said = section(profile, profile.cpu, "cpu")
        own = [by_profile(said, precision) for precision in said.precisions]
        tried = [
            by_profile(said, precision, form=form, norm_apart=apart)
            for precision, form, apart in _TRIED
        ]
        basic = tried[0].model_copy(update={"level": "basic"})
        # Mixed: no kernel here multiplies 16 bits as integers, so it comes last.
        wide = by_profile(said, "int8-static", form="plain")
        wide = wide.model_copy(update={"gelu_bits": 16})
        return [_choice(profile, recipe) for recipe in dict.fromkeys([*own, *tried, basic, wide])]

    def groups(self, choice: Choice, encoder: onnx.ModelProto) -> Mapping[str, Sequence[str]]:
        """By what a node does; none where activations are not of 8 bits, which is what hurts."""
        recipe = _recipe(choice)
        if recipe.precision not in {"int8-static", "int8-dynamic"} or recipe.gelu_bits != _BITS:
            return {}
        with contextlib.suppress(NotLeanError):  # then it is compiled as exported
            encoder = rewrite(encoder, recipe.form)
        return by_kind(name for name in quantizable(encoder) if name not in recipe.exclude)

    def without(self, choice: Choice, nodes: Sequence[str]) -> Choice:
        """See `Tunable.without`."""
        recipe = _recipe(choice)
        exclude = tuple(sorted({*recipe.exclude, *nodes}))
        left = recipe.model_copy(update={"exclude": exclude})
        return Choice(_name(left, choice.plan.session), replace(choice.plan, recipe=left))

    def settings(self, choice: Choice) -> Sequence[Choice]:
        """Several threads for one text, and denormals as zero."""
        several = [SessionSettings(threads=n, spinning=False) for n in (2, 4) if n <= cores()]
        return [
            Choice(_name(_recipe(choice), session), replace(choice.plan, session=session))
            for session in (SessionSettings(flush_denormals=True), *several)
        ]

    def read(self, provider: str, recipe: object) -> Typed:
        """See `Tunable.read`."""
        del provider
        return CpuRecipe.model_validate(recipe, strict=False)


def _choice(profile: DeviceProfile, recipe: CpuRecipe) -> Choice:
    plan = Plan(f"cpu-{recipe.precision}", "cpu", recipe.precision, profile.requires, recipe=recipe)
    return Choice(_name(recipe, None), plan)


def _recipe(choice: Choice) -> CpuRecipe:
    recipe = choice.plan.recipe
    assert isinstance(recipe, CpuRecipe)  # noqa: S101 -- all of ours have one
    return recipe


def _name(recipe: CpuRecipe, session: SessionSettings | None) -> str:
    parts: list[str] = [recipe.precision, recipe.form]
    if recipe.norm_apart:
        parts.append("norms apart")
    if recipe.gelu_bits != _BITS:
        parts.append(f"{recipe.gelu_bits} bits out of GELU")
    if recipe.level != "extended":
        parts.append(recipe.level)
    if recipe.exclude:
        parts.append(f"but {len(recipe.exclude)} nodes")
    if session is not None and session.threads > 1:
        parts.append(f"{session.threads} threads")
    if session is not None and session.flush_denormals:
        parts.append("no denormals")
    return ", ".join(parts)
