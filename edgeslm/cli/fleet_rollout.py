"""`edgeslm fleet rollout VERB`: move devices from one version of a model to another, and watch."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from edgeslm.cli.fleet import EPILOG, add_database, database, opened, parser
from edgeslm.cli.main import EXIT_ABORTED
from edgeslm.cli.text import positive, printable, whole
from edgeslm.contract.base import problems_of
from edgeslm.contract.rollout import Plan
from edgeslm.errors import RejectedError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from edgeslm.fleet.database.rollouts import Stored
    from edgeslm.fleet.repository import Repository
    from edgeslm.fleet.service.preview import Preview

_VERBS: Final = """\
  preview  say what `start` with the same options would do; nothing is written
  start    begin one; `edgeslm fleet serve` carries it out
  list     all, newest first
  show     one: its waves, its devices that failed, what it did; --watch: until it has ended
  pause    move no more devices until it is resumed
  resume   go on; where a limit had stopped it, what was seen until then is accepted
  abort    stop, and give devices that were moved back what they ran before
"""
_EPILOG: Final = EPILOG.replace(
    "\n  65", f"\n  {EXIT_ABORTED}   show --watch: the roll-out was aborted\n  65"
)
_NUMBERED: Final = frozenset({"show", "pause", "resume", "abort"})
_MOST_S: Final = 90 * 86_400.0
_LOOK_S: Final = 1.0
_SHOWN: Final = 20  # devices of a list for people
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class PlanRefusedError(RejectedError):
    """What is asked for is no plan of a roll-out."""

    code = "rollout.plan"


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = _options()
    args = options.parse_args(argv)
    if args.verb in _NUMBERED and args.number is None:
        options.error(f"{args.verb}: which ROLLOUT? `edgeslm fleet rollout list` has them")
    if args.verb in {"start", "preview"} and (args.plan is None) == (args.model is None):
        options.error(f"{args.verb}: --model NAME --version N, or --plan FILE")
    if args.model is not None and args.version is None:
        options.error("--model: in which --version?")
    if args.plan is not None and (given := _given(args)):
        options.error(f"--plan: the file says all; write {', '.join(sorted(given))} there")
    repository = opened(args)
    return _RUN[args.verb](repository, database(args, repository), args)


def plan_of(args: argparse.Namespace) -> Plan:
    """Return the plan that the options describe.

    Raises:
        EdgeSLMError: they describe none; names each.
    """
    if args.plan is not None:
        from edgeslm.fleet.plans import read_plan  # noqa: PLC0415 -- needs the extra

        return read_plan(args.plan)
    try:
        return Plan.model_validate_json(json.dumps(_given(args)))
    except ValidationError as err:
        said = "; ".join(f"{field}: {what}" if field else what for field, what in problems_of(err))
        msg = f"{said}. Correct it: `edgeslm fleet rollout --help` says what each option takes."
        raise PlanRefusedError(msg) from None


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the options say of a plan, by field."""
    limits = {
        "failed": args.failed,
        "silent": args.silent,
        "error_share": args.error_share,
        "latency_ratio": args.latency_ratio,
        "alarm_ratio": args.alarm_ratio,
        "answers": args.answers,
    }
    given = {
        "model": args.model,
        "version": args.version,
        "where": args.where,
        "targets": "live" if args.live else None,
        "waves": [each.strip() for each in args.waves.split(",")] if args.waves else None,
        "canaries_per_type": args.canaries,
        "soak_s": args.soak,
        "deadline_s": args.deadline,
        "quiet_s": args.quiet,
        "on_breach": args.on_breach,
        "hours": args.hours or None,
        "late": args.late,
        "limits": {key: value for key, value in limits.items() if value is not None} or None,
    }
    return {key: value for key, value in given.items() if value is not None}


def span(text: str) -> float:
    """Return seconds of a text such as 90, 10m, 2h or 3d; for argparse."""
    unit = _UNITS.get(text[-1:], 1.0)
    try:
        seconds = float(text.rstrip("smhd")) * unit
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MOST_S:
        msg = f"{text!r} is not a time such as 90, 10m, 2h or 3d, at most 90d"
        raise argparse.ArgumentTypeError(msg)
    return seconds


