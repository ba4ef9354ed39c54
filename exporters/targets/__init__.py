"""Compilers, one file per execution provider. Adding a target is adding a file."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import cast

from edgeslm.errors import RejectedError
from exporters.targets.base import Target


class NoTargetError(RejectedError):
    """The profile asks for a provider that this exporter cannot compile for."""

    code = "target.unknown"


def load(provider: str) -> Target:
    """Return the compiler for a provider's key.

    Raises:
        NoTargetError: there is none; names those there are.
    """
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if info.name != "base")
    if provider not in names:
        msg = (
            f"providers: {provider!r} is none that this exporter compiles for: take it out, or one "
            f"of {', '.join(names)}"
        )
        raise NoTargetError(msg)
    return cast("Target", import_module(f"{__name__}.{provider}"))
