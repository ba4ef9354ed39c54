"""`edgeslm updater`: fetch, try, keep and take back what the fleet assigns, in the foreground."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from edgeslm import logs
from edgeslm.adapters.signals import acting_on
from edgeslm.cli import awaiting
from edgeslm.cli.broker_files import try_files
from edgeslm.cli.updates import require_extra, update_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run the updater until SIGTERM or SIGINT, or until it was idle for long enough."""
    parser = argparse.ArgumentParser(prog="edgeslm updater", description="Run the updater.")
    parser.add_argument("--config", type=Path, required=True, help="settings, TOML, with [update]")
    parser.add_argument("--wait", action="store_true", help=awaiting.HELP)
    args = parser.parse_args(argv)
    settings = awaiting.settings_for(args.config, wait=args.wait)
    if settings is None:
        return 0
    update = update_of(settings)
    try_files(args.config, "uplink", settings.uplink)
    require_extra()
    logs.configure(device=settings.device_id, level=settings.log_level)
    from edgeslm.updater.wiring import opened  # noqa: PLC0415 -- imports tuf

    with (
        opened(settings, update, online=True, config=args.config) as updater,
        acting_on({signal.SIGTERM: updater.stop, signal.SIGINT: updater.stop}),
    ):
        updater.run()
    return 0
