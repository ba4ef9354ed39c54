"""What building packages needs of the machine: programs, a clock of its own, one kind of error."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from edgeslm.errors import RejectedError

ROOT: Final = Path(__file__).parents[2]
PYTHON: Final = "3.11"  # Debian 12's; compiled files and several wheels are of one version
_SAID: Final = 500  # characters of what a program printed last


class PackagingError(RejectedError):
    """A package cannot be built."""

    code = "packaging.failed"


def call(argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> str:
    """Run a program in the checkout; return its standard output.

    Raises:
        PackagingError: it is not here, or failed; says what it printed last.
    """
    try:
        done = subprocess.run(  # noqa: S603 -- built here
            argv,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        msg = f"{argv[0]} is not installed"
        raise PackagingError(msg) from None
    if done.returncode:
        msg = f"{Path(argv[0]).name} failed: {done.stderr.strip()[-_SAID:]}"
        raise PackagingError(msg)
    return done.stdout


def source_epoch() -> int:
    """`$SOURCE_DATE_EPOCH`, else when the last commit was made: the time of every file, in seconds.

    Raises:
        PackagingError: neither is there.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH") or call(["git", "log", "-1", "--format=%ct"])
    try:
        return int(given)
    except ValueError:
        msg = f"SOURCE_DATE_EPOCH={given!r} is no number of seconds"
        raise PackagingError(msg) from None
