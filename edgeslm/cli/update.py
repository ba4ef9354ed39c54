"""`edgeslm update --from PATH`: take models from a stick, with the same signatures as by MQTT.

Or have the device try again what it remembers as bad: `--forget-bad MODEL`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from edgeslm import logs
from edgeslm.adapters.signals import acting_on
from edgeslm.cli.text import printable
from edgeslm.cli.updates import described, require_extra, update_of
from edgeslm.contract.base import problems_of
from edgeslm.contract.control import Answer, Errand
from edgeslm.contract.messages import ErrorInfo
from edgeslm.contract.settings import AgentSettings, load_settings
from edgeslm.errors import EXIT_INTERRUPTED, EdgeSLMError, InvalidFileError
from edgeslm.updater.door import UpdaterAwayError, ask

_SILENT_S: Final = 600.0  # of an updater that works


def main(argv: Sequence[str] | None = None) -> int:
    """Have the device's updater do it, or do it here where none runs."""
    parser = argparse.ArgumentParser(
        prog="edgeslm update",
        description="Take models from a folder or a tar, as `edgeslm fleet stick` writes it; "
        "or forget what failed here, so that it may be tried again.",
    )
    parser.add_argument("--config", type=Path, required=True, help="settings, TOML, with [update]")
    parser.add_argument(
        "--trust-clock",
        action="store_true",
        help="you have looked: the device's clock is right, though nothing keeps it so",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--from", dest="stick", type=Path, metavar="PATH")
    what.add_argument(
        "--forget-bad", metavar="MODEL", help="versions of it that failed here are tried again"
    )
    what.add_argument("--forget-bad-config", action="store_true", help="the same of configurations")
    args = parser.parse_args(argv)
    settings = load_settings(args.config)
    errand = _errand(args)
    try:
        last = _told(ask(update_of(settings).dir, errand, timeout_s=_SILENT_S))
    except UpdaterAwayError:
        last = _here(settings, errand)
    for error in last.errors:
        said = f"edgeslm update: {error['message']} [{error['code']}]\n"
        sys.stderr.write(printable(said))
    return last.exit_status if last.errors else 0


def _errand(args: argparse.Namespace) -> Errand:
    if args.stick is not None:
        return Errand(do="take", path=str(args.stick.absolute()), trust_clock=args.trust_clock)
    try:
        return Errand(do="forget", model=args.forget_bad)
    except ValidationError as err:
        problems = [("--forget-bad", what) for _, what in problems_of(err)]
        where = "options"
        raise InvalidFileError(where, problems, remedy="Name a model of this device.") from None


def _told(answers: Iterator[Answer]) -> Answer:
    """Show how it goes; return what was said last."""
    last = Answer()
    shown = ""
    for answer in answers:
        last = answer
        if answer.state is not None and (line := described(answer.state)[0]) != shown:
            shown = line
            sys.stdout.write(printable(f"{line}\n"))
    return last


def _here(settings: AgentSettings, errand: Errand) -> Answer:
    """Do it where no updater runs; return how it ended."""
    require_extra()
    logs.configure(device=settings.device_id, level=settings.log_level)
    from edgeslm.updater.control import status_of  # noqa: PLC0415
    from edgeslm.updater.driver import HaltedError  # noqa: PLC0415 -- imports tuf
    from edgeslm.updater.wiring import opened  # noqa: PLC0415

    with (
        opened(settings, update_of(settings), online=False) as updater,
        acting_on({signal.SIGTERM: updater.stop, signal.SIGINT: updater.stop}),
    ):
        try:
            failed: Sequence[EdgeSLMError] = updater.run_errand(errand)
        except HaltedError:
            sys.exit(EXIT_INTERRUPTED)
    errors: list[ErrorInfo] = [{"code": err.code, "message": str(err)} for err in failed]
    return Answer(over=True, errors=tuple(errors), exit_status=status_of(failed))
