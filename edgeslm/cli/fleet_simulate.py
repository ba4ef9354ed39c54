"""`edgeslm fleet simulate --broker HOST --scenario FILE`: devices that are not there."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgeslm import logs
from edgeslm.adapters.fs import write_durably
from edgeslm.adapters.signals import acting_on
from edgeslm.cli.fleet import require_extra
from edgeslm.cli.fleet_publish import add_broker, broker_of
from edgeslm.cli.text import positive, whole
from edgeslm.contract.topics import DEFAULT_ROOT
from edgeslm.errors import ConfigError
from edgeslm.simulate.scenario import MAX_DEVICES, read_scenario

_ROOT_FILE: Final = Path("metadata", "1.root.json")
_MAX_ROOT_BYTES: Final = 128 * 1024
_MOST_S: Final = 90 * 86_400
_REMEDY: Final = "Give --repository of the fleet, or --root: `edgeslm fleet keys export-root`."
_EPILOG: Final = """\
Never on the broker of a fleet that works: whoever may connect there could confuse it, and the
service would count these devices among its own. docs/simulator.md says how to rehearse.

exit status:
  0   stopped, by SIGINT, SIGTERM or --seconds
  75  a package is missing, or the system allows too few open files
  78  the scenario, the root of trust or an option cannot be used
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    args = _options().parse_args(argv)
    broker = broker_of(args)
    require_extra()
    scenario = read_scenario(args.scenario, args.devices)
    root = _root_of(args.root or args.repository / _ROOT_FILE)
    logs.configure(device="edgeslm-simulate", level=args.log_level)
    logging.getLogger("tuf").setLevel(logging.WARNING)  # it tells of each signature
    if args.log_level in {"warning", "error"}:  # what a scenario has its devices fail with
        logging.getLogger("edgeslm.updater.voice").setLevel(logging.CRITICAL)
    from edgeslm.simulate.report import summary  # noqa: PLC0415 -- needs the extra
    from edgeslm.simulate.simulation import Simulation  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="edgeslm-simulate-") as folder:
        simulation = Simulation(
            scenario,
            args.devices,
            root=root,
            broker=broker,
            topic_root=args.topic_root,
            folder=Path(folder),
            prefix=args.prefix,
        )
        timer = None
        if args.seconds is not None:
            timer = threading.Timer(args.seconds, simulation.stop)
            timer.daemon = True
            timer.start()
        with acting_on({signal.SIGTERM: simulation.stop, signal.SIGINT: simulation.stop}):
            if sys.stderr.isatty():
                from edgeslm.simulate.screen import watched  # noqa: PLC0415 -- draws

                with watched() as watch:
                    simulation.run(watch=watch)
            else:
                simulation.run()
        if timer is not None:
            timer.cancel()
        found = summary(simulation.records)
    if args.report is not None:
        write_durably(args.report, json.dumps(found).encode())
    sys.stdout.write(json.dumps(found["totals"]) + "\n")
    return 0


def _root_of(file: Path) -> bytes:
    """Return the root of trust.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_ROOT_BYTES)
    except OSError as err:
        raise ConfigError(str(file), [("", err.strerror or "")], remedy=_REMEDY) from None


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="edgeslm fleet simulate",
        description=(__doc__ or "").partition(": ")[2],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_broker(options)
    options.add_argument(
        "--scenario", type=Path, required=True, metavar="FILE", help="TOML, docs/simulator.md"
    )
    options.add_argument(
        "--devices", type=whole(1, MAX_DEVICES), default=100, metavar="N", help="default: 100"
    )
    of = options.add_mutually_exclusive_group()
    of.add_argument(
        "--repository", type=Path, default=Path("fleet"), metavar="DIR", help="default: fleet"
    )
    of.add_argument("--root", type=Path, metavar="FILE", help="root of trust, in its place")
    options.add_argument("--topic-root", default=DEFAULT_ROOT, metavar="TOPIC")
    options.add_argument("--prefix", default="sim", metavar="NAME", help="of the devices' ids")
    options.add_argument(
        "--seconds", type=positive(_MOST_S, "seconds"), metavar="S", help="then stop"
    )
    options.add_argument(
        "--report", type=Path, metavar="FILE", help="at the end, what each device saw: JSON"
    )
    options.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="warning"
    )
    return options
