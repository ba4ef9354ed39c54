"""What examples hold that a model would suffer from, looked for before anything is learnt.

Adding a task is adding a file, which has the task's name.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final, Protocol, cast

from exporters.data import Split
from exporters.inspection.findings import Inspection
from exporters.tune.lock import Train
from exporters.workbench import Workbench

DATA: Final = "data.json"
"""Beside a bundle: never shipped, since it quotes examples."""


class Inspector(Protocol):
    """One module of this folder."""

    def inspect(
        self, split: Split, bench: Workbench | None, train: Train | None = None
    ) -> Inspection:
        """Look through examples that have passed the task's checks.

        Args:
            split: what is learnt from, and judged by.
            bench: of the model that is begun with; None: look only for what needs no model.
            train: what learns from them; None: nothing yet.
        """


def inspect(
    task: str, split: Split, bench: Workbench | None, train: Train | None = None
) -> Inspection:
    """See `Inspector.inspect`."""
    return cast("Inspector", import_module(f"{__name__}.{task}")).inspect(split, bench, train)
