"""What systemd wants to hear (sd_notify(3)): readiness, watchdog, stopping."""

from __future__ import annotations

import os
import socket
from typing import Final

_SHARE: Final = 3  # the watchdog is fed this often in its interval


class Notifier:
    """Speaks to the socket that systemd names in the environment; silent where there is none.

    Args:
        address: value of NOTIFY_SOCKET; one that begins with "@" is in the abstract namespace.
        watchdog_usec: value of WATCHDOG_USEC.

    Attributes:
        interval_s: how often to call `feed`; None where nobody watches.
    """

    def __init__(self, address: str | None, watchdog_usec: str | None) -> None:
        self._socket: socket.socket | None = None
        self.interval_s: float | None = None
        if not address:
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)
        self._address = "\0" + address[1:] if address.startswith("@") else address
        if watchdog_usec and watchdog_usec.isascii() and watchdog_usec.isdigit():
            self.interval_s = int(watchdog_usec) / 1e6 / _SHARE

    @classmethod
    def from_environment(cls) -> Notifier:
        """Return the notifier of the service manager that started us."""
        return cls(os.environ.get("NOTIFY_SOCKET"), os.environ.get("WATCHDOG_USEC"))

    def ready(self, status: str) -> None:
        """Say that we serve."""
        self._send(f"READY=1\nSTATUS={status}")

    def feed(self) -> None:
        """Say that the serving loop turns."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that we are on our way out."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Say no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError:  # it is gone or busy; there is nobody else to tell
            return
