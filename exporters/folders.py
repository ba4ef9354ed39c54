"""The output folder: ours to fill or nobody's, and whole or as it was before."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgeslm.errors import RejectedError
from exporters.room import needing_room


class OutputError(RejectedError):
    """The output folder cannot be used."""

    code = "export.output"


def check_out(out: Path, *, holds: str) -> None:
    """Make sure that `out` is free, or the work of an earlier run.

    Args:
        out: a folder that need not be there.
        holds: path inside it of a file that only an earlier run leaves.

    Raises:
        OutputError: it is something else.
    """
    try:
        if not out.exists() or (out / holds).is_file():
            return
        taken = not out.is_dir() or any(out.iterdir())
    except OSError as err:
        msg = f"{out}: {err.strerror}; choose another --out"
        raise OutputError(msg) from None
    if taken:
        msg = (
            f"{out}: exists and is not of an earlier run, which would hold {holds}; choose another "
            "--out, or remove it"
        )
        raise OutputError(msg)


@contextlib.contextmanager
def beside(out: Path) -> Iterator[Path]:
    """Give a folder on the same file system as `out`, removed at the end whatever happens.

    Raises:
        OutputError: there is no writing there.
        DiskError: there is no room.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.")
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        why = getattr(err, "strerror", None) or err
        msg = f"cannot write {out.parent}: {why}; choose another --out"
        raise OutputError(msg) from None
    with folder as name, needing_room(out.parent, remedy="choose another --out"):
        yield Path(name)


def replace_folder(fresh: Path, out: Path) -> None:
    """Put `fresh` in the place of `out`; what was there goes the way of the scratch folder."""
    if not out.exists():
        fresh.rename(out)
        return
    old = fresh.with_name("old")
    out.rename(old)
    try:
        fresh.rename(out)
    except BaseException:
        old.rename(out)
        raise
