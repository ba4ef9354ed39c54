"""What a target's module gives to be tuned."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import onnx

from edgeslm.contract.base import Typed
from edgeslm.contract.profile import DeviceProfile
from exporters.targets.base import Plan

_NUMBER: Final = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Choice:
    """A recipe that can be tried.

    Args:
        name: for people; no two choices of a target share it.
        plan: what to compile; its recipe and session say all that is chosen.
    """

    name: str
    plan: Plan


class Tunable(Protocol):
    """The `tunable` of a target's module."""

    def choices(self, profile: DeviceProfile) -> Sequence[Choice]:
        """Return what to try, the most promising first, the profile's own before all."""

    def groups(self, choice: Choice, encoder: onnx.ModelProto) -> Mapping[str, Sequence[str]]:
        """Return the nodes that `choice` quantises, by groups that may be left in float32.

        Empty where that makes no sense.
        """

    def without(self, choice: Choice, nodes: Sequence[str]) -> Choice:
        """Return `choice` with these nodes, besides those it leaves already, in float32."""

    def settings(self, choice: Choice) -> Sequence[Choice]:
        """Return the same graph opened in other ways."""

    def read(self, provider: str, recipe: object) -> Typed:
        """Return the recipe that a lock file holds.

        Raises:
            pydantic.ValidationError: it is none.
        """


def by_kind(nodes: Iterable[str]) -> dict[str, list[str]]:
    """Return nodes by what they do: names that differ in their numbers alone are one group."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in nodes:
        found[_NUMBER.sub("*", name)].append(name)
    return dict(found)
