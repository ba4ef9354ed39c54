"""What `edgeslm fleet doctor` and `edgeslm fleet bench` share: they ask a device by MQTT."""

from __future__ import annotations

import argparse
import secrets
import sys
from typing import Final

from edgeslm.cli.fleet import add_database, database, opened, parser
from edgeslm.cli.fleet_publish import add_broker, broker_of
from edgeslm.cli.text import duration, printable
from edgeslm.contract.fleet import Diagnosis
from edgeslm.contract.topics import Topics
from edgeslm.updater.mailbox import open_mailbox

ANSWER_S: Final = 240.0  # a device gives a program 180 s
_EPILOG: Final = """\
The command is signed by the director's key; the device heeds it once, runs the program at low
priority, six in an hour at most, and sends up to 64 KiB of what it says. Texts stay there.

exit status:
  0.. that of the program on the device (edgeslm doctor --help, edgeslm bench --help)
  65  the device would not, or cannot be asked: says why
  75  no answer, no broker, or not now: a key is not there, the database is down
  78  an option, or fleet.toml, cannot be used
"""


def options_of(do: Diagnosis, doc: str | None) -> argparse.ArgumentParser:
    """Return a command's options."""
    options = parser(f"edgeslm fleet {do}", doc)
    options.epilog = _EPILOG
    options.add_argument("device", metavar="DEVICE", help="its id")
    add_broker(options)
    add_database(options)
    options.add_argument(
        "--timeout",
        type=duration,
        default=ANSWER_S,
        metavar="SECONDS",
        help=f"for the answer (default: {ANSWER_S:.0f})",
    )
    return options


def run(do: Diagnosis, args: argparse.Namespace, *, model: str | None) -> int:
    """Ask, wait, and print; returns the exit status."""
    broker = broker_of(args)
    repository = opened(args)
    from edgeslm.fleet import diagnostics  # noqa: PLC0415 -- needs the extra

    made, envelope = diagnostics.command(
        repository, database(args, repository), args.device, do, model=model
    )
    topics = Topics(repository.config.topic_root, args.device)
    mailbox = open_mailbox(f"edgeslm-fleet-{secrets.token_hex(4)}", broker)
    try:
        reply = diagnostics.ask(mailbox, topics, made, envelope, timeout_s=args.timeout)
    finally:
        mailbox.close()
    sys.stdout.write(printable(reply.output))
    if reply.cut:
        sys.stderr.write(f"edgeslm fleet {do}: note: it said more than travels\n")
    return reply.status or 0
