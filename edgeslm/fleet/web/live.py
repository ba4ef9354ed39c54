"""Parts of a page, sent again as they change: server-sent events of HTML rendered here."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from edgeslm.errors import UnavailableError
from edgeslm.fleet.web.security import still_in
from edgeslm.fleet.web.site import Site, Visitor, site_of, visitor_of

MAX_STREAMS: Final = 64
_SHARE: Final = 10.0  # a stream takes at most one part in so many of a thread's time
_STOP_S: Final = 0.25  # that a stream goes on when the service stops
_QUIET_S: Final = 15.0  # after it a comment goes out, so that a dead connection shows
_LIFE_S: Final = 3600.0  # then the browser connects anew: a worker that stops loses nobody
Parts = Callable[[], Mapping[str, tuple[str, Mapping[str, Any]]]]
"""Returns what a page's parts show now: by their id, template and values."""


class StreamsFullError(UnavailableError):
    """As many pages are live as may be at once; this one stays as it was loaded."""

    code = "web.streams_full"


class Streams:
    """Counts the pages that are live. Threads: any."""

    def __init__(self, most: int = MAX_STREAMS) -> None:
        self._most = most
        self._open = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Count one more.

        Raises:
            StreamsFullError: there are as many as may be.
        """
        with self._lock:
            if self._open >= self._most:
                msg = f"{self._most} pages are live already. Close some, or load this one again."
                raise StreamsFullError(msg)
            self._open += 1

    def leave(self) -> None:
        """Count one less."""
        with self._lock:
            self._open -= 1


class _Live(StreamingResponse):
    """A stream that is counted for as long as it is open."""

    def __init__(self, streams: Streams, events: AsyncIterator[bytes]) -> None:
        super().__init__(
            events, media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._streams.enter()
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.leave()


def stream(request: Request, parts: Parts) -> Response:
    """Return a stream of the parts that have changed since they were last sent.

    Raises:
        StreamsFullError: (when it is sent) there are as many as may be.
    """
    state = request.app.state
    site, visitor = site_of(request), visitor_of(request)
    return _Live(state.streams, _changes(site, visitor, parts, state.stopping))


async def _changes(
    site: Site, visitor: Visitor, parts: Parts, stopping: threading.Event
) -> AsyncIterator[bytes]:
    sent: dict[str, str] = {}
    begun = said = time.monotonic()
    yield b"retry: 2000\n\n"
    while time.monotonic() < begun + _LIFE_S and not stopping.is_set():
        looked = time.monotonic()
        try:
            fresh = await run_in_threadpool(_rendered, site, visitor, parts)
        except UnavailableError:
            return  # the database is down: the browser says so, and tries again
        if fresh is None:
            yield b"event: bye\ndata: {}\n\n"
            return
        for name, html in fresh.items():
            if sent.get(name) != html:
                sent[name] = html
                said = looked
                data = json.dumps({"id": name, "html": html})  # without a line break
                yield f"event: part\ndata: {data}\n\n".encode()
        if looked - said > _QUIET_S:
            said = looked
            yield b": still here\n\n"
        until = time.monotonic() + max(site.poll_s, _SHARE * (time.monotonic() - looked))
        while (left_s := until - time.monotonic()) > 0 and not stopping.is_set():  # noqa: ASYNC110 -- set by another thread
            await asyncio.sleep(min(left_s, _STOP_S))


def _rendered(site: Site, visitor: Visitor, parts: Parts) -> dict[str, str] | None:
    """Return the parts as they are now; None: the visitor is signed in no more."""
    now = still_in(site, visitor)
    if now is None:
        return None
    return {
        name: site.render(template, now, values) for name, (template, values) in parts().items()
    }
