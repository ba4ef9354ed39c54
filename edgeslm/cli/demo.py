"""`edgeslm demo`: a factory, a broker and an agent, in one minute."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from edgeslm.demo.errors import MissingExtraError
from edgeslm.demo.plain import PlainView
from edgeslm.demo.show import Options, View, run
from edgeslm.demo.words import closing
from edgeslm.errors import EXIT_UNAVAILABLE

_SECONDS = 60.0
_WATCHED_RATE = 50.0  # a person can follow the alarms
_COUNTED_RATE = 250.0


def main(argv: Sequence[str]) -> int:
    """Play the demo; the status says whether every message was answered.

    Raises:
        EdgeSLMError: a part of the demo is not installed or did not come up.
    """
    args = _parser().parse_args(argv)
    watched = not args.json and sys.stdout.isatty() and sys.stderr.isatty()
    rate = args.rate if args.rate is not None else _WATCHED_RATE if watched else _COUNTED_RATE
    # A number of messages is a limit of its own; otherwise a minute is.
    seconds = args.seconds or (None if args.messages or args.replay else _SECONDS)
    options = Options(
        seconds=seconds,
        messages=args.messages,
        rate=rate or None,
        seed=args.seed,
        replay=args.replay,
        broker=args.broker,
        quiet=not watched,
    )
    view = _live() if watched else PlainView(sys.stderr, None if args.json else sys.stdout)
    summary = run(options, view)
    if args.json:
        sys.stdout.write(json.dumps(summary.as_json()) + "\n")
    else:
        rows = [*closing(summary), *(("short of", what) for what in summary.shortfalls)]
        sys.stdout.writelines(f"{what:<13}{how}\n" for what, how in rows)
    return EXIT_UNAVAILABLE if summary.lost else 0


def _live() -> View:
    if importlib.util.find_spec("rich") is None:
        msg = "the live view needs rich: make venv in a checkout, or pipe the output, or --json"
        raise MissingExtraError(msg)
    from edgeslm.demo.live import on_terminal  # noqa: PLC0415 -- a pipe and --json do without rich

    return on_terminal()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgeslm demo", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=_positive, metavar="S", help=f"of play (default {_SECONDS:.0f})")
    add("--messages", type=_count, metavar="N", help="stop after N; no limit of time then")
    add(
        "--rate",
        type=_not_negative,
        metavar="R",
        help=f"messages a second; 0: as fast as answered (default {_WATCHED_RATE:.0f} when"
        f" watched, else {_COUNTED_RATE:.0f})",
    )
    add("--seed", type=int, default=1, metavar="N", help="of the play (default 1)")
    add("--replay", type=Path, metavar="FILE", help="play this log: its first part trains")
    add(
        "--broker",
        choices=("auto", "mosquitto", "embedded"),
        default="auto",
        help="default: mosquitto if installed, else the embedded one",
    )
    add("--json", action="store_true", help="print the summary as one JSON object, draw nothing")
    return parser


def _not_negative(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(text)
    return value


def _positive(text: str) -> float:
    if not (value := _not_negative(text)):
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


# argparse names a type in its message: "invalid positive number value: 'x'".
_not_negative.__name__ = "number"
_positive.__name__ = "positive number"
_count.__name__ = "count"
