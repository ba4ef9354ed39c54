"""`edgeslm feedback`: list, take back and export what operators have taught this device."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edgeslm.adapters.fs import write_durably
from edgeslm.adapters.lessons import NAME, LessonLog, Taught
from edgeslm.cli.text import printable, whole
from edgeslm.contract.learning import FeedbackSettings
from edgeslm.contract.settings import AgentSettings, load_settings
from edgeslm.core.template import MARK
from edgeslm.errors import RejectedError, UnavailableError

_EPILOG: Final = """\
verbs:
  list       every lesson: its number, what it says, who gave it and when; the texts stay here
  undo ID    take lessons back; an agent that runs knows within seconds
  export     those that count, as JSON lines that edgeslm-export takes by --data

exit status:
  0   done
  65  there is no such lesson, or none to export
  75  the file of lessons is not there, or cannot be read or written now
  78  the settings cannot be used
"""
_OUT_OF_SCOPE: Final = "oos"
_MOST_ID: Final = 2**53


class NotExportedError(UnavailableError):
    """The file for exported lessons cannot be written."""

    code = "feedback.not_exported"


class NoLessonError(RejectedError):
    """No lesson is as asked for."""

    code = "feedback.none"


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    args = _arguments(argv)
    settings = load_settings(args.config)
    log = _opened(settings, readonly=args.verb != "undo")
    try:
        _VERBS[args.verb](log, args)
    finally:
        log.close()
    return 0


def _list(log: LessonLog, args: argparse.Namespace) -> None:
    found = [each for each in log.all() if _is_asked(each, args)]
    if args.json:
        sys.stdout.writelines(json.dumps(_row(each)) + "\n" for each in found)
        return
    for each in found:
        sys.stdout.write(printable(_line(each)) + "\n")
    if not found:
        sys.stdout.write("none\n")


def _undo(log: LessonLog, args: argparse.Namespace) -> None:
    ids = list(args.ids)
    if args.token is not None:
        ids += [x.lesson.id for x in log.all() if x.token == args.token and x.undone is None]
    undone = log.undo(ids, at=time.time(), by=f"{getpass.getuser()} (on the device)")
    for each in undone:
        sys.stdout.write(f"{each.lesson.id}: undone\n")
    missing = sorted(set(args.ids) - {each.lesson.id for each in undone})
    if missing or not undone:
        which = ", ".join(map(str, missing)) or f"of token {args.token}"
        msg = f"no lesson {which} counts; `edgeslm feedback list` has them"
        raise NoLessonError(msg)


def _export(log: LessonLog, args: argparse.Namespace) -> None:
    taught = [each for each in log.all() if _is_asked(each, args) and each.undone is None]
    last = _last_of_each(taught)
    rows = [row for each in last if (row := _example(each, args.task)) is not None]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    said = f"{len(rows)} examples; {len(last) - len(rows)} left out: of a template, not of a text"
    if not rows:
        msg = f"nothing to export: {said}"
        raise NoLessonError(msg)
    if args.out is None:
        sys.stdout.writelines(lines)
    else:
        try:
            write_durably(args.out, "".join(lines).encode())
        except OSError as err:
            msg = f"{args.out}: {err.strerror or err}. Give --out a place that can be written."
            raise NotExportedError(msg) from None
    sys.stderr.write(printable(f"edgeslm feedback: {said}\n"))


_VERBS: Final = {"list": _list, "undo": _undo, "export": _export}


def _last_of_each(taught: Sequence[Taught]) -> list[Taught]:
    """Return of lessons about the same text the one that counts."""
    ordered = sorted(taught, key=lambda each: each.lesson.order)
    last = {(x.model, x.lesson.text, x.lesson.source, x.lesson.whole): x for x in ordered}
    return sorted(last.values(), key=lambda each: each.lesson.id)


def _example(taught: Taught, task: str) -> dict[str, object] | None:
    """Return the example that a lesson makes; None: a template's numbers are not known."""
    lesson = taught.lesson
    if not lesson.whole and MARK in lesson.text:
        return None
    label = lesson.label or lesson.kind
    if lesson.kind == "anomaly" and task == "intent":
        label = _OUT_OF_SCOPE
    row: dict[str, object] = {"text": lesson.text, "label": label, "time": lesson.time}
    if lesson.source is not None:
        row["source"] = lesson.source
    return row


def _row(taught: Taught) -> dict[str, object]:
    lesson = taught.lesson
    return {
        "lesson": lesson.id,
        "model": taught.model,
        "kind": lesson.kind,
        "label": lesson.label,
        "text": lesson.text,
        "whole": lesson.whole,
        "source": lesson.source,
        "time": lesson.time,
        "arrived": taught.arrived,
        "operator": taught.operator,
        "token": taught.token,
        "result": taught.result,
        "flags": list(taught.flags),
        "undone": taught.undone,
        "undone_by": taught.undone_by,
        "undone_token": taught.undone_token,
    }


def _line(taught: Taught) -> str:
    lesson = taught.lesson
    says = f"{lesson.kind} {lesson.label}".rstrip()
    what = lesson.text if lesson.whole else f"template {lesson.text}"
    who = f"{taught.operator}, token {taught.token}" if taught.token else "without a token"
    parts = [f"{lesson.id}  {_utc(taught.arrived)}  {taught.model}: {says}  by {who}"]
    if lesson.source is not None:
        parts.append(f"of {lesson.source}")
    if taught.flags:
        parts.append(", ".join(taught.flags))
    if taught.undone is not None:
        parts.append(f"undone {_utc(taught.undone)} by {taught.undone_by or 'nobody known'}")
    return "  ".join([*parts, what])


def _utc(at: float) -> str:
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return "at no time"


def _is_asked(taught: Taught, args: argparse.Namespace) -> bool:
    return args.model in {None, taught.model} and args.token in {None, taught.token}


def _opened(settings: AgentSettings, *, readonly: bool) -> LessonLog:
    told = settings.feedback or FeedbackSettings()
    return LessonLog(
        settings.state_dir / NAME,
        max_lessons=told.max_lessons,
        max_bytes=told.max_mb * 2**20,
        readonly=readonly,
        make=False,
    )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edgeslm feedback",
        description=(__doc__ or "").partition(": ")[2],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("verb", choices=sorted(_VERBS), metavar="VERB")
    add("ids", nargs="*", type=whole(1, _MOST_ID), metavar="ID")
    add("--config", type=Path, required=True, help="settings, TOML")
    add("--model", metavar="NAME", help="list, export: of this one alone")
    add("--token", metavar="ID", help="of this token alone; undo: all that it taught")
    add("--json", action="store_true", help="list: a JSON object for each")
    add("--out", type=Path, metavar="FILE", help="export: where to; else standard output")
    add(
        "--task",
        choices=("anomaly", "intent"),
        default="anomaly",
        help="export: what for; of an intent, `anomaly` is `oos` (default: anomaly)",
    )
    args = parser.parse_args(argv)
    if args.verb == "undo" and not args.ids and args.token is None:
        parser.error("undo: which ID, or --token?")
    if args.verb != "undo" and args.ids:
        parser.error(f"{args.verb}: takes no ID")
    return args
