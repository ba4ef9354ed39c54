"""Intel's OpenVINO: static int8, but for what leads out of GELU.

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
from exporters.quantize import ffn_down, static_int8
from exporters.shapes import fold, other_kernels, tabulate_mask
from exporters.static_check import static_coverage
from exporters.targets.base import Compiled, Plan, Workbench, section
from exporters.weights import save_graphs

_CALIBRATION_TEXTS: Final = 256


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
    return [
        Plan(
            "openvino-int8",
            "openvino",
            "int8-static",
            profile.requires.model_copy(update={"accelerator": wanted.device}),
            placement=profile.placement,
            lengths=wanted.buckets or (),
        )
    ]


def compile(  # noqa: A001 -- the port's word
    plan: Plan, profile: DeviceProfile, workbench: Workbench, folder: Path
) -> Compiled:
    """See `exporters.targets.base.Target.compile`.

    Raises:
        CalibrationError: too few training texts.
        DynamicShapeError: buckets are asked for, and the model's shapes cannot be fixed.
    """
    wanted = section(profile, profile.openvino, "openvino")
    encoder = fold(tabulate_mask(workbench.encoder.model))
    small = static_int8(
        encoder,
        workbench.calibration(_CALIBRATION_TEXTS),
        exclude=ffn_down(encoder),
        # Sums of two 8-bit products saturate on processors without VNNI. NNCF does the same:
        # https://openvinotoolkit.github.io/nncf/autoapi/nncf/quantization/advanced_parameters/index.html
        reduce_range=wanted.device == "CPU",
    )
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
