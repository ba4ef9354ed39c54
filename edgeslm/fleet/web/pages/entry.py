"""Signing in and out."""

from __future__ import annotations

import secrets
from typing import Annotated, Final
from urllib.parse import unquote

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from edgeslm.fleet import access
from edgeslm.fleet.database import accounts, audit
from edgeslm.fleet.web.entering import sign_in
from edgeslm.fleet.web.security import (
    by,
    check_origin,
    cookie_name,
    for_viewers,
    public,
    same,
    set_cookie,
)
from edgeslm.fleet.web.site import page, site_of, visitor_of

router = APIRouter()
_WRONG: Final = "Name or password is wrong."
_STALE: Final = "The form is too old, or cookies are switched off. Try again."


@router.get("/login")
@public
def login(request: Request, next: str = "/") -> Response:  # noqa: A002 -- of the address
    """Show the form."""
    return _form(request, next)


@router.post("/login")
@public
def log_in(
    request: Request,
    name: Annotated[str, Form(max_length=200)],
    password: Annotated[str, Form(max_length=1000)],
    csrf: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",  # noqa: A002 -- of the form
) -> Response:
    """Begin a session, always a new one."""
    site = site_of(request)
    check_origin(request)
    # Without a session there is a cookie of its own: nobody signs others in as themselves.
    if not same(csrf, request.cookies.get(_guard(site.secure), "")):
        return _form(request, next, name=name, fault=_STALE, status=403)
    had = request.cookies.get(cookie_name(site), "")
    address = request.client.host if request.client is not None else "unknown"
    try:
        old = access.fingerprint(had) if had else ""
        cookie = sign_in(site, name, password, address=address, old=old)
    except access.ThrottledError as err:
        answer = _form(request, next, name=name, fault=str(err), status=429)
        answer.headers["retry-after"] = str(max(1, round(err.wait_s)))
        return answer
    if cookie is None:
        return _form(request, next, name=name, fault=_WRONG, status=401)
    answer = RedirectResponse(_inside(next), 303)
    set_cookie(site, answer, cookie_name(site), cookie, strict=False)
    answer.delete_cookie(_guard(site.secure), secure=site.secure, httponly=True)
    return answer


@router.post("/logout")
@for_viewers
def log_out(request: Request) -> Response:
    """End the session."""
    site, visitor = site_of(request), visitor_of(request)
    with site.engine.begin() as conn:
        accounts.remove_session(conn, visitor.session)
        audit.record(conn, by(visitor), "session.ended", now=site.clock())
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(cookie_name(site), secure=site.secure, httponly=True)
    return answer


def _form(
    request: Request,
    onwards: str,
    *,
    name: str = "",
    fault: str = "",
    status: int = 200,
) -> Response:
    site = site_of(request)
    guard = secrets.token_urlsafe(32)
    values = {"title": "Sign in", "guard": guard, "next": _inside(onwards), "name": name}
    answer = page(request, "login.html", {**values, "fault": fault}, status=status)
    set_cookie(site, answer, _guard(site.secure), guard, strict=True)
    return answer


def _guard(secure: bool) -> str:  # noqa: FBT001 -- of two names
    return "__Host-edgeslm-login" if secure else "edgeslm-login"


def _inside(address: str) -> str:
    """Return an address of this service; the first page where it leads elsewhere."""
    # Whoever unescapes it once more must not find a host there either.
    second = unquote(address)[1:2]
    safe = address.isprintable() and "\\" not in address and address.startswith("/")
    return address if safe and second.isprintable() and second not in {"/", "\\"} else "/"