def _preview(repository: Repository, engine: Engine, args: argparse.Namespace) -> int:
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.service.preview import preview  # noqa: PLC0415
    from edgeslm.fleet.service.shelf import RepositoryShelf  # noqa: PLC0415

    plan, now = plan_of(args), time.time()
    with reading(engine) as conn:
        found = preview(conn, RepositoryShelf(repository), plan, now)
    if args.json:
        _print_json(_json_of(found))
    else:
        _print(_described(found))
    found.targets(now)  # what `start` refuses is refused here
    return 0


def _start(repository: Repository, engine: Engine, args: argparse.Namespace) -> int:
    from edgeslm.fleet.database.audit import at_terminal  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415
    from edgeslm.fleet.service.preview import preview  # noqa: PLC0415
    from edgeslm.fleet.service.shelf import RepositoryShelf  # noqa: PLC0415
    from edgeslm.fleet.service.starting import start  # noqa: PLC0415

    plan, shelf, now = plan_of(args), RepositoryShelf(repository), time.time()
    with reading(engine) as conn:
        found = preview(conn, shelf, plan, now)
    if not args.json:
        _print(_described(found))
    number = start(engine, shelf, plan, at_terminal(), now=now)
    if args.json:
        _print_json({"rollout": number, **_json_of(found)})
    else:
        _print(
            [f"roll-out {number}: started; watch it: edgeslm fleet rollout show {number} --watch"]
        )
    return 0


def _list(repository: Repository, engine: Engine, args: argparse.Namespace) -> int:
    del repository
    from edgeslm.fleet.database import rollouts  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415

    with reading(engine) as conn:
        found = rollouts.newest(conn, limit=args.limit)
    if args.json:
        _print_json([_row(each) for each in found])
        return 0
    lines = [
        f"{each.id:>5}  {each.plan.model} {each.plan.version:<8}  {_where_it_is(each):<28}  "
        f"{_utc(each.created_at)}  {each.created_by}"
        for each in found
    ]
    _print(lines or ["no roll-out yet: edgeslm fleet rollout start"])
    return 0


def _show(repository: Repository, engine: Engine, args: argparse.Namespace) -> int:
    del repository
    from edgeslm.core.rollout import State  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database import rollouts  # noqa: PLC0415
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415 -- needs the extra

    in_lines = args.watch and not args.json and not sys.stdout.isatty()

    def look() -> tuple[bool, Any]:
        with reading(engine) as conn:
            if in_lines:
                return _brief(conn, args.number)
            return _seen(conn, args.number, as_json=args.json)

    if not args.watch:
        _, found = look()
        _print_json(found) if args.json else _print(found)
        return 0
    if args.json or in_lines:
        _follow(look, as_json=args.json)
    else:
        from edgeslm.fleet.service.screen import watch  # noqa: PLC0415 -- draws

        watch(lambda: _lines(look()), pause_s=_LOOK_S)
    with reading(engine) as conn:
        ended = rollouts.rollout(conn, args.number).progress.state
    return EXIT_ABORTED if ended is State.ABORTED else 0


def _follow(look: Callable[[], tuple[bool, Any]], *, as_json: bool) -> None:
    """Print what is new until the roll-out has ended, for whoever is not at a terminal.

    As JSON all of it; for people a line, where its state or how many devices are in one changed.
    """
    said: Any = None
    while True:
        ended, found = look()
        if found != said:
            _print_json(found) if as_json else _print(found)
            said = found
        if ended:
            return
        time.sleep(_LOOK_S)


def _lines(looked: tuple[bool, Any]) -> tuple[bool, list[str]]:
    ended, lines = looked
    return ended, [printable(line) for line in lines]


def _ask(repository: Repository, engine: Engine, args: argparse.Namespace) -> int:
    del repository
    from edgeslm.fleet.database.audit import at_terminal  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.service.starting import ask  # noqa: PLC0415

    ask(engine, args.number, args.verb, at_terminal(), now=time.time())
    _print([f"roll-out {args.number}: {args.verb} asked for; the service does it within seconds"])
    return 0


