"""What every command gives the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from exporters.progress import Shown


class Command(Protocol):
    """One module of exporters/commands/; its name is the command's.

    What it needs for long is imported inside `run`, so that `--help` is quick.
    """

    HELP: str
    EPILOG: str
    """What it leaves behind, and where."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Say what the command takes."""

    def run(self, options: argparse.Namespace, stage: Shown) -> Mapping[str, Any]:
        """Do it; return its report: JSON values, of which `cautions` are told to the user, too.

        Raises:
            RejectedError: of many kinds, each saying what to change; nothing is left behind.
            UnavailableError: the disk refuses.
        """
