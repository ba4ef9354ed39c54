"""What sharing saves: six profiles in one matrix against six exports, process starts included."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from benchmarks import cases
from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from benchmarks.stats import paired
from edgeslm.demo.bundles import WEIGHTS_PACKAGE
from edgeslm.demo.processes import clean_environment

# Six that need no emulator and no package besides the exporter's own.
PROFILES: Final = (
    "generic-x86_64",
    "generic-x86_64-avx2",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "imx8mp",
    "jetson-orin-nano",
)
_CASE: Final = "clinc150"
_TRAIN, _JUDGED = 600, 200  # texts: a first model of somebody's own
_ROUNDS: Final = 3
_LIMIT_S: Final = 1800.0


def matrix(setup: Setup) -> dict[str, Measured]:
    """Both find the float32 encoder exported, as every export after the first one does."""
    data = _write(setup, "train", _TRAIN)
    judged = _write(setup, "eval", _JUDGED)
    options = (
        *("intent", "--model", f"package:{WEIGHTS_PACKAGE}", "--data", str(data)),
        *("--eval", str(judged), "--name", "measured", "--version", "1", "--allow-drop"),
    )
    setup.tell("exporting the encoder")
    _run(setup, (*options, "--profile", PROFILES[0]), "first")
    ours, theirs = [], []
    for number in range(min(_ROUNDS, setup.rounds)):
        tell = f"round {number + 1}"
        setup.tell(f"{tell}: the matrix")
        many = ("matrix", "--profiles", ",".join(PROFILES), *options)
        ours.append(_run(setup, many, f"matrix-{number}"))
        spent = 0.0
        for profile in PROFILES:
            setup.tell(f"{tell}: {profile} alone")
            spent += _run(setup, (*options, "--profile", profile), f"{profile}-{number}")
        theirs.append(spent)
    return {"matrix-time": paired(ours, theirs)}


def _write(setup: Setup, part: str, count: int) -> Path:
    """Write `count` texts of a part, by step, since the file is sorted by label."""
    rows = cases.rows(setup, _CASE, part)
    file = setup.work / f"{part}.jsonl"
    file.write_bytes(cases.to_jsonl(rows[:: max(1, len(rows) // count)]))
    return file


def _run(setup: Setup, argv: Iterable[str], out: str) -> float:
    """Return how long an export takes, s.

    Raises:
        RunFailedError: it failed.
    """
    surroundings = {"EDGESLM_CACHE": str(setup.cache.absolute()), "TMPDIR": str(setup.work)}
    command = (sys.executable, "-m", "exporters.cli", *argv, "--out", str(setup.work / out))
    begun = time.perf_counter()
    done = subprocess.run(
        command,
        env=clean_environment() | surroundings,
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_S,
    )
    if done.returncode:
        msg = f"exporting {out}: {done.stderr.strip().splitlines()[-1:]}"
        raise RunFailedError(msg)
    return time.perf_counter() - begun
