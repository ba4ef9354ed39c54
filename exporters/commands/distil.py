"""A smaller model that a trained one teaches."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exporters.arguments import day, positive, share

if TYPE_CHECKING:
    from exporters.progress import Shown

HELP: Final = "a smaller model that a trained one teaches: fewer layers, or none"
EPILOG: Final = """\
TEACHER is the folder of an export that was made with --train full, of the same --data.

DIR receives what an export leaves there: bundle/ (what a device takes), bundle.tar (the same,
packed), bom.cdx.json, quality.json, measurements.json, lock.json and trained/ (the student). It
appears when all is done; an earlier export there is replaced.
"""
_REJECTED: Final = 0.05
_STUDENT: Final = re.compile(r"static|layers=[1-9][0-9]{0,3}", re.ASCII)


def add_options(parser: argparse.ArgumentParser) -> None:
    """See `exporters.commands.base.Command`."""
    add: Any = parser.add_argument
    add("--teacher", required=True, type=Path, metavar="TEACHER",
        help="export that was made with --train full")  # fmt: skip
    add("--student", required=True, type=_student, metavar="layers=N|static",
        help="N of the teacher's layers, chosen by measuring, or none of them")  # fmt: skip
    add("--data", required=True, type=Path, metavar="FILE",
        help="the examples that the teacher was trained on")  # fmt: skip
    add("--eval", dest="evaluation", type=Path, metavar="FILE",
        help="examples to judge by; without them a fifth of the data is held out")  # fmt: skip
    add("--profile", required=True, metavar="NAME_OR_FILE", help="device profile")
    add("--name", required=True, help="of the model, lower case")
    add("--version", required=True, type=positive, metavar="N", help="of the model, from 1")
    add("--out", required=True, type=Path, metavar="DIR", help="where the export goes")
    add("--prune-vocab", nargs="?", type=positive, const=1, default=0, metavar="N",
        help="keep word vectors of pieces that N training texts have (default 1), and read all "
        "others as the nearest of them")  # fmt: skip
    add("--max-tokens", type=positive, metavar="N",
        help="cut longer texts (default: the profile's)")  # fmt: skip
    add(
        "--reject-share",
        dest="share",
        type=share,
        default=_REJECTED,
        metavar="SHARE",
        help=f"share of in-scope texts to reject as out of scope (default {_REJECTED})",
    )
    add("--allow-drop", action="store_true", help="export even where quality falls too far")
    add("--seed", type=int, default=0, help="of every random choice (default 0)")
    add("--lock", type=Path, metavar="FILE",
        help="lock.json of an earlier export: make the same bytes again")  # fmt: skip
    add("--supported-until", type=day, metavar="DATE",
        help="last day on which you answer for it: 2031-12-31; devices warn later")  # fmt: skip


def run(options: argparse.Namespace, stage: Shown) -> Mapping[str, Any]:
    """See `exporters.commands.base.Command`."""
    from exporters.export import Job, export  # noqa: PLC0415 -- takes seconds

    fields = {**vars(options), "task": "intent", "train": "student", "model": ""}
    return {"out": str(options.out), **export(Job(**fields), stage, stage.tell)}


def _student(text: str) -> str:
    if _STUDENT.fullmatch(text) is None:
        msg = f"{text!r} is neither static nor layers=N, such as layers=3"
        raise argparse.ArgumentTypeError(msg)
    return text
