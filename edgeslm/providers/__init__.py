"""Execution providers: what ONNX Runtime can run a graph on.

Adding one is adding a file that exports `edgeslm.ports.Provider`'s functions. Its name is the key
in manifests and device profiles; it is imported only where one of them asks for it.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import cast

from edgeslm.ports import Provider


def names() -> list[str]:
    """Keys of all providers in this build, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Provider | None:
    """Return the provider called `name`; None where this build has none."""
    if name not in names():
        return None
    return cast("Provider", import_module(f"{__name__}.{name}"))
