"""`edgeslm status`: what this device runs, and how its update goes."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from edgeslm.adapters.slot_store import ReadOnlySlots
from edgeslm.cli.text import printable
from edgeslm.cli.updates import accepted_seq, described, update_of
from edgeslm.contract.control import Errand
from edgeslm.contract.messages import UpdateState
from edgeslm.contract.settings import load_settings
from edgeslm.updater.door import UpdaterAwayError, ask
from edgeslm.updater.voice import state_of


def main(argv: Sequence[str] | None = None) -> int:
    """Print it; the same as goes out on the device's topic `update`."""
    parser = argparse.ArgumentParser(
        prog="edgeslm status", description="Say what this device runs, and how its update goes."
    )
    parser.add_argument("--config", type=Path, required=True, help="settings, TOML, with [update]")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args(argv)
    settings = load_settings(args.config)
    directory = update_of(settings).dir
    running = True
    state: UpdateState | None = None
    try:
        for answer in ask(directory, Errand(do="status")):
            state = answer.state or state
    except UpdaterAwayError:
        running = False
    if state is None:
        table, seq = ReadOnlySlots(directory).read(), accepted_seq(directory)
        state = state_of(table, device=settings.device_id, now=time.time(), seq=seq)
    if args.json:
        sys.stdout.write(json.dumps({"running": running, **state}) + "\n")
        return 0
    lines = described(state)
    if not running:
        lines.insert(0, "no updater runs; this is what it left")
    sys.stdout.write(printable("\n".join(lines) + "\n"))
    return 0
