"""`edgeslm` on a device that reads what a file says, and for whom seconds are moments."""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path

from edgeslm.adapters import gauges
from edgeslm.core import pressure
from edgeslm.core.pressure import Reading

FILE = Path(os.environ["GAUGE"])


def read() -> Reading:
    return Reading(**json.loads(FILE.read_text()))


gauges.read = read
gauges.SAMPLE_S = 0.05  # type: ignore[misc] # a test has less patience
pressure.RISE_S = pressure.WORSEN_S = pressure.FALL_S = 0.4  # type: ignore[misc]
runpy.run_path(str(Path(__file__).with_name("with_brittle.py")), run_name="__main__")
