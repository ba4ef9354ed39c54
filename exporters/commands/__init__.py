"""What `edgeslm-export` does besides a plain export. Adding a command is adding a file."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import cast

from exporters.commands.base import Command


def names() -> list[str]:
    """Names of all commands, sorted."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__) if info.name != "base")


def load(name: str) -> Command:
    """Return one of `names()`."""
    return cast("Command", import_module(f"{__name__}.{name}"))
