"""`python -m benchmarks NAME --json`: measure one figure, or all, each with its rival."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import isolation, machine, table
from benchmarks.errors import MissingDataError, MissingToolError
from benchmarks.figures import BY_NAME, SPECS, Figure, Measured
from benchmarks.setup import Setup
from edgeslm.cli.main import call
from edgeslm.errors import EXIT_UNAVAILABLE

EXIT_MISSED: Final = 1
DATA_VARIABLE: Final = "EDGESLM_CASES"
_NOT_HERE: Final = "not on this machine: docs/benchmarks.md says on which"
_EPILOG: Final = f"""\
exit status: 0 every bound holds; {EXIT_MISSED} measured, but a bound is missed;
65 a run failed; 75 the evaluation cases are missing, or what a figure drives is not installed:
that figure is skipped
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the process's exit status.

    Raises:
        EdgeSLMError: something could not be measured.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a race leaves nobody running
    parser = _parser()
    args = parser.parse_args(argv)
    if args.list:
        _list()
        return 0
    if bool(args.names) == args.all:
        parser.error("name a figure, or --all")
    if unknown := sorted(set(args.names) - set(BY_NAME)):
        parser.error(f"no figure {unknown[0]!r}; --list names them")
    if args.write and args.quick:
        parser.error("--write does not take the figures of --quick")
    names = list(dict.fromkeys(args.names)) or [spec.name for spec in SPECS]
    figures, skipped = measure(names, data=cases_folder(args.data), quick=args.quick)
    if args.write:
        table.write(args.write, figures)
    if figures:
        _print(figures, as_json=args.json)
    for group, why in skipped.items():
        sys.stderr.write(f"python -m benchmarks: {group}: skipped: {why}\n")
    if not all(figure.holds for figure in figures):
        return EXIT_MISSED
    return EXIT_UNAVAILABLE if skipped else 0


def measure(
    names: Sequence[str], *, data: Path, quick: bool
) -> tuple[list[Figure], dict[str, str]]:
    """Measure the figures of that name, group by group.

    Returns:
        The figures; and, by group or figure, why it was skipped: what it needs is not here.

    Args:
        names: keys of `BY_NAME`.
        data: folder of the evaluation cases.
        quick: a rehearsal.

    Raises:
        EdgeSLMError: a group could not be measured for another reason.
    """
    specs = [BY_NAME[name] for name in names]
    order = list(dict.fromkeys(spec.group for spec in specs))
    cache = Path(os.environ.get("EDGESLM_CACHE", machine.ROOT / ".cache")) / "benchmarks"
    found: dict[str, Measured] = {}
    skipped: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory(prefix="edgeslm-benchmarks-") as work,
        _progress(len(order)) as (begin, tell, done),
    ):
        for group in order:
            begin(group)
            wanted = frozenset(spec.name for spec in specs if spec.group == group)
            setup = Setup(data, Path(work), cache, wanted, quick, tell)
            try:
                found |= isolation.measure(group, setup, tell=tell)
                absent = sorted(wanted - found.keys())
                skipped |= dict.fromkeys(absent, _NOT_HERE)
            except isolation.GroupFailedError as err:
                if err.code != MissingToolError.code:
                    raise
                skipped[group] = f"{err} [{err.code}]"
            done()
    facts, commit = machine.facts(), machine.commit()
    figures = [Figure(s, found[s.name], facts, commit, quick) for s in specs if s.name in found]
    return figures, skipped


def cases_folder(given: Path | None) -> Path:
    """Return the folder of the evaluation cases: as given, else as the environment says.

    Raises:
        MissingDataError: neither, or no folder there.
    """
    remedy = f"Give --data DIR or set {DATA_VARIABLE}; docs/benchmarks.md says how to make it."
    named = given or (Path(v) if (v := os.environ.get(DATA_VARIABLE)) else None)
    if named is None:
        msg = f"the figures are measured on data sets that do not ship with edgeslm. {remedy}"
        raise MissingDataError(msg)
    if not named.is_dir():
        msg = f"{named}: no such folder of evaluation cases. {remedy}"
        raise MissingDataError(msg)
    return named


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure what the README claims, each figure beside its rival.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a figure of --list")
    parser.add_argument("--list", action="store_true", help="name the figures and their bounds")
    parser.add_argument("--all", action="store_true", help="measure every figure")
    parser.add_argument("--json", action="store_true", help="one JSON object a figure, one a line")
    parser.add_argument("--data", type=Path, help=f"evaluation cases; default: ${DATA_VARIABLE}")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into FILE")
    parser.add_argument(
        "--quick", action="store_true", help="a rehearsal on little data: no figures to keep"
    )
    return parser


def _list() -> None:
    width = max(map(len, BY_NAME))
    for spec in SPECS:
        on = {"value": "", "ratio": "x", "difference": f" {spec.unit} from the rival's"}[
            spec.compared
        ]
        bound = "published" if spec.bound is None else f"{spec.direction} {spec.bound:g}{on}"
        sys.stdout.write(f"{spec.name:<{width}}  {spec.what} ({bound})\n")


def _print(figures: Sequence[Figure], *, as_json: bool) -> None:
    if as_json:
        for figure in figures:
            sys.stdout.write(json.dumps(figure.as_json(), ensure_ascii=False) + "\n")
        return
    if figures[0].quick:
        sys.stdout.write("a rehearsal: little data, few rounds, no figures to keep\n")
    sys.stdout.write(table.render(figures))


@contextmanager
def _progress(
    groups: int,
) -> Iterator[tuple[Callable[[str], None], Callable[[str], None], Callable[[], None]]]:
    """A bar on a terminal's standard error, silence elsewhere: (begin group, tell, group done)."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=groups)
        current = ""

        def begin(group: str) -> None:
            nonlocal current
            current = group
            bar.update(task, description=group)

        def tell(news: str) -> None:
            bar.update(task, description=f"{current}: {news}")

        yield begin, tell, lambda: bar.advance(task)


if __name__ == "__main__":
    sys.exit(call(__name__, sys.argv[1:], prog="python -m benchmarks"))
