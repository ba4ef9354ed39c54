"""`edgeslm-export [matrix] TASK`: parse, run the pipeline, show its progress."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NoReturn

from edgeslm.errors import (
    EXIT_CONFIG,
    EXIT_INTERRUPTED,
    EdgeSLMError,
    RejectedError,
)
from exporters.arguments import day, positive, share
from exporters.room import DiskError
from exporters.stop import Terminated

# All else is imported inside `main`: it may be missing, or take the seconds in which somebody
# presses Ctrl-C.

NEEDED: Final = (  # the extra `export` of pyproject.toml
    "accelerate",
    "matplotlib",
    "onnx",
    "optimum",
    "optimum-onnx",
    "rich",
    "scikit-learn",
    "scipy",
    "threadpoolctl",
    "torch",
    "transformers",
)
EXIT_PARTLY: Final = 1  # `edgeslm-export matrix`: some profiles failed; `matrix.json` says why
MATRIX: Final = "matrix"
_MINUTES: Final = 5.0
_MOST_MINUTES: Final = 24 * 60
_OPTION: Final = "option "  # what the fields of a recipe's own options begin with
_EPILOG: Final = """\
DIR receives bundle/ (what a device takes), bundle.tar (the same, packed), bom.cdx.json,
quality.json, measurements.json, lock.json, with --tune tune.json and, with --train full, few or
static, trained/ (the trained encoder). It appears when all is done; an earlier export there is
replaced.
"""
_MATRIX_EPILOG: Final = """\
DIR receives a folder for each profile, which holds what an export for it alone would hold, and
matrix.json and matrix.html, which compare them. Each appears when it is whole: if the run ends
early, those stay.
"""
_STATUSES: Final = """
exit status:
  0    exported
  1    matrix: some profiles failed; matrix.json says why
  2    wrong usage
  65   model, data or quality not acceptable: says what to change
  75   the disk refuses: try again
  78   wrong device profile, or packages that exporting needs are not installed
  130  interrupted; nothing is left behind
"""


class NotInstalledError(RejectedError):
    """Packages that exporting needs are not installed."""

    code = "export.not_installed"
    exit_status = EXIT_CONFIG


def main(argv: Sequence[str] | None = None) -> int:
    """Run one export and return the process's exit status."""
    try:
        signal.signal(signal.SIGTERM, _stop)  # so that temporary folders go
        _check_installed()
        return _run(list(sys.argv[1:] if argv is None else argv))
    except EdgeSLMError as err:
        return _complain(f"{err} [{err.code}]", err.exit_status)
    except OSError as err:  # the disk, in the middle of it
        told = f"{err.filename or 'disk'}: {err.strerror or err} [{DiskError.code}]"
        return _complain(told, DiskError.exit_status)
    except KeyboardInterrupt:
        return _complain("interrupted", EXIT_INTERRUPTED)


def _complain(what: str, status: int) -> int:
    sys.stderr.write(f"edgeslm-export: {what}\n")
    return status


