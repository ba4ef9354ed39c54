"""Intel's OpenVINO: static int8, by itself but for what leads out of GELU.

The processor takes texts of any length; the NPU needs fixed ones, so it gets a graph for each
bucket. What the plug-in does with the graph is its own: it is saved as written, not optimised.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgeslm.adapters.ort import hardware_problem
from edgeslm.contract.manifest import Verified
from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import RejectedError
from edgeslm.providers import openvino
from exporters.documented import OPENVINO, OPENVINO_NPU
from exporters.openvino_recipe import OpenVinoRecipe, apply, by_profile, planned
from exporters.shapes import fold, other_kernels, tabulate_mask
from exporters.static_check import static_coverage
from exporters.targets.base import Compiled, Plan, Workbench, section
from exporters.tune.openvino import OpenVinoTunable
from exporters.weights import save_graphs

tunable: Final = OpenVinoTunable()


class NoBucketsError(RejectedError):
    """Texts of any length are asked of a device that takes fixed shapes alone."""

    code = "target.no_buckets"


def plans(profile: DeviceProfile) -> Sequence[Plan]:
    """See `exporters.targets.base.Target.plans`.

    Raises:
        ConfigError: the profile has no [openvino] section.
        NoBucketsError: it names the NPU, and no buckets.
    """
    wanted = section(profile, profile.openvino, "openvino")
    if wanted.device == "NPU" and wanted.buckets is None:
        msg = (
            f"profile {profile.name}: openvino.device is the NPU, which takes fixed shapes alone: "
            "add openvino.buckets, such as [16, 32, 64, 128]"
        )
        raise NoBucketsError(msg)
    return [planned(profile, by_profile(wanted))]


def compile(  # noqa: A001 -- the port's word
    plan: Plan, profile: DeviceProfile, workbench: Workbench, folder: Path
) -> Compiled:
    """See `exporters.targets.base.Target.compile`.

    Raises:
        CalibrationError: too few training texts.
        DynamicShapeError: buckets are asked for, and the model's shapes cannot be fixed.
    """
    wanted = section(profile, profile.openvino, "openvino")
    recipe = plan.recipe
    assert isinstance(recipe, OpenVinoRecipe)  # noqa: S101 -- plans of this target have one
    small = apply(recipe, workbench.encoder.model, workbench.calibration)
    head = workbench.fit(small)
    whole = tabulate_mask(head.attach(small))
    graphs = {f"model-{n}.onnx": fold(whole, length=n) for n in plan.lengths} or {
        "model.onnx": whole
    }
    save_graphs(graphs, folder)
    verified: Verified = "silicon"
    coverage = {}
    if openvino.problem() or hardware_problem(openvino.on(wanted.device)):
        verified = "static"
        documented = OPENVINO_NPU if wanted.device == "NPU" else OPENVINO
        coverage = {name: static_coverage(folder / name, documented) for name in graphs}
    return Compiled(
        head,
        tuple(graphs),
        verified,
        coverage=coverage,
        twin=lambda other: save_graphs({n: other_kernels(g) for n, g in graphs.items()}, other),
    )
