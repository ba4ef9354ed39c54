"""`edgeslm` that calls a thread stuck after a second."""

from __future__ import annotations

import runpy
from pathlib import Path

from edgeslm.agent import vitals

vitals.STUCK_S = 1.0  # type: ignore[misc] # a test has less patience
vitals.LOOK_S = 0.2  # type: ignore[misc]
runpy.run_path(str(Path(__file__).with_name("with_brittle.py")), run_name="__main__")
