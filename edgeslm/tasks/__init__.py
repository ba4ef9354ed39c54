"""Tasks: the code between texts and tensors.

Adding a task is adding a file that exports `load` (`edgeslm.ports.TaskFactory`). Its name is the
manifest's `task`, and it is imported only where a bundle asks for it.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import cast

from edgeslm.errors import RejectedError
from edgeslm.ports import TaskFactory


class UnknownTaskError(RejectedError):
    """A bundle names a task that this build does not have."""

    code = "task.unknown"


def names() -> list[str]:
    """Names of all tasks in this build, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> TaskFactory:
    """Return what makes the task called `name` from a bundle's parameters.

    Raises:
        UnknownTaskError: no such file in edgeslm/tasks/.
    """
    if name not in names():
        msg = f"no task {name!r}; this build has {', '.join(names())}: update edgeslm"
        raise UnknownTaskError(msg)
    return cast("TaskFactory", import_module(f"{__name__}.{name}").load)
