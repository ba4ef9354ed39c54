"""What every target gives the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeslm.contract.base import Typed
from edgeslm.contract.manifest import (
    Coverage,
    Placement,
    Requirements,
    SessionSettings,
    Verified,
)
from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import ConfigError
from exporters.heads.base import FittedHead
from exporters.sources.base import Encoder

WEIGHTS: Final = "model.onnx.data"
"""External data of every graph of a variant: graphs of several lengths share it."""
ANYWHERE: Final = Placement()
"""No demand: for the CPU, which takes everything."""
T = TypeVar("T")
Feeds = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Plan:
    """One variant to make: a compiled form of the model for one provider.

    Args:
        name: of the variant: its folder in the bundle, and in the manifest.
        provider: key of edgeslm/providers/.
        precision: as manifests say it.
        requires: what a device must have to run it.
        placement: what its provider must take of it.
        lengths: fixed sequence lengths, ascending; empty: any length.
        emulated: an emulator judges it: on a sample, within the gate for that.
        recipe: how the target makes it, in the target's own terms, as a search has found it;
            None: as the profile says.
        session: how a device opens its graphs; None: as the provider does.
        fallback: made only where none before it, of its provider, keeps the gate: devices that
            could run it would run those.
    """

    name: str
    provider: str
    precision: str
    requires: Requirements
    placement: Placement = ANYWHERE
    lengths: tuple[int, ...] = ()
    emulated: bool = False
    recipe: Typed | None = None
    session: SessionSettings | None = None
    fallback: bool = False


class Workbench(Protocol):
    """What the pipeline lends a target: everything that the variants of a model share."""

    @property
    def encoder(self) -> Encoder: ...
    @property
    def max_tokens(self) -> int: ...

    def fit(self, model: onnx.ModelProto | None = None) -> FittedHead:
        """Return the head fitted on the embeddings of `model`; None: of the float32 encoder.

        A target whose numbers are near float32 takes the latter, which is fitted once for all.
        `model` has the interface of the encoder's, and runs on the CPU, a text at a time.
        """

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` gives, or has given to whoever asked for the same `key` before.

        Args:
            key: the content of all that the result depends on, and of nothing else; what is the
                same for all of one workbench aside.
            make: makes it; what it raises is raised each time.
        """

    def folder(self) -> Path:
        """Return a new folder for what is shared."""

    def calibration(self, texts: int) -> Sequence[Feeds]:
        """Return so many training texts as the model reads them: int64 [1, sequence], unpadded.

        They are drawn by label and length, the same ones every time.

        Raises:
            CalibrationError: there are too few, or hardly a word of theirs is in the vocabulary.
        """


@dataclass(frozen=True, slots=True)
class Compiled:
    """A variant in its folder.

    Args:
        head: whose parameters its graphs were made with.
        graphs: file names, in the order of the plan's lengths.
        verified: where it can run: here (silicon, emulated), or nowhere but checked (static). What
            says silicon is proved there alone where this machine is such a device.
        coverage: by graph, where it was found by a static check; else the runtime finds it.
        batch_invariant: a row's output does not depend on its batch, as proved on this machine.
        contexts: files that graphs refer to besides `WEIGHTS`: compiled contexts.
        twin: writes the same graphs with other kernels into a folder, for the CPU: how far they
            are apart is what a device may differ by. None: the profile says.
        notes: what the user should know, a sentence each.
    """

    head: FittedHead
    graphs: tuple[str, ...]
    verified: Verified
    coverage: Mapping[str, Coverage] = field(default_factory=dict)
    batch_invariant: bool = False
    contexts: tuple[str, ...] = ()
    twin: Callable[[Path], None] | None = None
    notes: tuple[str, ...] = ()


class Target(Protocol):
    """One module of exporters/targets/."""

    def plans(self, profile: DeviceProfile) -> Sequence[Plan]:
        """Return the variants that this profile asks for, best first.

        Raises:
            RejectedError: the profile asks for what cannot be: an unknown SoC, a missing tool.
        """

    def compile(
        self, plan: Plan, profile: DeviceProfile, workbench: Workbench, folder: Path
    ) -> Compiled:
        """Write the graphs of `plan`, heads included, into the empty `folder`.

        What profiles have in common is compiled once: of the profile nothing is read besides the
        provider's own section, and of the plan neither `requires` nor `placement`.

        Raises:
            RejectedError: the model cannot be compiled so.
        """


def section(profile: DeviceProfile, found: T | None, name: str) -> T:
    """Return what a profile says of a provider.

    Raises:
        ConfigError: nothing.
    """
    if found is None:
        remedy = f"Add it, or take `{name}` out of `providers`."
        file = f"profile {profile.name}"
        raise ConfigError(file, [(name, "missing")], remedy=remedy)
    return found
