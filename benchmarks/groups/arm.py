"""A bundle for a Raspberry Pi, run as one under qemu-user, against the same bundle on x86."""

from __future__ import annotations

import json

from benchmarks import bundles, cases
from benchmarks.arm import PROFILE, arm_machine
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from edgeslm.ports import Request
from edgeslm.runtime.model import load_model

_TEXTS = 100
_TIMEOUT_S = 1200.0


def arm(setup: Setup) -> dict[str, Measured]:
    """100 texts of BANKING77 that are not in its training part, by `edgeslm infer` on either."""
    machine = arm_machine(setup.cache)
    setup.tell(f"exporting BANKING77 for {PROFILE}")
    bundle = bundles.intent(setup, "banking77", profile=PROFILE)
    unseen = cases.rows(setup, "banking77", "eval")
    texts = [row.text for row in unseen[:: max(1, len(unseen) // _TEXTS)]][:_TEXTS]
    if setup.quick:
        texts = texts[::10]
    setup.tell(f"{len(texts)} texts on a Cortex-A72, emulated")
    asked = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    argv = ["-m", "edgeslm", "infer", str(bundle)]
    said = machine.run(argv, stdin=asked, timeout_s=_TIMEOUT_S).splitlines()
    there = [json.loads(line)["label"] for line in said]
    model = load_model(bundle, stand_in="cpu")
    here = [model.answer(Request(text)).label for text in texts]
    alike = 100 * sum(a == b for a, b in zip(there, here, strict=True)) / len(texts)
    return {"arm-agreement": Measured(alike, 100.0, (alike, alike))}
