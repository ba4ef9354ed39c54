"""`edgeslm` on a device whose clock is off by so many seconds: EDGESLM_TEST_CLOCK_S."""

from __future__ import annotations

import os
import runpy
import time
from pathlib import Path

from edgeslm.updater import broker

_real = time.time
_off = float(os.environ.pop("EDGESLM_TEST_CLOCK_S"))
time.time = lambda: max(0.0, _real() + _off)
broker.TIME_S = 3.0  # type: ignore[misc]
runpy.run_path(str(Path(__file__).parents[1] / "agent" / "with_brittle.py"), run_name="__main__")
