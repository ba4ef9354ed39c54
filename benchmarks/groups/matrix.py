"""What sharing saves: six profiles in one matrix against six exports, process starts included."""

from __future__ import annotations

import hashlib
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

# Six that need no emulator.
PROFILES: Final = (
    "generic-x86_64",
    "generic-x86_64-avx2",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "imx8mp",
    "generic-openvino",
)
# A device of each target: two exports of each must be the same bytes.
TARGETS: Final = (
    "generic-x86_64",
    "rb3-gen2",
    "generic-cuda",
    "apple-silicon",
    "intel-core-ultra",
)
LOCK: Final = "lock.json"
MEASUREMENTS: Final = "measurements.json"
_CASE: Final = "snips"
_TRAIN, _JUDGED = 600, 200  # texts: a first model of somebody's own
_QUICK = 4  # times fewer texts in a rehearsal
_EMULATED = 60  # texts of the held-out ones where an emulator takes a second for each
_ROUNDS: Final = 3
_LIMIT_S: Final = 1800.0


def matrix(setup: Setup) -> dict[str, Measured]:
    """Both find the float32 encoder exported, as every export after the first one does."""
    options = _options(setup, _JUDGED)
    setup.tell("exporting the encoder")
    _run(setup, (*options, "--profile", PROFILES[0]), "first")
    ours, theirs = [], []
    for number in range(1 if setup.quick else _ROUNDS):
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


def identical(setup: Setup) -> dict[str, Measured]:
    """The second export has a cache of its own, and the first one's lock file."""
    options = _options(setup, _EMULATED)
    differ = []
    for profile in TARGETS[:1] if setup.quick else TARGETS:
        outs = [f"{profile}-{number}" for number in (1, 2)]
        for number, out in enumerate(outs):
            setup.tell(f"{profile}, export {number + 1} of 2")
            lock = ("--lock", str(setup.work / outs[0] / LOCK)) if number else ()
            cache = setup.work / f"cache-{number}"
            _run(setup, (*options, "--profile", profile, *lock), out, cache=cache)
        one, other = (_files(setup.work / out) for out in outs)
        differ.append(sum(one.get(name) != other.get(name) for name in one.keys() | other.keys()))
    total = float(sum(differ))
    return {"identical-exports": Measured(total, 0.0, (min(differ), max(differ)))}


def _files(out: Path) -> dict[str, bytes]:
    """Hashes of all that an export leaves, but for the times that it took."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).digest()
        for path in out.rglob("*")
        if path.is_file() and path.name != MEASUREMENTS
    }


def _options(setup: Setup, judged: int) -> tuple[str, ...]:
    data, evaluation = _write(setup, "train", _TRAIN), _write(setup, "eval", judged)
    return (
        *("intent", "--model", f"package:{WEIGHTS_PACKAGE}", "--data", str(data)),
        *("--eval", str(evaluation), "--name", "measured", "--version", "1", "--allow-drop"),
    )


def _write(setup: Setup, part: str, count: int) -> Path:
    """Write `count` texts of a part, by step, since the file is sorted by label."""
    rows = cases.rows(setup, _CASE, part)
    if setup.quick:
        count //= _QUICK
    file = setup.work / f"{part}.jsonl"
    file.write_bytes(cases.to_jsonl(rows[:: max(1, len(rows) // count)]))
    return file


def _run(setup: Setup, argv: Iterable[str], out: str, *, cache: Path | None = None) -> float:
    """Return how long an export takes, s.

    Args:
        setup: of the group.
        argv: of `edgeslm-export`, without the output.
        out: its name.
        cache: of the exporter; None: the one that all benchmarks share.

    Raises:
        RunFailedError: it failed.
    """
    kept = (cache or setup.cache).absolute()
    surroundings = {"EDGESLM_CACHE": str(kept), "TMPDIR": str(setup.work)}
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
