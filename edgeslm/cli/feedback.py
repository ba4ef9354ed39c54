"""`edgeslm feedback`: list, take back and export what operators have taught this device."""

from __future__ import annotations

import argparse
import contextlib
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
from edgeslm.agent.shelf import Shelf
from edgeslm.cli.text import printable, whole
from edgeslm.contract.learning import FeedbackSettings
from edgeslm.contract.settings import AgentSettings, load_settings
from edgeslm.core.template import MARK
from edgeslm.errors import EdgeSLMError, RejectedError, UnavailableError
from edgeslm.runtime.bundle import open_bundle

_EPILOG: Final = """\
verbs:
  list       every lesson: its number, what it says, who gave it and when; the texts stay here
  undo ID    take lessons back; an agent that runs knows within seconds, another when it starts
  forget SOURCE  take back what a source that was not in training has learnt: it learns anew
  export     those of one model that count, as JSON lines that edgeslm-export takes by --data

exit status:
  0   done
  65  there is no such lesson or source, or none to export, or it is not clear of which model
      or task
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


class WhichError(RejectedError):
    """What to export is not clear: of which model, or for which task."""

    code = "feedback.which"


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    args = _arguments(argv)
    settings = load_settings(args.config)
    log = _opened(settings, readonly=args.verb not in _CHANGING)
    try:
        if args.verb == "export":
            _export(log, settings, args)
        else:
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
    forgotten = [] if args.token is not None or args.unsigned else log.forgotten()
    gone = [each for each in forgotten if args.model in {None, each.model}]
    for one in gone:
        told = f"{one.model}: {one.source} was made to learn anew  by {one.by}"
        sys.stdout.write(printable(f"{_utc(one.at)}  {told}") + "\n")
    if not found and not gone:
        sys.stdout.write("none\n")
    if lost := log.lost()[0]:
        sys.stdout.write(f"and {lost} that were taken back, which the record had no room for\n")


def _undo(log: LessonLog, args: argparse.Namespace) -> None:
    ids = list(args.ids)
    if args.token is not None or args.unsigned:
        ids += [x.lesson.id for x in log.all() if _is_asked(x, args) and x.undone is None]
    undone = log.undo(ids, at=time.time(), by=_who())
    for each in undone:
        sys.stdout.write(f"{each.lesson.id}: undone\n")
    missing = sorted(set(args.ids) - {each.lesson.id for each in undone})
    if missing or not undone:
        which = ", ".join(map(str, missing)) or "as asked for"
        msg = f"no lesson {which} counts; `edgeslm feedback list` has them"
        raise NoLessonError(msg)


def _forget(log: LessonLog, args: argparse.Namespace) -> None:
    for source in args.ids:
        models = [args.model] if args.model else log.models_of(source)
        gone = [name for name in models if log.forget(name, source, at=time.time(), by=_who())]
        for name in gone:
            sys.stdout.write(printable(f"{name}: {source} learns anew") + "\n")
        if not gone:
            msg = f"{source} has learnt nothing, or was in training"
            raise NoLessonError(msg)


def _who() -> str:
    return f"{getpass.getuser()} (on the device)"


def _export(log: LessonLog, settings: AgentSettings, args: argparse.Namespace) -> None:
    taught = [each for each in log.all() if _is_asked(each, args) and each.undone is None]
    models = sorted({each.model for each in taught})
    if len(models) > 1:
        msg = f"there are lessons of {', '.join(models)}: name one by --model"
        raise WhichError(msg)
    last = _last_of_each(taught)
    task = _task(settings, models[0], last, args.task) if models else args.task
    rows = [row for each in last if (row := _example(each, task)) is not None]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    said = (
        f"{len(rows)} examples; {len(last) - len(rows)} left out: of a template, not of a text, or "
        "of another task"
    )
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


def _task(settings: AgentSettings, model: str, taught: Sequence[Taught], asked: str | None) -> str:
    """Return the task of a model: by its bundle; where none is here, by its lessons.

    Raises:
        WhichError: by neither, and it was not asked for; or something else was.
    """
    kinds = {each.lesson.kind for each in taught}
    found = _task_of_bundle(settings, model)
    if found is None and "intent" in kinds:
        found = "intent"
    elif found is None and "normal" in kinds:
        found = "anomaly"
    if found is None and asked is None:
        msg = f"{model}: no bundle is here that would say its task: name it by --task"
        raise WhichError(msg)
    if found is not None and asked not in {None, found}:
        msg = f"{model}: its task is {found}, and not {asked}: leave --task out"
        raise WhichError(msg)
    return found or asked or ""


def _task_of_bundle(settings: AgentSettings, model: str) -> str | None:
    """Return the task of the bundle that serves, or may; None: none is here, or not whole."""
    places: list[Path] = []
    with contextlib.suppress(EdgeSLMError):
        if settings.update is not None:
            shelf = Shelf(settings.update.dir)
            shelf.read()
            places += [each.path for found in shelf.sources(model) for each in found]
    own = settings.models.get(model)
    if own is not None and own.bundle is not None:
        places.append(own.bundle)
    for place in places:
        with contextlib.suppress(EdgeSLMError):
            return open_bundle(place, verify=False).manifest.task
    return None


_VERBS: Final = {"list": _list, "undo": _undo, "forget": _forget}
_CHANGING: Final = frozenset({"undo", "forget"})


def _last_of_each(taught: Sequence[Taught]) -> list[Taught]:
    """Return of lessons about the same text the one that counts."""
    ordered = sorted(taught, key=lambda each: each.lesson.order)
    last = {(x.model, x.lesson.text, x.lesson.source, x.lesson.whole): x for x in ordered}
    return sorted(last.values(), key=lambda each: each.lesson.id)


def _example(taught: Taught, task: str | None) -> dict[str, object] | None:
    """Return the example that a lesson makes; None: a template's numbers are not known.

    Nor does one that was taught when the model had another task make any.
    """
    lesson = taught.lesson
    if not lesson.whole and MARK in lesson.text:
        return None
    if lesson.kind == ("normal" if task == "intent" else "intent"):
        return None
    label = lesson.label or lesson.kind
    if lesson.kind == "anomaly" and task == "intent":
        label = _OUT_OF_SCOPE
    row: dict[str, object] = {"text": lesson.text, "label": label, "time": lesson.time}
    row["lesson"] = lesson.id  # by it the exporter knows that it is to be learnt from
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
    who = f"by {taught.operator}, token {taught.token}" if taught.token else "without a token"
    parts = [f"{lesson.id}  {_utc(taught.arrived)}  {taught.model}: {says}  {who}"]
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
    if args.unsigned and taught.token:
        return False
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
    add("verb", choices=("export", "forget", "list", "undo"), metavar="VERB")
    add("ids", nargs="*", metavar="ID|SOURCE")
    add("--config", type=Path, required=True, help="settings, TOML")
    add("--model", metavar="NAME", help="of this one alone; export: needed for one of several")
    add("--token", metavar="ID", help="of this token alone; undo: all that it taught")
    add("--unsigned", action="store_true", help="without a token alone; undo: all of them")
    add("--json", action="store_true", help="list: a JSON object for each")
    add("--out", type=Path, metavar="FILE", help="export: where to; else standard output")
    add(
        "--task",
        choices=("anomaly", "intent"),
        help="export: the model's, where its bundle is not here; of an intent, `anomaly` is `oos`",
    )
    args = parser.parse_args(argv)
    if args.token is not None and args.unsigned:
        parser.error("--token and --unsigned exclude each other")
    if args.verb == "undo" and not args.ids and args.token is None and not args.unsigned:
        parser.error("undo: which ID, or --token, or --unsigned?")
    if args.verb == "undo" and args.ids and args.model is not None:
        parser.error("undo: an ID needs no --model")
    if args.verb == "forget" and not args.ids:
        parser.error("forget: which SOURCE?")
    if args.verb == "undo":
        try:
            args.ids = [whole(1, _MOST_ID)(each) for each in args.ids]
        except argparse.ArgumentTypeError as err:
            parser.error(f"argument ID: {err}")
    elif args.verb != "forget" and args.ids:
        parser.error(f"{args.verb}: takes no ID")
    return args
