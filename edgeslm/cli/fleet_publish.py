"""`edgeslm fleet publish --broker HOST`: serve the fleet's devices over MQTT until stopped."""

from __future__ import annotations

import argparse
import secrets
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from edgeslm import logs
from edgeslm.adapters.clock import SystemClock
from edgeslm.adapters.mqtt import MqttLink
from edgeslm.adapters.mqtt_open import LinkConfig, password_of, tls_context
from edgeslm.adapters.signals import acting_on
from edgeslm.cli.fleet import add_database, database, opened, parser
from edgeslm.contract.base import problems_of
from edgeslm.contract.brokers import Broker, Tls
from edgeslm.errors import ConfigError
from edgeslm.ports import Letter, Sink, Transport

WINDOW: Final = 64
RECEIVE_MAXIMUM: Final = 1024
_REMEDY: Final = "Correct the option and start again."


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    args = _options().parse_args(argv)
    broker = broker_of(args)
    repository = opened(args)
    from edgeslm.fleet.served import ServedRepository  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.server import Server  # noqa: PLC0415

    served = ServedRepository(repository, database(args, repository))
    name = f"edgeslm-fleet-{secrets.token_hex(4)}"
    logs.configure(device=name, level=args.log_level)
    config = LinkConfig(name, broker, receive_maximum=RECEIVE_MAXIMUM, window=WINDOW)

    def connect(sink: Sink) -> Transport[Letter]:
        return MqttLink[Letter](config, sink)

    server = Server(
        served,
        connect,
        root=repository.config.topic_root,
        clock=SystemClock(),
        publishes=not args.blocks_only,
        shares=not args.alone,
    )

    with acting_on({signal.SIGTERM: server.stop, signal.SIGINT: server.stop}):
        server.run()
    return 0


def add_broker(options: argparse.ArgumentParser) -> None:
    """Add the options that name a broker."""
    options.add_argument("--broker", required=True, metavar="HOST[:PORT]", help="1883, or 8883")
    options.add_argument("--username", metavar="NAME")
    options.add_argument("--password-file", type=Path, metavar="FILE")
    options.add_argument("--tls", action="store_true", help="by the system's authorities")
    options.add_argument("--ca-file", type=Path, metavar="FILE", help="TLS by this authority, PEM")
    options.add_argument("--cert-file", type=Path, metavar="FILE", help="client certificate, PEM")
    options.add_argument("--key-file", type=Path, metavar="FILE", help="its key, PEM")
    options.add_argument("--protocol", choices=("5", "3.1.1"), default="5", help="MQTT version")


def broker_of(args: argparse.Namespace) -> Broker:
    """Return the broker that the options name.

    Raises:
        ConfigError: they name none that can be, or a file that cannot be read.
    """
    host, port = _address(args.broker)
    tls: dict[str, Any] = {
        field: path
        for field in ("ca_file", "cert_file", "key_file")
        if (path := getattr(args, field)) is not None
    }
    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "protocol": args.protocol,
        "username": args.username,
        "password_file": args.password_file,
        "tls": tls if tls or args.tls else None,
    }
    try:
        broker = Broker.model_validate(given)
    except ValidationError as err:
        problems = [(f"--{field.replace('_', '-')}", what) for field, what in problems_of(err)]
        where = "broker"
        raise ConfigError(where, problems, remedy=_REMEDY) from None
    problems = []
    for option, use in (("--password-file", password_of), ("--tls, --ca-file", _try_tls)):
        try:
            use(broker)
        except (OSError, ValueError) as err:
            problems.append((option, str(err)))
    if problems:
        raise ConfigError(broker.address, problems, remedy=_REMEDY)
    return broker


def _try_tls(broker: Broker) -> None:
    if broker.tls is not None:
        tls_context(Tls.model_validate(broker.tls))


def _address(text: str) -> tuple[str, int | None]:
    """Host and port of HOST[:PORT]; an IPv6 address with a port is in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host.strip("[]") and not host.endswith("]")):
        return text.strip("[]"), None
    if not port.isascii() or not port.isdigit():
        where = "broker"
        raise ConfigError(where, [("--broker", f"{text!r}: not HOST[:PORT]")], remedy=_REMEDY)
    return host.strip("[]"), int(port)


def _options() -> argparse.ArgumentParser:
    options = parser("edgeslm fleet publish", __doc__)
    add_broker(options)
    options.add_argument(
        "--blocks-only",
        action="store_true",
        help="answer devices only: another server sees to metadata and assignments",
    )
    options.add_argument(
        "--alone",
        action="store_true",
        help="the broker has no shared subscriptions; one server at a time",
    )
    options.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info"
    )
    add_database(options)
    return options
