"""Intel's OpenVINO, run here; Apple's Core ML, by what it documents."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import bundles, cases
from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from benchmarks.stats import once, paired
from edgeslm.adapters.ort import hardware_problem
from edgeslm.contract.manifest import Artifact, Manifest
from edgeslm.ports import Request
from edgeslm.providers import openvino as provider
from edgeslm.runtime.coverage import share
from edgeslm.runtime.model import Model, load_model
from exporters.documented import CORE_ML
from exporters.static_check import static_coverage

_CASE: Final = "banking77"
_SMALL_CASE: Final = "snips"
_TEXTS: Final = 300
_QUICK_TEXTS: Final = 40
_TURN: Final = 20  # texts before the other's turn, as benchmarks/groups/int8.py says


def openvino(setup: Setup) -> dict[str, Measured]:
    """The bundle's static int8 on OpenVINO's processor device, beside its int8 on ours.

    Raises:
        RunFailedError: OpenVINO takes Intel's processors alone, and this is another's.
    """
    if why := provider.problem() or hardware_problem(provider.on("CPU")):
        raise RunFailedError(why)
    bundle = bundles.intent(setup, _CASE, profile="generic-openvino")
    theirs, ours = _variants(bundle)
    report = bundles.quality(bundle)["variants"][theirs]
    small, large = (report[which]["accuracy"] for which in ("artifact", "fp32"))
    models = [load_model(bundle, variant=name, golden=False) for name in (theirs, ours)]
    texts = [row.text for row in cases.rows(setup, _CASE, "eval")]
    texts = texts[: _QUICK_TEXTS if setup.quick else _TEXTS]
    spent: list[list[float]] = [[], []]
    for number in range(setup.rounds):
        setup.tell(f"round {number + 1} of {setup.rounds}")
        totals = [0.0, 0.0]
        for start in range(0, len(texts), _TURN):
            for which, model in enumerate(models):
                totals[which] += _cpu_seconds(model, texts[start : start + _TURN])
        for took, total in zip(spent, totals, strict=True):
            took.append(1e3 * total / len(texts))
    return {
        "openvino-nodes": once(100 * models[0].node_share, 100.0),
        "openvino-accuracy": once(small, large),
        "openvino-cpu": paired(*spent),
    }


def coreml(setup: Setup) -> dict[str, Measured]:
    """Share of the nodes that Core ML takes as ML Program, of the variant that comes first.

    Beside it the other variant as it lies in its file: on a device it is unpacked first.
    """
    bundle = bundles.small(setup, _SMALL_CASE, profile="apple-silicon")
    shares = [
        min(share(static_coverage(bundle / graph.path, CORE_ML)) for graph in _graphs(bundle, name))
        for name in _variants(bundle)[:2]
    ]
    first, other = (100 * least for least in shares)
    return {"coreml-nodes": once(first, other)}


def _variants(bundle: Path) -> list[str]:
    return [name for name in _manifest(bundle).variants() if name is not None]


def _graphs(bundle: Path, variant: str) -> list[Artifact]:
    return [a for a in _manifest(bundle).artifacts if a.role == "graph" and a.variant == variant]


def _manifest(bundle: Path) -> Manifest:
    return Manifest.model_validate_json((bundle / "manifest.json").read_bytes())


def _cpu_seconds(model: Model, texts: Sequence[str]) -> float:
    """Processor time of all threads, for texts answered one after another."""
    model.forget()
    begun = time.process_time()
    for text in texts:
        model.answer(Request(text))
    return time.process_time() - begun
