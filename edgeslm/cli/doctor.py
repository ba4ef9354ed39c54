"""`edgeslm doctor`: look at this device and its settings, and say what to mend."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final

from edgeslm import __version__
from edgeslm.cli.checks import Finding, guarded, raised
from edgeslm.cli.text import printable
from edgeslm.contract.settings import AgentSettings, load_settings, read_settings
from edgeslm.errors import (
    EXIT_CONFIG,
    EXIT_REJECTED,
    EXIT_UNAVAILABLE,
    ConfigError,
    NotProvisionedError,
)

_EPILOG: Final = """\
Without --config only the device is looked at. Look as the user that the agent runs as, or as root.
It may run beside the agent: it takes over none of its sessions, and changes nothing.

exit status, by the worst error:
  0   none; there may be warnings
  78  the settings, or credentials, cannot be used
  65  a bundle, or the device, does not fit: waiting will not help
  75  something is away or full for now: broker, network, clock, disk
"""
_WORST_FIRST: Final = (EXIT_CONFIG, EXIT_REJECTED, EXIT_UNAVAILABLE)

# (check, its module, its function), in the order in which they are told. Imported one by one:
# where the runtime itself does not load, the others are still worth knowing.
CHECKS: Final = (
    ("clock", "device", "clock"),
    ("cpu", "device", "cpu"),
    ("provider", "providers", "execution_providers"),
    ("telemetry", "device", "telemetry"),
    ("folders", "files", "folders"),
    ("secrets", "files", "secrets"),
    ("model", "models", "models"),
    ("update", "updates", "updates"),
    ("broker", "brokers", "brokers"),
)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="edgeslm doctor",
        description=(__doc__ or "").partition(": ")[2],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, help="the agent's settings, TOML")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    args = parser.parse_args(argv)
    found: list[Finding] = []
    for finding in examine(args.config):
        found.append(finding)
        if not args.json:  # as it is found: a broker that is away takes seconds
            sys.stdout.write(printable(_line(finding)))
            sys.stdout.flush()
    status = next((s for s in _WORST_FIRST if any(f.status == s for f in found)), 0)
    counts = {level: sum(f.level == level for f in found) for level in ("error", "warning", "ok")}
    if args.json:
        report = {
            "edgeslm": __version__,
            "exit_status": status,
            "counts": counts,
            "findings": [
                {
                    "check": f.check,
                    "level": f.level,
                    "found": f.found,
                    "remedy": f.remedy,
                    "code": f.code,
                }
                for f in found
            ],
        }
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        sys.stdout.write(f"{counts['error']} errors, {counts['warning']} warnings\n")
    return status


def examine(config: Path | None) -> Iterator[Finding]:
    """Yield what every check finds; where the settings cannot be read, of the device alone."""
    settings: AgentSettings | None = None
    if config is not None:
        try:
            settings = load_settings(config)
        except ConfigError as err:
            yield from raised("config", err, remedy=err.remedy)
            if isinstance(err, NotProvisionedError):  # what lets it in lies there already
                unnamed = read_settings(config)
                yield from guarded("secrets", partial(_find, "files", "secrets", unnamed))
        else:
            find = partial(_find, "files", "settings_file", settings, path=config)
            yield from guarded("config", find)
    for check, module, function in CHECKS:
        yield from guarded(check, partial(_find, module, function, settings))


def _find(
    module: str, function: str, settings: AgentSettings | None, **options: Path
) -> Iterable[Finding]:
    check: Callable[..., Iterable[Finding]] = getattr(
        import_module(f"edgeslm.cli.checks.{module}"), function
    )
    return check(settings, **options)


def _line(finding: Finding) -> str:
    line = f"{finding.level:<8} {finding.check:<20} {' '.join(finding.found.splitlines())}\n"
    if finding.remedy:
        line += f"{'':<8} {'':<20} -> {finding.remedy}\n"
    return line
