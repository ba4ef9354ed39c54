"""`edgeslm-export evaluate`: how good a bundle is, and how sure that is."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from exporters.workbench import Stage

HELP: Final = "judge a bundle on examples, or compare two: evaluate BUNDLE DATA --out DIR"
EPILOG: Final = """\
DIR receives evaluation.json (every metric with its interval, by class and by source, calibration,
confusions, whether the promised share is kept, the comparison) and evaluation.html, which shows
them. It appears when all is done; an earlier evaluation there is replaced.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """See `exporters.commands.base.Command.add_options`."""
    add: Any = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="folder of a bundle, or of an export")
    add("data", type=Path, metavar="DATA", help="examples to judge by: JSON lines, or CSV")
    add("--against", type=Path, metavar="BUNDLE2", help="another, to compare it with")
    add("--variant", metavar="NAME",
        help="which of BUNDLE's (default: the first that this machine can run)")  # fmt: skip
    add("--out", required=True, type=Path, metavar="DIR", help="where the reports go")


def run(options: argparse.Namespace, stage: Stage) -> Mapping[str, Any]:
    """See `exporters.commands.base.Command.run`."""
    from exporters.evaluation.run import Job, evaluate, summary  # noqa: PLC0415 -- takes seconds

    job = Job(options.bundle, options.data, options.out, options.against, options.variant)
    return {"out": str(options.out), **summary(evaluate(job, stage))}