def _seen(conn: Connection, number: int, *, as_json: bool) -> tuple[bool, Any]:
    """Return whether a roll-out has ended, and what there is to say of it."""
    from edgeslm.core.rollout import ENDED, DeviceState  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database import rollouts  # noqa: PLC0415

    stored = rollouts.rollout(conn, number)
    waves = rollouts.waves(conn, [number]).get(number, {})
    log = [each for _, each in rollouts.log(conn, number)]
    bad = {DeviceState.FAILED, DeviceState.SILENT, DeviceState.WRITTEN_OFF}
    failed = [each for each in rollouts.targets(conn, number) if each.state in bad or each.reason]
    ended = stored.progress.state in ENDED
    if as_json:
        return ended, {
            **_row(stored),
            "plan": stored.plan.model_dump(mode="json"),
            "waves": [
                {state.value: count for state, count in waves.get(wave, {}).items()}
                for wave in range(len(stored.plan.waves))
            ],
            "devices": [
                {"device": t.device, "state": t.state.value, "reason": t.reason} for t in failed
            ],
            "log": [{"at": each.at, "what": each.what} for each in log],
        }
    lines = [
        f"roll-out {number}: {stored.plan.model} {stored.plan.version}: {_where_it_is(stored)}"
    ]
    for wave, reach in enumerate(stored.plan.waves):
        counts: Mapping[DeviceState, int] = waves.get(wave, {})
        said = ", ".join(f"{count} {state.value}" for state, count in counts.items())
        lines.append(f"  wave {wave + 1} ({reach}): {said or 'no device'}")
    lines += [f"  {each.device}: {each.state.value}: {each.reason}" for each in failed[:_SHOWN]]
    if len(failed) > _SHOWN:
        lines.append(f"  and {len(failed) - _SHOWN} more: --json has them all")
    lines += [f"  {_utc(each.at)}  {each.what}" for each in log[-_SHOWN:]]
    return ended, lines


def _brief(conn: Connection, number: int) -> tuple[bool, list[str]]:
    """Return whether a roll-out has ended, and where it is with all its devices, in a line."""
    from edgeslm.core.rollout import ENDED, DeviceState  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database import rollouts  # noqa: PLC0415

    stored = rollouts.rollout(conn, number)
    counts: Counter[DeviceState] = Counter()
    for of_wave in rollouts.waves(conn, [number]).get(number, {}).values():
        counts.update(of_wave)
    said = ", ".join(f"{counts[s]} {s.value}" for s in DeviceState if counts[s]) or "no device"
    model = f"{stored.plan.model} {stored.plan.version}"
    line = f"roll-out {number}: {model}: {_where_it_is(stored)}: {said}"
    return stored.progress.state in ENDED, [line]


def _described(found: Preview) -> list[str]:
    plan = found.plan
    lines = [f"{plan.model} {plan.version} for {len(found.types)} devices"]
    for wave, sizes in enumerate(found.sizes()):
        said = ", ".join(f"{count} {kind or 'without a profile'}" for kind, count in sizes.items())
        total = sum(sizes.values())
        lines.append(f"  wave {wave + 1} ({plan.waves[wave]}): {total} devices: {said or 'none'}")
    if found.there:
        lines.append(f"  {len(found.there)} of them have it already")
    for title, devices in (
        ("cannot run it", found.unfit),
        ("in another roll-out", {d: f"roll-out {n}" for d, n in found.busy.items()}),
    ):
        if devices:
            lines.append(f"  {len(devices)} {title}; it cannot be started:")
            lines += [f"    {name}: {why}" for name, why in sorted(devices.items())[:_SHOWN]]
            if len(devices) > _SHOWN:
                lines.append(f"    and {len(devices) - _SHOWN} more: preview --json has them all")
    return lines