def _check_installed() -> None:
    missing = []
    for package in NEEDED:
        try:
            version(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        msg = (
            f"exporting needs {', '.join(missing)}: from a checkout, make venv, or "
            "pip install '.[export]' -c packaging/constraints.txt"
        )
        raise NotInstalledError(msg)


def _run(argv: Sequence[str]) -> int:
    from exporters import commands  # noqa: PLC0415 -- see above

    parser = _parser()
    args = parser.parse_args(argv)
    if args.task in commands.names():
        return _command(args)
    if args.minutes is not None and not (args.tune or _trains(args)):
        parser.error("--minutes goes with --tune, or with --train full")
    if args.tune and getattr(args, "lock", None) is not None:
        parser.error("--tune searches what --lock has settled: give one of them")
    # After the arguments: they take seconds.
    from exporters.export import Job, export  # noqa: PLC0415
    from exporters.matrix import matrix  # noqa: PLC0415
    from exporters.progress import progress  # noqa: PLC0415

    options = _options(args)
    profiles = options.pop("profiles", None)
    with progress() as stage:
        if profiles is None:
            report = export(Job(**options), stage, stage.tell)
        else:
            report = matrix(Job(**options, profile=""), profiles, stage, stage.tell)
    rows = report.get("profiles", [report])
    _caution((caution for row in rows for caution in row["cautions"]), stage.told)
    if args.tune and profiles is None:
        sys.stderr.write(_fronts(args.out))
    if profiles is None:
        made = [(args.profile, args.out)]
    else:
        made = [(row["profile"], args.out / row["out"]) for row in rows if row["out"]]
    for profile, out in made:
        for line in _proofs(profile, out):
            sys.stderr.write(f"edgeslm-export: {line}\n")
    failed = [row for row in rows if row.get("error")]
    for row in failed:
        _complain(f"{row['profile']}: {row['error']['message']} [{row['error']['code']}]", 0)
    sys.stdout.write(json.dumps({"out": str(args.out), **report}) + "\n")
    return EXIT_PARTLY if failed else 0


def _command(args: argparse.Namespace) -> int:
    from exporters import commands  # noqa: PLC0415 -- see above
    from exporters.progress import progress  # noqa: PLC0415

    command = commands.load(args.task)
    with progress() as stage:
        report = command.run(args, stage)
    _caution(report.get("cautions", ()), stage.told)
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def _caution(notes: Iterable[str], told: Collection[str]) -> None:
    for note in dict.fromkeys(notes):
        if note not in told:
            sys.stderr.write(f"edgeslm-export: note: {note}\n")


def _fronts(out: Path) -> str:
    """Return a table of each search for a recipe."""
    from exporters.export import TUNE  # noqa: PLC0415 -- see `_run`
    from exporters.tune.table import render  # noqa: PLC0415

    file = out / TUNE
    if not file.is_file():  # of this profile no target has more than one recipe
        return ""
    return "".join(map(render, json.loads(file.read_bytes())["searches"]))


def _proofs(profile: str, out: Path) -> Iterator[str]:
    """Yield what was proved of a profile and of each graph, and what its provider takes of it."""
    from edgeslm.runtime.bundle import open_bundle  # noqa: PLC0415 -- see `_run`
    from edgeslm.runtime.placement import fallen, placed, proved  # noqa: PLC0415
    from edgeslm.runtime.profiles import load_profile  # noqa: PLC0415
    from exporters.export import BUNDLE  # noqa: PLC0415

    manifest = open_bundle(out / BUNDLE, verify=False).manifest
    device = load_profile(profile)
    yield f"profile {device.name}: verified {proved(device.verified)}"
    for graph in manifest.artifacts:
        if graph.role != "graph":
            continue
        yield f"{graph.path}: verified {proved(graph.verified)}"
        if graph.coverage is not None:
            yield f"  {placed(graph.coverage, str(graph.provider))}"
            yield from (f"  not taken: {line}" for line in fallen(graph.coverage))


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a `Job`, and `profiles` where there are many."""
    options = dict(vars(args))
    tune, minutes = options.pop("tune"), options.pop("minutes")
    own = {name: options.pop(name) for name in list(options) if name.startswith(_OPTION)}
    return options | {
        "options": {name.removeprefix(_OPTION): value for name, value in own.items()},
        "tune_minutes": (minutes or _MINUTES) if tune else None,
        "train_minutes": minutes if _trains(args) else None,
    }


def _trains(args: argparse.Namespace) -> bool:
    return bool(getattr(args, "train", None) == "full")


def _parser() -> argparse.ArgumentParser:
    from exporters import commands  # noqa: PLC0415 -- see above

    parser = argparse.ArgumentParser(
        prog="edgeslm-export",
        description="Compile a small language model and a task's head for one device, or for many.",
        epilog=_EPILOG + _STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    _add_tasks(tasks, _EPILOG + _STATUSES, _one_profile)
    many = tasks.add_parser(
        MATRIX,
        help="one of these for many devices: matrix --profiles A,B,... TASK",
        description="Compile for many devices in one go: what they have in common is made once.",
        epilog=_MATRIX_EPILOG + _STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _many_profiles(many)
    inner = many.add_subparsers(dest="task", required=True, metavar="TASK")
    _add_tasks(inner, _MATRIX_EPILOG + _STATUSES, lambda _: None)
    for name in commands.names():
        command = commands.load(name)
        one = tasks.add_parser(
            name,
            help=command.HELP,
            epilog=command.EPILOG + _STATUSES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_options(one)
    return parser


def _add_tasks(tasks: Any, epilog: str, add_profile: Callable[[Any], None]) -> None:
    from exporters import recipes  # noqa: PLC0415 -- see above

    for name in recipes.names():
        recipe = recipes.load(name)
        one = tasks.add_parser(
            name,
            help=recipe.HELP,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_profile(one)
        _add_options(one)
        option, what = recipe.SHARE
        one.add_argument(
            option,
            dest="share",
            type=share,
            default=recipe.DEFAULT_SHARE,
            metavar="SHARE",
            help=f"{what} (default {recipe.DEFAULT_SHARE})",
        )
        for own, chosen in recipe.OPTIONS.items():
            one.add_argument(
                f"--{own}",
                dest=_OPTION + own,
                type=_checked(chosen.check),
                default=chosen.default,
                metavar=own.upper(),
                help=f"{chosen.help} (default {chosen.default})",
            )
        if recipe.TRAINABLE:
            one.add_argument(
                "--train",
                choices=("head", "full", "few", "static"),
                default="head",
                help="what learns from the examples: a head on the encoder as it is (default), "
                "the encoder with it (few: from 5 to 20 texts of a label), or, with its tokenizer, "
                "a model of a few MB without layers",
            )


def _one_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lock", type=Path, metavar="FILE",
        help="lock.json of an earlier export: make the same bytes again")  # fmt: skip
    parser.add_argument("--profile", required=True, metavar="NAME_OR_FILE", help="device profile")


def _many_profiles(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profiles",
        required=True,
        type=_names,
        metavar="NAME_OR_FILE,...",
        help="device profiles, with commas between them",
    )


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
    add("--name", required=True, help="of the model, lower case")
    add("--version", required=True, type=positive, metavar="N", help="of the model, from 1")
    add("--supported-until", type=day, metavar="DATE",
        help="last day on which you answer for it: 2031-12-31; devices warn later")  # fmt: skip
    add("--base-license", type=_license, metavar="SPDX",
        help="of the source, for the ML-BOM: Apache-2.0")  # fmt: skip
    add("--base-supplier", metavar="NAME", help="who passes the source on, for the ML-BOM")
    add("--out", required=True, type=Path, metavar="DIR", help="where the export goes")
    add("--allow-drop", action="store_true", help="export even where quality falls too far")
    add("--seed", type=int, default=0, help="of every random choice (default 0)")
    add("--tune", action="store_true", help="search the recipe that is best on this machine")
    add("--minutes", type=_minutes, metavar="M",
        help=f"with --tune: search so long, or until Ctrl-C (default {_MINUTES:g}); with --train "
        "full: train no longer (default: until it no longer helps)")  # fmt: skip
    add("--max-tokens", type=positive, metavar="N",
        help="cut longer texts (default: the profile's)")  # fmt: skip
    add("--prune-vocab", nargs="?", type=positive, const=1, default=0, metavar="N",
        help="keep word vectors of pieces that N training texts have (default 1), and read all "
        "others as the nearest of them")  # fmt: skip


def _checked(check: Callable[[str], object]) -> Callable[[str], str]:
    """Return the type of an argument that stays as it is written, if `check` takes it."""

    def read(text: str) -> str:
        try:
            check(text)
        except EdgeSLMError as err:
            raise argparse.ArgumentTypeError(str(err)) from None
        return text

    return read


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        msg = f"{text!r}: a name is missing between two commas"
        raise argparse.ArgumentTypeError(msg)
    return names


def _license(text: str) -> str:
    if re.fullmatch(r"[\w.+()-]+( [\w.+()-]+)*", text, re.ASCII) is None:
        msg = f"{text!r} is not SPDX's, such as Apache-2.0, or LicenseRef-ours"
        raise argparse.ArgumentTypeError(msg)
    return text


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= _MOST_MINUTES:
        msg = f"{text!r} is not a number of minutes up to {_MOST_MINUTES}"
        raise argparse.ArgumentTypeError(msg)
    return value


def _stop(*_: object) -> NoReturn:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
