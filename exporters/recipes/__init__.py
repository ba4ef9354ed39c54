"""What the pipeline must know of a task. Adding one is adding a file: its name is the task's."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import cast

from exporters.recipes.base import Recipe


def names() -> list[str]:
    """Names of all tasks that can be exported, sorted."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__) if info.name != "base")


def load(task: str) -> Recipe:
    """Return the recipe of one of `names()`."""
    return cast("Recipe", import_module(f"{__name__}.{task}"))
