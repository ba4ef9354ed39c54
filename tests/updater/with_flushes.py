"""`edgeslm` on a system that flushes less than it is told to.

EDGESLM_TEST_FLUSHES says what is flushed: none, or only folders. A call that flushes nothing
returns at once, as if all were on the disk.
"""

from __future__ import annotations

import os
import runpy
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

_real = os.fsync
_which = os.environ.pop("EDGESLM_TEST_FLUSHES")


def _flush(fd: FileDescriptorLike) -> None:
    number = fd if isinstance(fd, int) else fd.fileno()
    if _which == "folders" and stat.S_ISDIR(os.fstat(number).st_mode):
        _real(number)


os.fsync = os.fdatasync = _flush
vars(os).update(O_DSYNC=0, O_SYNC=0)
runpy.run_module("edgeslm", run_name="__main__", alter_sys=True)
