"""Two exports as one bundle: a small model answers, and hands over what it is not sure of."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exporters.arguments import day, positive

if TYPE_CHECKING:
    from exporters.workbench import Stage

HELP: Final = "two exports as one: a small model hands over what it is not sure of"
EPILOG: Final = """\
FIRST and SECOND are folders of exports of the same task, labels and profile. FILE may be what both
were trained on, if they were trained (--train, distil): each lists the texts that it held out, and
those that both did are used. Of other exports, give texts that neither was fitted on.

DIR receives bundle/ (what a device takes), bundle.tar (the same, packed), bom.cdx.json,
quality.json, coverage.json and report.html. It appears when all is done; an earlier export there
is replaced.
"""
_LOSE: Final = 0.3


def add_options(parser: argparse.ArgumentParser) -> None:
    """See `exporters.commands.base.Command`."""
    add: Any = parser.add_argument
    add("--first", required=True, type=Path, metavar="FIRST",
        help="export that is asked first: a static model")  # fmt: skip
    add("--second", required=True, type=Path, metavar="SECOND",
        help="export that answers what the first is not sure of")  # fmt: skip
    add("--data", required=True, type=Path, metavar="FILE",
        help="labelled texts to find the hand-over by: JSON lines, or CSV by its name")  # fmt: skip
    add("--eval", dest="evaluation", type=Path, metavar="FILE",
        help="texts to judge the whole by (default: those of --data that were used)")  # fmt: skip
    add("--lose", type=_points, default=_LOSE, metavar="POINTS",
        help=f"accuracy that the hand-over may cost (default {_LOSE:g})")  # fmt: skip
    add("--profile", required=True, metavar="NAME_OR_FILE", help="device profile")
    add("--name", required=True, help="of the model, lower case")
    add("--version", required=True, type=positive, metavar="N", help="of the model, from 1")
    add("--supported-until", type=day, metavar="DATE",
        help="last day on which you answer for it: 2031-12-31; devices warn later")  # fmt: skip
    add("--out", required=True, type=Path, metavar="DIR", help="where the export goes")
    add("--allow-drop", action="store_true", help="export even where more is lost")


def run(options: argparse.Namespace, stage: Stage) -> Mapping[str, Any]:
    """See `exporters.commands.base.Command`."""
    from exporters.cascade import Order, make  # noqa: PLC0415 -- takes seconds

    fields = {key: value for key, value in vars(options).items() if key != "task"}
    return make(Order(**fields), stage)


def _points(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:  # noqa: PLR2004 -- per cent
        msg = f"{text!r} is not a number of points up to 100"
        raise argparse.ArgumentTypeError(msg)
    return value
