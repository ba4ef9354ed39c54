"""What a figure was measured on and of: facts about the machine, never its name."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

ROOT: Final = Path(__file__).resolve().parent.parent
# Instruction sets that decide how fast int8 and fp32 run.
_FLAGS: Final = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


@cache
def facts() -> dict[str, object]:
    """Return CPU, cores, memory and versions, as the `machine` of a figure."""
    cpu = _cpuinfo()
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    return {
        "cpu": cpu.get("model name", platform.machine()),
        "arch": platform.machine(),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
    }


@cache
def commit() -> str:
    """Return the commit measured, with a `+` where the code that was run differs from it."""
    measured = ("edgeslm", "exporters", "benchmarks", "device-profiles")
    head = _git("rev-parse", "--short=12", "HEAD")
    return head + "+" if head and _git("status", "--porcelain", "--", *measured) else head


def _git(*args: str) -> str:
    """What git prints; empty where there is no git or no repository."""
    try:
        done = subprocess.run(("git", *args), cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _cpuinfo() -> dict[str, str]:
    """First processor of /proc/cpuinfo; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
