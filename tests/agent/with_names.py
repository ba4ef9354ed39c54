"""`edgeslm` that anybody may trace, and whose threads tell the system the names they have here."""

from __future__ import annotations

import ctypes
import runpy
import threading
from pathlib import Path

PR_SET_NAME = 15
PR_SET_PTRACER = 0x59616D61  # some systems let a process be traced by its ancestors alone
_libc = ctypes.CDLL(None)
_run = threading.Thread.run


def run(self: threading.Thread) -> None:
    """Take as much of the name as there is room for; of two long ones the ends differ."""
    _libc.prctl(PR_SET_NAME, self.name[-15:].encode(), 0, 0, 0)
    _run(self)


_libc.prctl(PR_SET_PTRACER, ctypes.c_long(-1), 0, 0, 0)
threading.Thread.run = run  # type: ignore[method-assign]
runpy.run_path(str(Path(__file__).with_name("with_brittle.py")), run_name="__main__")
