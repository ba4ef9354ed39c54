"""`edgeslm run`: the agent, in the foreground."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgeslm import logs
from edgeslm.adapters.signals import acting_on
from edgeslm.agent.agent import Agent
from edgeslm.agent.wiring import RealParts
from edgeslm.cli import awaiting
from edgeslm.cli.broker_files import try_files
from edgeslm.runtime.profiles import load_profile

# A thread that wants the interpreter waits so long for one that computes. Python's 5 ms would be
# paid several times on the way of each message; much less would spend the time on switching.
SWITCH_INTERVAL_S: Final = 0.0005


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent until SIGTERM or SIGINT; SIGHUP reloads the settings."""
    parser = argparse.ArgumentParser(prog="edgeslm run", description="Run the agent.")
    parser.add_argument("--config", type=Path, required=True, help="settings, TOML")
    parser.add_argument("--wait", action="store_true", help=awaiting.HELP)
    args = parser.parse_args(argv)
    settings = awaiting.settings_for(args.config, wait=args.wait)
    if settings is None:
        return 0
    if settings.profile:  # a wrong one is said at once, and not of each model
        load_profile(settings.profile)
    for field in ("uplink", "input"):
        if (broker := getattr(settings, field)) is not None:
            try_files(args.config, field, broker)
    logs.configure(device=settings.device_id, level=settings.log_level)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    parts = RealParts(args.config, settings)
    agent = Agent(settings, parts)
    calls = {
        signal.SIGTERM: agent.stop,
        signal.SIGINT: agent.stop,
        signal.SIGHUP: agent.reload,
    }
    with parts.crashes.watching(), acting_on(calls):
        ended = agent.run()
    if not ended:
        # A thread is still inside native code, which would abort in an interpreter that is gone.
        logging.shutdown()
        os._exit(0)
    return 0
