"""`edgeslm`, with the tests' own tasks, where nothing is that Linux alone has: as on macOS."""

from __future__ import annotations

import os
import runpy
import select
import socket
from pathlib import Path

for module, name in (
    (os, "sched_getaffinity"),
    (os, "posix_fadvise"),
    (select, "epoll"),
    (socket, "SOCK_CLOEXEC"),
    (socket, "TCP_QUICKACK"),
):
    delattr(module, name)

from edgeslm.adapters import process, ring  # noqa: E402 -- they must not find it at import either

for module, name in ((process, "PROC"), (ring, "_BOOT")):
    setattr(module, name, Path("/nowhere"))
runpy.run_path(str(Path(__file__).with_name("with_brittle.py")), run_name="__main__")
