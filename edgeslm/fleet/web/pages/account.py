"""What somebody does about their own account: password, tokens, other browsers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from edgeslm.fleet import access
from edgeslm.fleet.database import accounts, audit
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.web.entering import new_session, proven
from edgeslm.fleet.web.security import by, cookie_name, for_viewers, set_cookie
from edgeslm.fleet.web.site import Site, link, page, site_of, visitor_of

router = APIRouter()
_MOST_DAYS: Final = 3650
_MOST_TOKENS: Final = 50
_DAY_S: Final = 86_400.0


@router.get("/account")
def account(request: Request) -> Response:
    """Show it."""
    return _page(request)


@router.post("/account/password")
@for_viewers
def password(
    request: Request,
    current: Annotated[str, Form()],
    new: Annotated[str, Form()],
    again: Annotated[str, Form()],
) -> Response:
    """Change the password; all sessions end but this one, which is renewed."""
    site, visitor = site_of(request), visitor_of(request)
    if new != again:
        return _page(request, {"again": "The two are not the same."})
    address = request.client.host if request.client is not None else "unknown"
    try:
        access.check_new(visitor.name, new)
        # As at signing in: a session that is left open is no way to guess.
        if not proven(site, visitor.name, current, address=address):
            return _page(request, {"current": "This is not your password."})
    except access.PasswordRefusedError as err:
        return _page(request, {"new": str(err)})
    except access.ThrottledError as err:
        return _page(request, {"current": str(err)})
    kept = site.passwords.hashed(new)
    with site.engine.begin() as conn:
        accounts.change(conn, visitor.name, password=kept)
        audit.record(conn, by(visitor), "account.password", now=site.clock(), name=visitor.name)
    return _signed_in(site, visitor.name, "password")


@router.post("/account/signout")
@for_viewers
def sign_out_others(request: Request) -> Response:
    """End all sessions but this one, which is renewed."""
    site, visitor = site_of(request), visitor_of(request)
    with site.engine.begin() as conn:
        accounts.remove_sessions(conn, visitor.name)
        audit.record(conn, by(visitor), "session.ended_all", now=site.clock())
    return _signed_in(site, visitor.name, "signed_out")


@router.post("/account/tokens")
@for_viewers
def make_token(
    request: Request,
    label: Annotated[str, Form()] = "",
    days: Annotated[str, Form()] = "",
) -> Response:
    """Make a token, and show it this once."""
    site, visitor = site_of(request), visitor_of(request)
    label, now = label.strip(), site.clock()
    if not 1 <= len(label) <= 100 or not label.isprintable():  # noqa: PLR2004
        return _page(request, {"label": "Say in up to 100 characters what it is for."})
    whole = days.isascii() and days.isdigit() and len(days) <= 5  # noqa: PLR2004
    good = whole and 1 <= int(days) <= _MOST_DAYS
    if days.strip() and not good:
        return _page(request, {"days": f"A number from 1 to {_MOST_DAYS}, or nothing."})
    number, token = access.new_token()
    expires = now + int(days) * _DAY_S if days.strip() else None
    kept = access.fingerprint(token)
    with reading(site.engine) as conn:
        full = len(accounts.tokens_of(conn, visitor.name)) >= _MOST_TOKENS
    if full:
        return _page(request, {"label": f"There are {_MOST_TOKENS} already. Revoke some."})
    with site.engine.begin() as conn:
        accounts.add_token(
            conn, accounts.Token(number, visitor.name, kept, label, now, expires, None)
        )
        audit.record(conn, by(visitor), "token.made", now=now, id=number, label=label)
    return _page(request, token=token)


@router.post("/account/tokens/{number}/revoke")
@for_viewers
def revoke(request: Request, number: str) -> Response:
    """Revoke a token of one's own."""
    site, visitor = site_of(request), visitor_of(request)
    with site.engine.begin() as conn:
        if number not in {token.id for token in accounts.tokens_of(conn, visitor.name)}:
            raise HTTPException(404, "You have no token of this number.")
        accounts.remove_token(conn, number)
        audit.record(conn, by(visitor), "token.revoked", now=site.clock(), id=number)
    return RedirectResponse(link("/account", done="revoked"), 303)


def _signed_in(site: Site, name: str, done: str) -> Response:
    answer = RedirectResponse(link("/account", done=done), 303)
    set_cookie(site, answer, cookie_name(site), new_session(site, name), strict=False)
    return answer


def _page(
    request: Request, faults: Mapping[str, str] | None = None, *, token: str = ""
) -> Response:
    site, visitor = site_of(request), visitor_of(request)
    with reading(site.engine) as conn:
        tokens = accounts.tokens_of(conn, visitor.name)
    values = {
        "title": visitor.name,
        "section": "/account",
        "faults": faults or {},
        "tokens": tokens,
        "shown_token": token,
    }
    return page(request, "account.html", values, status=400 if faults else 200)
