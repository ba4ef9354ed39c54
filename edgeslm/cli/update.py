"""`edgeslm update --from PATH`: take models from a stick, with the same signatures as by MQTT."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from edgeslm import logs
from edgeslm.cli.text import printable
from edgeslm.cli.updates import described, require_extra, update_of
from edgeslm.contract.control import Answer, Errand
from edgeslm.contract.messages import ErrorInfo
from edgeslm.contract.settings import AgentSettings, load_settings
from edgeslm.errors import EXIT_INTERRUPTED, EXIT_REJECTED, EdgeSLMError
from edgeslm.updater.door import UpdaterAwayError, ask

_SILENT_S: Final = 600.0  # of an updater that works


def main(argv: Sequence[str] | None = None) -> int:
    """Have the device's updater do it, or do it here where none runs."""
    parser = argparse.ArgumentParser(
        prog="edgeslm update",
        description="Take models from a folder or a tar, as `edgeslm fleet stick` writes it.",
    )
    parser.add_argument("--config", type=Path, required=True, help="settings, TOML, with [update]")
    parser.add_argument(
        "--trust-clock",
        action="store_true",
        help="you have looked: the device's clock is right, though nothing keeps it so",
    )
    parser.add_argument("--from", dest="stick", type=Path, required=True, metavar="PATH")
    args = parser.parse_args(argv)
    settings = load_settings(args.config)
    directory = update_of(settings).dir
    stick = args.stick.absolute()
    try:
        errand = Errand(do="take", path=str(stick), trust_clock=args.trust_clock)
        errors = _told(ask(directory, errand, timeout_s=_SILENT_S))
    except UpdaterAwayError:
        errors = _here(settings, stick, trust_clock=args.trust_clock)
    for error in errors:
        said = f"edgeslm update: {error['message']} [{error['code']}]\n"
        sys.stderr.write(printable(said))
    return EXIT_REJECTED if errors else 0


def _told(answers: Iterator[Answer]) -> Sequence[ErrorInfo]:
    """Show how it goes; return what came to nothing."""
    errors: Sequence[ErrorInfo] = ()
    shown = ""
    for answer in answers:
        errors = answer.errors
        if answer.state is not None and (line := described(answer.state)[0]) != shown:
            shown = line
            sys.stdout.write(printable(f"{line}\n"))
    return errors


def _here(settings: AgentSettings, stick: Path, *, trust_clock: bool) -> Sequence[ErrorInfo]:
    require_extra()
    logs.configure(device=settings.device_id, level=settings.log_level)
    from edgeslm.updater.driver import HaltedError  # noqa: PLC0415 -- imports tuf
    from edgeslm.updater.wiring import opened  # noqa: PLC0415

    with opened(settings, update_of(settings), online=False) as updater:

        def on_stop(_signal: int, _frame: FrameType | None) -> None:
            updater.stop()

        signal.signal(signal.SIGTERM, on_stop)
        signal.signal(signal.SIGINT, on_stop)
        try:
            failed: Sequence[EdgeSLMError] = updater.take(stick, trust_clock=trust_clock)
        except HaltedError:
            sys.exit(EXIT_INTERRUPTED)
    return [{"code": err.code, "message": str(err)} for err in failed]
