"""Makes the app: routes, who may use them, what errors look like."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, cast

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from sqlalchemy import Engine
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException

from edgeslm import __version__
from edgeslm.errors import EdgeSLMError, UnavailableError
from edgeslm.fleet.access import ThrottledError
from edgeslm.fleet.database.errors import (
    RolloutEndedError,
    RolloutOverlapError,
    UnknownDeviceError,
    UnknownRolloutError,
)
from edgeslm.fleet.errors import UnknownModelError
from edgeslm.fleet.service.preview import UnfitError
from edgeslm.fleet.web import api
from edgeslm.fleet.web.guard import HEADERS, Guard
from edgeslm.fleet.web.live import Streams
from edgeslm.fleet.web.pages import account, device, entry, fleet, logs, models, rollouts
from edgeslm.fleet.web.security import API, authorise, public
from edgeslm.fleet.web.site import Shelf, Site, page, site_of

_STATUS: Final[tuple[tuple[tuple[type[EdgeSLMError], ...], int], ...]] = (
    ((UnknownDeviceError, UnknownRolloutError, UnknownModelError), 404),
    ((RolloutEndedError, RolloutOverlapError, UnfitError), 409),
    ((ThrottledError,), 429),
    ((UnavailableError,), 503),
)
_REFUSED: Final = 400
_BROKEN: Final = 500
_UNREADABLE: Final = 422
_KEEP_S: Final = 365 * 86_400
_files = APIRouter()


def create_app(  # noqa: PLR0913 -- by name, once
    engine: Engine,
    *,
    shelf: Shelf,
    folder: Path | None = None,
    secure: bool = True,
    hosts: Collection[str] = (),
    clock: Callable[[], float] = time.time,
    poll_s: float = 1.0,
) -> FastAPI:
    """Return the app.

    Args:
        engine: of the fleet's database.
        shelf: what the repository offers.
        folder: of the repository, where reports lie; None: there are none.
        secure: browsers reach it by TLS alone, so that cookies say so.
        hosts: names under which it is reached, besides localhost and any address.
        clock: seconds since 1970.
        poll_s: how often what is live is looked at again.
    """
    app = FastAPI(
        title="edgeslm fleet",
        version=__version__,
        # All of these would be routes without rights; /api/v1/openapi.json is one of ours.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(authorise)],
        redirect_slashes=False,
        # What an OTEL_ variable of the machine asks of everything is not asked of this.
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    app.state.site = Site(engine, shelf, folder=folder, secure=secure, clock=clock, poll_s=poll_s)
    app.state.streams = Streams()
    app.state.stopping = threading.Event()
    app.add_middleware(Guard, hosts=hosts, secure=secure)
    for each in (entry, fleet, device, rollouts, models, logs, account):
        app.include_router(each.router, include_in_schema=False)
    app.include_router(_files, include_in_schema=False)
    app.include_router(api.router)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(EdgeSLMError, _error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(DataError, _unstorable)
    app.add_exception_handler(Exception, _broken)
    return app


@_files.get("/static/{name}")
@public
def static(request: Request, name: str) -> Response:
    """Send a file that pages need."""
    found = site_of(request).static.get(name)
    if found is None:
        raise HTTPException(404, "There is no such file.")
    # What asks for it by its digest may keep it: other bytes have another.
    keeps = request.query_params.get("v") == found.digest
    headers = {"cache-control": f"max-age={_KEEP_S}, immutable" if keeps else "no-cache"}
    return Response(found.body, media_type=found.type, headers=headers)


def status_of(err: EdgeSLMError) -> int:
    """Return the status that says what can be done about an error."""
    return next((status for kinds, status in _STATUS if isinstance(err, kinds)), _REFUSED)


def _answer(request: Request, status: int, code: str, message: str, **more: Any) -> Response:
    """Return an error as whoever asks can read it."""
    if request.url.path.startswith(API):
        return JSONResponse({"code": code, "message": message, **more}, status)
    # A form's address answers no GET: the way back is where it was.
    back = request.url.path if request.method == "GET" and status == 503 else "/"  # noqa: PLR2004
    title = HTTPStatus(status).phrase
    values = {"title": title, "message": message, "code": code, "back": back}
    return page(request, "error.html", values, status=status)


def _http_error(request: Request, err: Exception) -> Response:
    err = cast("HTTPException", err)
    if err.status_code == HTTPStatus.SEE_OTHER:
        path = request.url.path
        after = f"{path}?{request.url.query}" if request.url.query else path
        to = request.url_for("login").include_query_params(next=after)
        keeps = request.method == "GET" and path != "/"
        return RedirectResponse(f"{to.path}?{to.query}" if keeps else to.path, 303)
    answer = _answer(request, err.status_code, f"web.{err.status_code}", str(err.detail))
    for name, value in (err.headers or {}).items():
        answer.headers[name] = value
    return answer


def _error(request: Request, err: Exception) -> Response:
    err = cast("EdgeSLMError", err)
    more = {name: getattr(err, name) for name in ("unfit", "busy") if hasattr(err, name)}
    answer = _answer(request, status_of(err), err.code, str(err), **more)
    if isinstance(err, ThrottledError):
        answer.headers["retry-after"] = str(max(1, round(err.wait_s)))
    return answer


def _invalid(request: Request, err: Exception) -> Response:
    err = cast("RequestValidationError", err)
    found = err.errors()
    if not request.url.path.startswith(API) and any(one["loc"][0] == "path" for one in found):
        return _answer(request, HTTPStatus.NOT_FOUND, "web.404", "There is no such page.")
    problems = {
        ".".join(map(str, one["loc"][1:])) or "body": str(one["msg"]).removeprefix("Value error, ")
        for one in found
        if one["type"] != "json_invalid"
    } or {"body": _no_json(found[0], err.body)}
    said = "; ".join(f"{field}: {what}" for field, what in problems.items())
    return _answer(request, _UNREADABLE, "api.invalid", said, problems=problems)


def _no_json(one: Mapping[str, Any], body: str) -> str:
    """Return where a body is no JSON, and what to send; FastAPI keeps the place in `loc`."""
    at = one["loc"][-1]
    line, column = body.count("\n", 0, at) + 1, at - body.rfind("\n", 0, at)
    what = f"not JSON at line {line}, column {column}: {one['ctx']['error']}"
    return f"{what}. Send one JSON object, as /api/v1/openapi.json describes it."


def _unstorable(request: Request, _: Exception) -> Response:
    what = "It holds what the database cannot keep, such as a NUL. Remove it."
    return _answer(request, _REFUSED, "web.unstorable", what)


def _broken(request: Request, _: Exception) -> Response:
    """Answer for a fault of ours; it is logged, and this is outside of `Guard`."""
    what = "This is a fault of edgeslm's, and it is in the service's log. Nothing was done."
    if request.url.path.startswith(API):
        return JSONResponse({"code": "web.500", "message": what}, _BROKEN, headers=HEADERS)
    return HTMLResponse(f"<!doctype html><title>Fault</title><p>{what}</p>", _BROKEN, HEADERS)