def _json_of(found: Preview) -> dict[str, Any]:
    return {
        "plan": found.plan.model_dump(mode="json"),
        "devices": len(found.types),
        "waves": found.sizes(),
        "unfit": dict(found.unfit),
        "busy": dict(found.busy),
        "there": list(found.there),
    }


def _row(stored: Stored) -> dict[str, Any]:
    return {
        "rollout": stored.id,
        "model": stored.plan.model,
        "version": stored.plan.version,
        "state": stored.progress.state.value,
        "wave": stored.progress.wave + 1,
        "waves_total": len(stored.plan.waves),
        "since": stored.progress.since,
        "reason": stored.progress.reason,
        "asked": stored.asked,
        "created_at": stored.created_at,
        "created_by": stored.created_by,
    }


def _where_it_is(stored: Stored) -> str:
    progress = stored.progress
    said = f"{progress.state.value}, wave {progress.wave + 1} of {len(stored.plan.waves)}"
    said += f": {progress.reason}" if progress.reason else ""
    return said + (f" ({stored.asked} asked for)" if stored.asked else "")


def _utc(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))


def _print(lines: Sequence[str]) -> None:
    sys.stdout.write(printable("\n".join(lines) + "\n"))
    sys.stdout.flush()


def _print_json(found: object) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def _options() -> argparse.ArgumentParser:
    options = parser("edgeslm fleet rollout", __doc__)
    options.epilog = f"verbs:\n{_VERBS}\n{_EPILOG}"
    options.add_argument("verb", choices=list(_RUN), metavar="VERB")
    options.add_argument("number", nargs="?", type=whole(1, 2**31), metavar="ROLLOUT")
    add_database(options)
    options.add_argument("--json", action="store_true", help="as one JSON object")
    options.add_argument("--watch", action="store_true", help="show: until it has ended")
    options.add_argument(
        "--limit", type=whole(1, 1000), default=20, metavar="N", help="list: so many (default: 20)"
    )
    of = options.add_argument_group("what a roll-out is (start, preview)")
    of.add_argument("--plan", type=Path, metavar="FILE", help="all of it: TOML, docs/rollouts.md")
    of.add_argument("--model", metavar="NAME")
    of.add_argument("--version", type=whole(1, 2**53), metavar="N")
    of.add_argument("--where", metavar="FILTER", help="devices, such as 'tag.hall = A'; else all")
    of.add_argument("--live", action="store_true", help="devices that match later join it")
    of.add_argument("--waves", metavar="W,W,...", help="such as 1%%,10%%,100%% or 5,50,100%%")
    of.add_argument(
        "--canaries", type=whole(0, 1000), metavar="N", help="of each type in the first wave"
    )
    of.add_argument("--soak", type=span, metavar="TIME", help="between waves, such as 30m or 1d")
    of.add_argument("--deadline", type=span, metavar="TIME", help="for each device")
    of.add_argument("--quiet", type=span, metavar="TIME", help="not heard of, it is silent again")
    of.add_argument("--failed", metavar="SHARE", help="of failed devices, such as 5%%")
    of.add_argument("--silent", metavar="SHARE", help="of silent devices")
    of.add_argument("--error-share", type=positive(1, "errors an answer"), metavar="X")
    of.add_argument("--latency-ratio", type=positive(1000, "times"), metavar="X")
    of.add_argument("--alarm-ratio", type=positive(1000, "times"), metavar="X")
    of.add_argument(
        "--answers", type=whole(1, 2**53), metavar="N", help="from which those three are judged"
    )
    of.add_argument("--on-breach", choices=("abort", "pause"))
    of.add_argument(
        "--hours", action="append", metavar="HH:MM-HH:MM", help="when devices may be moved, UTC"
    )
    of.add_argument("--late", choices=("catch_up", "write_off"), help="silent devices, at the end")
    return options


_RUN: Final[dict[str, Callable[[Repository, Engine, argparse.Namespace], int]]] = {
    "preview": _preview,
    "start": _start,
    "list": _list,
    "show": _show,
    "pause": _ask,
    "resume": _ask,
    "abort": _ask,
}
