"""`edgeslm` on a device whose wall clock jumps forth and back at each look."""

from __future__ import annotations

import itertools
import runpy
import time
from pathlib import Path

_real = time.time
_jumps = itertools.cycle([0.0, 1e9, -1e9])
time.time = lambda: _real() + next(_jumps)
runpy.run_path(str(Path(__file__).parents[1] / "agent" / "with_brittle.py"), run_name="__main__")
