"""`edgeslm provision`: get this device's certificate, renew it before it ends, else do nothing."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from edgeslm.cli.broker_files import try_files
from edgeslm.cli.text import duration, printable
from edgeslm.contract.settings import UNPROVISIONED, AgentSettings, read_settings
from edgeslm.provision.errors import ProvisionExtraError

WAIT_S: Final = 30.0
_EPILOG: Final = """\
At each boot and once a day: what is due is done, and where nothing is, this ends at once. Killed
anywhere, the next one goes on. The agent and the updater take a new certificate when they connect.

exit status:
  0   there is a certificate; by a clock that is behind it may not be valid yet, which is said
  65  refused: the token is used or unknown, the device was revoked or copied, the broker's
      authority is unknown, ...; says which, and what to do
  75  not now: nobody answers, the disk is full, the clock is not set, ...; try again
  78  the settings do not say how
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = argparse.ArgumentParser(
        prog="edgeslm provision",
        description=(__doc__ or "").partition(": ")[2],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "--config", type=Path, required=True, help="settings, TOML, with [provision]"
    )
    options.add_argument("--renew", action="store_true", help="now, whenever the one there ends")
    options.add_argument(
        "--wait",
        type=duration,
        default=WAIT_S,
        metavar="SECONDS",
        help=f"for an answer (default: {WAIT_S:g})",
    )
    args = options.parse_args(argv)
    settings = read_settings(args.config)
    _try_files(args.config, settings)
    if importlib.util.find_spec("cryptography") is None:
        msg = "cryptography: not installed. pip install 'edgeslm[update]'"
        raise ProvisionExtraError(msg)
    from edgeslm.adapters.clock import SystemClock  # noqa: PLC0415 -- needs what was just checked
    from edgeslm.provision.exchange import ask  # noqa: PLC0415
    from edgeslm.provision.machine import machine  # noqa: PLC0415
    from edgeslm.provision.provision import Provisioner  # noqa: PLC0415

    provisioner = Provisioner(
        settings, clock=SystemClock(), machine=machine(), ask=partial(ask, wait_s=args.wait)
    )
    outcome = provisioner.run(renew=args.renew)
    identity = outcome.identity
    until = time.strftime("%Y-%m-%d", time.gmtime(identity.not_after))
    new = "new certificate" if outcome.renewed else "certificate"
    lines = [f"{identity.device}: {new} {identity.serial}, good until {until}"]
    if outcome.clock_behind:
        clock = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        lines.append(f"by this device's clock, {clock}, it is not valid yet: set the clock")
    if settings.device_id not in {UNPROVISIONED, identity.device}:
        lines.append(
            f"device_id: the settings say {settings.device_id}; it was provisioned as "
            f"{identity.device}, and stays that"
        )
    sys.stdout.write(printable("\n".join(lines) + "\n"))
    return 0


def _try_files(config: Path, settings: AgentSettings) -> None:
    """Read the files that brokers' sections name; [provision] says itself what it lacks."""
    try_files(config, "uplink", settings.uplink)
    if settings.provision is not None and settings.provision.broker is not None:
        try_files(config, "provision.broker", settings.provision.broker)
