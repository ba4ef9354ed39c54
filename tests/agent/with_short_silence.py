"""`edgeslm` whose agent waits for a word of its updater for two seconds."""

from __future__ import annotations

import runpy
from pathlib import Path

from edgeslm.agent import control

control.SILENCE_S = 2.0  # type: ignore[misc] # a test has less patience
runpy.run_path(str(Path(__file__).with_name("with_brittle.py")), run_name="__main__")
