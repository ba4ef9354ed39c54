"""`edgeslm fleet serve --broker HOST`: the fleet's service and its page, until stopped."""

from __future__ import annotations

import argparse
import ipaddress
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeslm import logs
from edgeslm.adapters.signals import acting_on
from edgeslm.adapters.systemd import Notifier
from edgeslm.cli.fleet import add_database, database, opened, parser
from edgeslm.cli.fleet_publish import add_broker, broker_of
from edgeslm.cli.main import EXIT_FAULT
from edgeslm.errors import ConfigError
from edgeslm.logs import Log

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from edgeslm.fleet.repository import Repository

LISTEN: Final = "127.0.0.1:8080"
_REMEDY: Final = "Correct the option and start again."
_EPILOG: Final = """\
Give `edgeslm fleet accounts add NAME` once: the page and the API let nobody in without an account.

exit status:
  0   stopped by SIGTERM or SIGINT
  65  refused: says which file, what is wrong, and what to do
  70  a fault of ours: the log says where; start it again
  75  not now: a key is not there, the database is down, or the address to listen on is taken
  78  an option, fleet.toml or the database cannot be used
"""

log = Log(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    args = _options().parse_args(argv)
    broker = broker_of(args)
    listen = None if args.no_page else listen_of(args)
    repository = opened(args)
    engine = database(args, repository)
    logs.configure(device="edgeslm-fleet", level=args.log_level)
    from edgeslm.fleet.service.wiring import make  # noqa: PLC0415 -- needs the extra

    page = _page(args, listen, repository, engine) if listen is not None else None
    service = make(repository, engine, broker, shares=not args.alone, page=page)

    notifier = Notifier.from_environment()

    def stop() -> None:
        notifier.stopping()
        service.stop()

    with acting_on({signal.SIGTERM: stop, signal.SIGINT: stop}):
        well = service.run(ready=lambda: notifier.ready("serving"))
    notifier.close()
    return 0 if well else EXIT_FAULT


def listen_of(args: argparse.Namespace) -> tuple[str, int]:
    """Return the address to listen on.

    Raises:
        ConfigError: it is none, or it is open to others and nothing protects it.
    """
    host, _, port = args.listen.rpartition(":")
    host = host.strip("[]")
    where = "page"
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004
        what = f"{args.listen!r}: not HOST:PORT"
        raise ConfigError(where, [("--listen", what)], remedy=_REMEDY)
    if (args.tls_cert is None) != (args.tls_key is None):
        what = "a certificate and its key go together"
        raise ConfigError(where, [("--tls-cert, --tls-key", what)], remedy=_REMEDY)
    protected = args.tls_cert is not None or args.behind_proxy is not None
    if not protected and not _is_here(host):
        what = f"{host} can be reached by others, and passwords would cross the network in clear"
        remedy = "Give --tls-cert and --tls-key; or --behind-proxy, where a proxy ends TLS."
        raise ConfigError(where, [("--listen", what)], remedy=remedy)
    return host, int(port)


def _is_here(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _page(
    args: argparse.Namespace, listen: tuple[str, int], repository: Repository, engine: Engine
) -> Callable[[threading.Event], None]:
    from edgeslm.fleet.database import accounts  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415
    from edgeslm.fleet.service.shelf import RepositoryShelf  # noqa: PLC0415
    from edgeslm.fleet.web.app import create_app  # noqa: PLC0415
    from edgeslm.fleet.web.serving import Tls, serve_web  # noqa: PLC0415

    tls = Tls(args.tls_cert, args.tls_key) if args.tls_cert is not None else None
    app = create_app(
        engine,
        shelf=RepositoryShelf(repository),
        folder=repository.folder,
        secure=tls is not None or args.behind_proxy is not None,
        hosts=args.host_name,
    )
    web = serve_web(app, listen, tls, proxies=args.behind_proxy or "")
    host = f"[{listen[0]}]" if ":" in listen[0] else listen[0]
    log.info("page", address=f"http{'s' if tls is not None else ''}://{host}:{web.port}")
    with reading(engine) as conn:
        if not accounts.every(conn):
            log.warning("no_accounts", remedy="edgeslm fleet accounts add NAME")
    return web.run


def _options() -> argparse.ArgumentParser:
    options = parser("edgeslm fleet serve", __doc__)
    options.epilog = _EPILOG
    add_broker(options)
    add_database(options)
    options.add_argument(
        "--alone",
        action="store_true",
        help="the broker has no shared subscriptions; one worker at a time takes all",
    )
    options.add_argument(
        "--listen", default=LISTEN, metavar="HOST:PORT", help=f"of the page (default: {LISTEN})"
    )
    options.add_argument("--no-page", action="store_true", help="neither page nor API")
    options.add_argument("--tls-cert", type=Path, metavar="FILE", help="of the page, PEM")
    options.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, PEM")
    options.add_argument(
        "--behind-proxy",
        metavar="ADDRESS[,...]",
        help="of the proxy that ends TLS before the page; only its X-Forwarded-For counts",
    )
    options.add_argument(
        "--host-name",
        action="append",
        default=[],
        metavar="NAME",
        help="under which the page is reached, besides localhost; may be given more than once",
    )
    options.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info"
    )
    return options
