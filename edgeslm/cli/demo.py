"""`edgeslm demo`: a factory, a broker and an agent, in one minute."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from edgeslm.cli.main import EXIT_SHORT
from edgeslm.cli.text import whole
from edgeslm.demo.errors import MissingExtraError
from edgeslm.demo.plain import PlainView
from edgeslm.demo.show import Options, View, run
from edgeslm.demo.tally import JUDGED, MAX_FALSE, MIN_CAUGHT
from edgeslm.demo.words import closing

_SECONDS = 60.0
_WATCHED_RATE = 50.0  # a person can follow the alarms
_COUNTED_RATE = 250.0
_EPILOG = f"""\
The demo promises to answer every message, to catch {MIN_CAUGHT:.0%} of the faults, and to raise an
alarm on at most {MAX_FALSE:.1%} of normal messages, where {JUDGED:,} or more were played. What it
breaks is named in the summary.

exit status:
  0   all promises kept
  1   one was broken; with --json, `shortfalls` lists which
  75  a part of the demo is not installed or did not come up
"""


def main(argv: Sequence[str]) -> int:
    """Play the demo; the status says whether it kept its promises.

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
    return EXIT_SHORT if summary.shortfalls else 0


def _live() -> View:
    if importlib.util.find_spec("rich") is None:
        msg = "the live view needs rich: make venv in a checkout, or pipe the output, or --json"
        raise MissingExtraError(msg)
    from edgeslm.demo.live import on_terminal  # noqa: PLC0415 -- a pipe and --json do without rich

    return on_terminal()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeslm demo",
        description=(__doc__ or "").partition(": ")[2],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--seconds", type=_positive, metavar="S", help=f"of play (default {_SECONDS:.0f})")
    add(
        "--messages",
        type=whole(1, 1_000_000_000),
        metavar="N",
        help="stop after N; no limit of time then",
    )
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


def _number(text: str, *, low: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= low):
        msg = f"{text!r} is not {what}"
        raise argparse.ArgumentTypeError(msg)
    return value


def _not_negative(text: str) -> float:
    return _number(text, low=0, what="a number of 0 or more")


def _positive(text: str) -> float:
    return _number(text, low=math.ulp(0.0), what="a number above 0")
