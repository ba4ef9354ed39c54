"""Who makes a request, and whether they may: one dependency of every route of the app.

A route that says nothing of itself is for viewers where it only reads, and for operators where it
does anything: a new one cannot be open by mistake.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from edgeslm.fleet import access
from edgeslm.fleet.database import accounts, audit
from edgeslm.fleet.database.accounts import Role
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.web.site import Site, Visitor, site_of

API: Final = "/api/"
_SAFE: Final = frozenset({"GET", "HEAD"})
_TOUCH_S: Final = 60.0  # a use is written down at most once in so long
_BEARER: Final = "bearer "
_FOREIGN: Final = frozenset({"cross-site", "same-site"})
_RIGHTS: Final[dict[object, Role | None]] = {}

F = TypeVar("F", bound=Callable[..., Any])


def public(endpoint: F) -> F:
    """Mark a route that is for everybody."""
    _RIGHTS[endpoint] = None
    return endpoint


def for_viewers(endpoint: F) -> F:
    """Mark a route that changes something, and nothing but the visitor's own."""
    _RIGHTS[endpoint] = "viewer"
    return endpoint


def needed(endpoint: object, method: str) -> Role | None:
    """Return the role that a route needs; None: none at all."""
    default: Role = "viewer" if method in _SAFE else "operator"
    return _RIGHTS.get(endpoint, default)


async def authorise(request: Request) -> None:
    """Let a request in, or refuse it; `visitor_of` says then who makes it.

    Raises:
        HTTPException: 401 or 303 (nobody is signed in), 403 (a role, or a forged form).
    """
    role = needed(request.scope["route"].endpoint, request.method)
    if role is None:
        return
    site = site_of(request)
    api = request.url.path.startswith(API)
    finds = _by_token if api else _by_session
    visitor = await run_in_threadpool(finds, site, request)
    if visitor is None:
        raise _unknown(request, api=api)
    if not access.may(visitor.role, role):
        raise HTTPException(403, f"This is for an {role}; {visitor.name} is a {visitor.role}.")
    if not api and request.method not in _SAFE:
        check_origin(request)
        sent = (await request.form()).get("csrf")
        if not same(sent, visitor.csrf):
            raise HTTPException(403, "The form is not of this session. Load the page again.")
    request.state.visitor = visitor


def check_origin(request: Request) -> None:
    """Refuse a form that a page elsewhere has sent, as far as the browser says.

    Raises:
        HTTPException: 403.
    """
    origin = request.headers.get("origin")
    elsewhere = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if elsewhere or request.headers.get("sec-fetch-site") in _FOREIGN:
        raise HTTPException(403, "The form was sent by a page elsewhere.")


def same(sent: object, expected: str) -> bool:
    """Whether a secret is the expected one, in a time that says nothing of it."""
    if not isinstance(sent, str) or not expected:
        return False
    return hmac.compare_digest(sent.encode("utf-8", "replace"), expected.encode())


def still_in(site: Site, visitor: Visitor) -> Visitor | None:
    """Return a visitor of a page as of now; None: signed out, expired, or disabled meanwhile.

    It is no use of the session: a page that is left open does not keep it alive.
    """
    return _session(site, visitor.session)


def cookie_name(site: Site) -> str:
    """Return the name of the session's cookie; the prefix binds it to this host, by TLS alone."""
    return "__Host-edgeslm" if site.secure else "edgeslm"


def set_cookie(site: Site, response: Response, name: str, value: str, *, strict: bool) -> None:
    """Set a cookie that no script reads and no other site sends."""
    response.set_cookie(
        name,
        value,
        path="/",
        secure=site.secure,
        httponly=True,
        samesite="strict" if strict else "lax",
        max_age=int(access.ABSOLUTE_S),
    )


def _by_session(site: Site, request: Request) -> Visitor | None:
    cookie = request.cookies.get(cookie_name(site))
    return _session(site, access.fingerprint(cookie), uses=True) if cookie else None


def _session(site: Site, kept: str, *, uses: bool = False) -> Visitor | None:
    now = site.clock()
    with reading(site.engine) as conn:
        found = accounts.session(conn, kept)
    if found is None:
        return None
    session, account = found
    if not access.alive(session.created_at, session.seen_at, now):
        return None
    if uses and now > session.seen_at + _TOUCH_S:
        with site.engine.begin() as conn:
            accounts.session_seen(conn, kept, now=now)
    return Visitor(account.name, account.role, session.csrf, kept)


def _by_token(site: Site, request: Request) -> Visitor | None:
    given = request.headers.get("authorization", "")
    if given[: len(_BEARER)].lower() != _BEARER:
        return None
    now = site.clock()
    with reading(site.engine) as conn:
        found = accounts.token(conn, access.fingerprint(given[len(_BEARER) :].strip()), now=now)
    if found is None:
        return None
    token, account = found
    if token.used_at is None or now > token.used_at + _TOUCH_S:
        with site.engine.begin() as conn:
            accounts.token_used(conn, token.id, now=now)
    return Visitor(account.name, account.role)


def _unknown(request: Request, *, api: bool) -> HTTPException:
    if api:
        why = "Give a token: Authorization: Bearer TOKEN. The account page makes one."
        return HTTPException(401, why, {"WWW-Authenticate": "Bearer"})
    if request.headers.get("accept") == "text/event-stream":
        return HTTPException(401, "Sign in again.")
    return HTTPException(303, "Sign in first.", {"Location": "/login"})


def by(visitor: Visitor) -> audit.Actor:
    """Return a visitor as the audit log names them."""
    return audit.Actor(visitor.name, "page" if visitor.session else "api")
