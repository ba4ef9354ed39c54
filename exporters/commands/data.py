"""`edgeslm-export data`: look through examples before anything is learnt from them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exporters import recipes
from exporters.arguments import positive, share

if TYPE_CHECKING:
    from exporters.workbench import Stage

HELP: Final = "look through examples: duplicates, starving labels, lines that look mislabelled"
EPILOG: Final = """\
DIR receives data.json and data.html, which quote examples. An export leaves the same beside its
bundle, in data.json and report.html. What an export would refuse is refused here. Where a head
cannot tell the share that it is to reject, that is a note, and an error with --share.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """See `exporters.commands.base.Command.add_options`."""
    add: Any = parser.add_argument
    add("data", type=Path, metavar="FILE", help="training examples: JSON lines, or CSV by its name")
    add("--eval", dest="evaluation", type=Path, metavar="FILE",
        help="examples to judge by; without them a part of the data is")  # fmt: skip
    add("--for", dest="recipe", choices=recipes.names(),
        help="task they are for; by default what their labels say")  # fmt: skip
    add("--model", metavar="SOURCE",
        help="that is begun with; without it mislabelled lines are not looked for")  # fmt: skip
    add("--tokenizer", type=Path, metavar="FILE", help="where the model has none")
    add("--max-tokens", type=positive, metavar="N",
        help="cut longer texts (default 128)")  # fmt: skip
    add("--share", type=share, metavar="SHARE",
        help="as --alarm-budget or --reject-share of the export (default: the same)")  # fmt: skip
    add("--seed", type=int, default=0, help="of every random choice (default 0)")
    add("--out", type=Path, metavar="DIR", help="where the report goes; else it is printed alone")


def run(options: argparse.Namespace, stage: Stage) -> Mapping[str, Any]:
    """See `exporters.commands.base.Command.run`."""
    from exporters.inspection.run import Asked, look  # noqa: PLC0415 -- takes seconds

    asked = Asked(
        data=options.data,
        evaluation=options.evaluation,
        task=options.recipe,
        model=options.model,
        tokenizer=options.tokenizer,
        max_tokens=options.max_tokens,
        share=options.share,
        seed=options.seed,
        out=options.out,
    )
    return look(asked, stage)
