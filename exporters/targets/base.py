"""What every target gives the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

import onnx

from edgeslm.contract.profile import DeviceProfile

GRAPH: Final = "model.onnx"
WEIGHTS: Final = "model.onnx.data"


class Target(Protocol):
    """One module of exporters/targets/."""

    PRECISION: str
    """Of what `quantize` returns, as manifests say it."""

    def quantize(self, encoder: onnx.ModelProto, profile: DeviceProfile) -> onnx.ModelProto:
        """Return `encoder`, float32, in this target's precision and with the same interface."""

    def save(
        self, model: onnx.ModelProto, folder: Path, profile: DeviceProfile, *, fused: bool = True
    ) -> None:
        """Write `model` as `GRAPH` and `WEIGHTS`, optimised as far as the profile allows.

        With `fused` false not at all: the same numbers by other kernels.
        """
