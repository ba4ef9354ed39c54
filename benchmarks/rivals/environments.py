"""Virtual environments of rivals, whose dependencies are not ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.errors import MissingToolError, RunFailedError
from edgeslm.demo.processes import clean_environment

OPENVINO_PINS: Final = ("openvino==2026.4.1", "numpy==2.4.6")  # the OpenVINO that the plug-in holds
_INSTALL_S: Final = 1800.0


def openvino_environment(cache: Path) -> Path:
    """Return the interpreter of an environment with OpenVINO's own interface.

    Raises:
        MissingToolError: it cannot be installed.
    """
    return install(cache / OPENVINO_PINS[0], OPENVINO_PINS) / "python"


def install(environment: Path, pins: Sequence[str]) -> Path:
    """Return the folder of programs of an environment that is whole or not there.

    Raises:
        MissingToolError: it cannot be installed.
    """
    whole = environment / "installed"
    if not whole.is_file():
        shutil.rmtree(environment, ignore_errors=True)
        call([sys.executable, "-m", "venv", str(environment)], _INSTALL_S, MissingToolError)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        call([*pip, *pins], _INSTALL_S, MissingToolError)
        whole.write_text("\n".join(pins))
    return environment / "bin"


def call(
    argv: list[str],
    limit_s: float,
    error: type[MissingToolError | RunFailedError],
    cwd: Path | None = None,
) -> None:
    """Run a program to its end.

    Raises:
        MissingToolError, RunFailedError: `error`, with its last line.
    """
    try:
        done = subprocess.run(
            argv,
            env=clean_environment(),
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        msg = f"{argv[0]}: {err}"
        raise error(msg) from None
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        msg = f"{' '.join(argv[:4])}: status {done.returncode}: {' '.join(last)[:300]}"
        raise error(msg)
