"""What every request and every answer goes through before anything else: pure ASGI."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES: Final = 64 * 1024
MAX_QUERY_BYTES: Final = 8 * 1024
POLICY: Final = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
_HSTS: Final = "max-age=31536000"


class Guard:
    """Refuse foreign hosts and large requests; set the headers that keep browsers safe.

    Args:
        app: what answers.
        hosts: names under which this service is reached, besides localhost and any address. A
            page elsewhere that makes its own name point here (DNS rebinding) is refused.
        secure: browsers reach it by TLS alone.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], secure: bool) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts) | {"localhost"}
        self._headers = dict(HEADERS)
        if secure:
            self._headers["strict-transport-security"] = _HSTS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # a WebSocket: there are none
        headers = Headers(scope=scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    found.setdefault(name, value)
            await send(message)

        if (refused := self._refused(scope, headers)) is not None:
            await _refuse(send_guarded, *refused)
            return
        taken = 0

        async def receive_guarded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MAX_BODY_BYTES:  # it came in chunks, without its length
                raise HTTPException(413, _too_large())
            return message

        await self._app(scope, receive_guarded, send_guarded)

    def _refused(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        """Return status, code and remedy of a request that goes no further."""
        if not self._known(headers.getlist("host")):
            why = (
                "This service is not reached under this name. Use its address, localhost, or a "
                "name that it was started with (--host-name)."
            )
            return 421, "web.host", why
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY_BYTES:
            return 413, "web.too_large", _too_large()
        if len(scope["query_string"]) > MAX_QUERY_BYTES:
            why = f"The address is longer than {MAX_QUERY_BYTES} bytes. Shorten the filter."
            return 414, "web.too_large", why
        if b"%00" in scope["query_string"] or "\0" in scope["path"]:  # databases take none
            return 400, "web.nul", "The address holds a NUL. Remove it."
        return None

    def _known(self, hosts: list[str]) -> bool:
        if len(hosts) != 1:
            return False
        name = hosts[0].lower()
        if not name.endswith("]"):
            head, colon, port = name.rpartition(":")
            if colon and port.isdigit():
                name = head
        if name.rstrip(".") in self._hosts:
            return True
        try:  # a name is needed to rebind: whoever gives an address means it
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def _too_large() -> str:
    return f"A request has at most {MAX_BODY_BYTES} bytes. Send less at once."


async def _refuse(send: Send, status: int, code: str, why: str) -> None:
    body = json.dumps({"code": code, "message": why}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
