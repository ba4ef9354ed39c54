"""Results of long steps, kept under the hash of all that they depend on."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Final

from edgeslm.errors import UnavailableError
from exporters.room import needing_room

ELSEWHERE: Final = "set EDGESLM_CACHE to another folder"


class CacheError(UnavailableError):
    """The cache folder cannot be written."""

    code = "cache.unavailable"


def cache_folder() -> Path:
    """`$EDGESLM_CACHE`, else `edgeslm` in the user's cache folder (`$XDG_CACHE_HOME`)."""
    if given := os.environ.get("EDGESLM_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgeslm"


def key_of(parts: Iterable[bytes]) -> str:
    """Return a name for `parts`, in which no two lists of parts run together."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:32]


def pins(packages: Iterable[str]) -> dict[str, str]:
    """Installed version of each package."""
    return {package: version(package) for package in packages}


def kept(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder that `make` has filled for this key, now or in an earlier run.

    It appears by one rename, so it is whole whatever interrupts `make`.

    Raises:
        CacheError: the disk refuses.
        Whatever `make` raises.
    """
    final = cache_folder() / kind / key
    if final.is_dir():
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=final.parent, prefix=".making-"))
    except OSError as err:
        msg = f"cannot write {final.parent}: {err.strerror}; {ELSEWHERE}"
        raise CacheError(msg) from None
    try:
        with needing_room(final.parent, remedy=ELSEWHERE, error=CacheError):
            make(fresh)
        try:
            fresh.rename(final)
        except OSError:
            if not final.is_dir():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return final
