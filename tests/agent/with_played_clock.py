"""`edgeslm` on a device whose clock is played: `PLAYED_CLOCK` names the folder that says how.

`by_s` there is what the wall clock is off by; `timesync/`, what systemd-timesyncd says.
"""

from __future__ import annotations

import os
import runpy
import time
from pathlib import Path

from edgeslm.adapters import clock

_FOLDER = Path(os.environ["PLAYED_CLOCK"])
_real = time.time
time.time = lambda: _real() + float((_FOLDER / "by_s").read_text())
# As under ProtectClock=: the kernel may not be asked.
clock._adjtimex = lambda: lambda _: -1  # type: ignore[assignment] # noqa: SLF001
clock._TIMESYNC = _FOLDER / "timesync"  # type: ignore[misc] # noqa: SLF001
runpy.run_path(str(Path(__file__).with_name("with_brittle.py")), run_name="__main__")
