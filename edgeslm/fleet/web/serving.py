"""Runs the app beside the rest of the service: its own thread, its own socket."""

from __future__ import annotations

import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI

from edgeslm.errors import ConfigError, UnavailableError
from edgeslm.logs import Log

CONNECTIONS: Final = 256
_STOP_S: Final = 2
_HEADER_BYTES: Final = 32 * 1024
_BACKLOG: Final = 128
_BEGUN_S: Final = 10.0

log = Log(__name__)


class AddressError(UnavailableError):
    """The address to listen on cannot be had."""

    code = "web.address"


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of PEM.

    Args:
        cert: certificate, with those between it and its authority.
        key: its private key.
    """

    cert: Path
    key: Path


class Web:
    """The page and the API, served.

    Args:
        app: of `create_app`.
        host: to listen on.
        port: the same; 0: any that is free.
        tls: None: none, on the loopback or behind a proxy.
        proxies: addresses whose X-Forwarded-For counts, with commas between; "": none.

    Attributes:
        port: that is listened on.

    Raises:
        AddressError: it cannot be listened on.
        ConfigError: a file of TLS cannot be used.
    """

    def __init__(
        self, app: FastAPI, host: str, port: int, *, tls: Tls | None = None, proxies: str = ""
    ) -> None:
        self._app = app
        self._socket = _bound(host, port)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            limit_concurrency=CONNECTIONS,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_graceful_shutdown=_STOP_S,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=proxies or None,
            ssl_certfile=tls.cert if tls is not None else None,
            ssl_keyfile=tls.key if tls is not None else None,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as err:
            self._socket.close()
            where = f"{tls.cert}, {tls.key}" if tls is not None else "page"
            remedy = "Give a certificate and its key, both PEM."
            raise ConfigError(where, [("", str(err))], remedy=remedy) from None
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def run(self, stopping: threading.Event) -> None:
        """Serve until the event is set; on whatever thread this is called."""
        self.start()
        stopping.wait()
        self.stop()

    def start(self) -> None:
        """Begin to serve, on a thread of its own; it answers when this returns.

        Raises:
            AddressError: it does not come up.
        """
        serve = self._server.run
        self._thread = threading.Thread(
            target=serve, kwargs={"sockets": [self._socket]}, name="page", daemon=True
        )
        self._thread.start()
        waiting = threading.Event()
        for _ in range(int(_BEGUN_S / 0.01)):
            if self._server.started:
                log.info("page_served", port=self.port)
                return
            waiting.wait(0.01)
        msg = "the page does not come up; the log says why"
        raise AddressError(msg)

    def stop(self) -> None:
        """Stop, and give pages that are live a moment to hear of it."""
        self._app.state.stopping.set()
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(2 * _STOP_S)
        self._socket.close()


def serve_web(
    app: FastAPI, listen: tuple[str, int], tls: Tls | None = None, *, proxies: str = ""
) -> Web:
    """Return the app, bound to an address; `start` or `run` serves it.

    Raises:
        AddressError, ConfigError: see `Web`.
    """
    host, port = listen
    return Web(app, host, port, tls=tls, proxies=proxies)


def _bound(host: str, port: int) -> socket.socket:
    try:
        found_at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With its protocol: asyncio sends at once only where it sees that this is TCP.
        found = socket.socket(*found_at[:3])
    except OSError as err:
        msg = f"{host}:{port}: {err.strerror or err}. Give an address of this machine."
        raise AddressError(msg) from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(_BACKLOG)
    except OSError as err:
        found.close()
        msg = f"{host}:{port}: {err.strerror or err}. Choose another address, or free this one."
        raise AddressError(msg) from None
    return found
