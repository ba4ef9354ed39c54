"""`edgeslm-export TASK`: parse, run the pipeline, draw its progress on a terminal."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edgeslm.errors import EXIT_INTERRUPTED, EXIT_UNAVAILABLE, EdgeSLMError
from exporters import recipes
from exporters.heads.base import Advance

_EPILOG: Final = """\
DIR receives bundle/ (what a device takes), bundle.tar (the same, packed), quality.json and
measurements.json. It appears when all is done; an earlier export there is replaced.

exit status:
  0    exported
  2    wrong usage
  65   model, data or quality not acceptable: says what to change
  75   the disk refuses: try again
  78   wrong device profile
  130  interrupted; nothing is left behind
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one export and return the process's exit status."""
    signal.signal(signal.SIGTERM, _stop)  # so that temporary folders go
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(args)
    except EdgeSLMError as err:
        return _complain(f"{err} [{err.code}]", err.exit_status)
    except OSError as err:  # the disk, in the middle of it
        return _complain(f"{err.filename or 'disk'}: {err.strerror or err}", EXIT_UNAVAILABLE)
    except KeyboardInterrupt:
        return _complain("interrupted", EXIT_INTERRUPTED)


def _complain(what: str, status: int) -> int:
    sys.stderr.write(f"edgeslm-export: {what}\n")
    return status


def _run(argv: Sequence[str]) -> int:
    args = _parser().parse_args(argv)
    from exporters.export import Job, export  # noqa: PLC0415 -- after the arguments: it takes 2 s

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    job = Job(**vars(args))
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        report = export(job, _Stages(bars))
    sys.stdout.write(json.dumps({"out": str(job.out), **report}) + "\n")
    return 0


class _Stages:
    """Implements `exporters.export.Stage` with a bar each."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    @contextmanager
    def __call__(self, name: str, total: int | None) -> Iterator[Advance]:
        bar = self._bars.add_task(name, total=total)
        yield lambda steps: self._bars.advance(bar, steps)
        done = total if total is not None else 1
        self._bars.update(bar, total=done, completed=done)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeslm-export",
        description="Compile a small language model and a task's head for one device.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    for name in recipes.names():
        recipe = recipes.load(name)
        one = tasks.add_parser(
            name,
            help=recipe.HELP,
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_options(one)
        option, what = recipe.SHARE
        one.add_argument(
            option,
            dest="share",
            type=_share,
            default=recipe.DEFAULT_SHARE,
            metavar="SHARE",
            help=f"{what} (default {recipe.DEFAULT_SHARE})",
        )
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    add: Any = parser.add_argument
    add("--model", required=True, metavar="SOURCE",
        help="Hugging Face folder or hub id, .onnx file, or package:NAME")  # fmt: skip
    add("--tokenizer", type=Path, metavar="FILE",
        help="tokenizer.json, or a folder with one, where the model has none")  # fmt: skip
    add("--data", required=True, type=Path, metavar="FILE",
        help="training examples: JSON lines, or CSV by its name")  # fmt: skip
    add("--eval", dest="evaluation", type=Path, metavar="FILE",
        help="examples to judge by; without them a fifth of the data is held out")  # fmt: skip
    add("--profile", required=True, metavar="NAME_OR_FILE", help="device profile")
    add("--name", required=True, help="of the model, lower case")
    add("--version", required=True, type=_positive, metavar="N", help="of the model, from 1")
    add("--out", required=True, type=Path, metavar="DIR", help="where the export goes")
    add("--allow-drop", action="store_true", help="export even where quality falls too far")
    add("--seed", type=int, default=0, help="of every random choice (default 0)")
    add("--max-tokens", type=_positive, metavar="N",
        help="cut longer texts (default: the profile's)")  # fmt: skip


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        msg = "not between 0 and 1"
        raise argparse.ArgumentTypeError(msg)
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        msg = "not 1 or more"
        raise argparse.ArgumentTypeError(msg)
    return value


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
