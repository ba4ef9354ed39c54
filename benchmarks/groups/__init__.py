"""One module per kind of measurement; figures of one group share their exports and their runs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final, cast

from benchmarks.figures import Measured
from benchmarks.setup import Setup

# group: the module whose function of that name measures it; imported only when asked for, so
# that what is weighed does not share pages with what it does not need.
MODULES: Final = {
    "clinc150": "intent",
    "banking77": "intent",
    "snips": "intent",
    "few_banking77": "few",
    "few_snips": "few",
    "finetune_clinc150": "finetune",
    "finetune_banking77": "finetune",
    "finetune_snips": "finetune",
    "finetune_maintie": "finetune",
    "static": "static",
    "cascade": "cascade",
    "bgl": "anomaly",
    "skab": "streams",
    "adversarial": "anomaly",
    "adversarial_plant": "anomaly",
    "nab": "streams",
    "hdfs": "streams",
    "memory_cost": "streams",
    "feedback": "feedback",
    "drift": "drift",
    "repetition": "repetition",
    "plant": "throughput",
    "unrepeated": "throughput",
    "latency": "latency",
    "footprint": "footprint",
    "swap": "swap",
    "int8": "int8",
    "pruned": "distil",
    "distilled": "distil",
    "node": "node",
    "matrix": "matrix",
    "identical": "matrix",
    "arm": "arm",
    "npu_intent": "npu",
    "npu_anomaly": "npu",
    "tune": "tune",
    "olive": "tune",
    "push": "push",
    "push_head": "push",
    "idle": "idle",
    "flash": "flash",
    "soak": "soak",
    "long": "long",
    "package": "package",
    "boot": "boot",
    "fleet": "fleet",
    "fleet_bad": "fleet",
    "fleet_rough": "fleet",
    "fleet_page": "fleet_page",
    "fleet_rates": "fleet_rates",
    "provision": "provision",
    "openvino": "accelerators",
    "coreml": "accelerators",
}


def measure(group: str, setup: Setup) -> dict[str, Measured]:
    """Return the measurements of one group, by the name of the figure.

    Raises:
        EdgeSLMError: it could not be measured; says why.
    """
    module = import_module(f"{__name__}.{MODULES[group]}")
    run = cast("Callable[[Setup], dict[str, Measured]]", getattr(module, group))
    return run(setup)
