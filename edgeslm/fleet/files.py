"""Files that people write for the fleet's commands."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from edgeslm.contract.base import parse_toml
from edgeslm.errors import InvalidFileError

M = TypeVar("M", bound=BaseModel)


def read_toml_file(
    model: type[M], file: Path, *, max_bytes: int, remedy: str, error: type[InvalidFileError]
) -> M:
    """Return a TOML file as `model`.

    Raises:
        InvalidFileError: as `error`: it cannot be read, is too long, or is wrong; names each key.
    """
    try:
        with file.open("rb") as opened:
            raw = opened.read(max_bytes + 1)
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        what = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        raise error(str(file), [("", what)], remedy="Check the path.") from None
    if len(raw) > max_bytes:
        raise error(str(file), [("", f"longer than {max_bytes} bytes")], remedy=remedy)
    return parse_toml(model, raw, file=str(file), remedy=remedy, error=error)
