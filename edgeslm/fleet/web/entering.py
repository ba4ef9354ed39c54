"""Signing in and out: passwords against guessing, sessions that nobody can plant."""

from __future__ import annotations

from typing import Final

from edgeslm.fleet import access
from edgeslm.fleet.access import OF_ACCOUNT, OF_ADDRESS, ThrottledError, of_account
from edgeslm.fleet.database import accounts, audit, pages
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.web.site import Site

_NAME_CHARS: Final = 64


def sign_in(site: Site, name: str, password: str, *, address: str, old: str = "") -> str | None:
    """Return the cookie of a new session; None: there is no such account, or the password is wrong.

    Args:
        site: what it is for.
        name: of the account.
        password: as typed.
        address: from which it comes.
        old: what is kept of the cookie that the browser had: that session ends.

    Raises:
        ThrottledError: there were too many wrong ones.
    """
    if not proven(site, name, password, address=address):
        return None
    with site.engine.begin() as conn:
        if old:
            accounts.remove_session(conn, old)
        actor = audit.Actor(name, "page")
        audit.record(conn, actor, "session.began", now=site.clock(), address=address)
    return new_session(site, name)


def proven(site: Site, name: str, password: str, *, address: str) -> bool:
    """Whether the password is that of the account.

    An attempt is counted before it is looked at, so that many at once are as slow as one after
    another; while one must wait, even the right password is not looked at.

    Raises:
        ThrottledError: there were too many wrong ones.
    """
    _reserve(site, name, address)
    with reading(site.engine) as conn:
        account = accounts.account(conn, name)
    kept = account.password if account is not None and not account.disabled else None
    right = site.passwords.right(kept, password)
    with site.engine.begin() as conn:
        if right:
            accounts.forgive(conn, of_account(name))
            pages.spare(conn, of_address(address))
        else:
            actor = audit.Actor(name, "page")
            audit.record(conn, actor, "session.refused", now=site.clock(), address=address)
    return right


def new_session(site: Site, name: str) -> str:
    """Return the cookie of a new session of an account."""
    cookie, now = access.secret(), site.clock()
    session = accounts.Session(access.fingerprint(cookie), name, access.secret(), now, now)
    with site.engine.begin() as conn:
        accounts.add_session(conn, session)
    return cookie


def of_address(address: str) -> str:
    """Return under what those from an address are counted."""
    return f"address {address[:_NAME_CHARS]}"


def _reserve(site: Site, name: str, address: str) -> None:
    now = site.clock()
    who = ((of_account(name), OF_ACCOUNT), (of_address(address), OF_ADDRESS))
    with site.engine.begin() as conn:
        waits = [
            patience.wait_s(
                *accounts.failures(conn, one, now=now, forget_s=access.FORGOTTEN_S), now
            )
            for one, patience in who
        ]
        if (longest := max(waits)) > 0:
            raise ThrottledError(longest)
        for one, _ in who:
            accounts.failed(conn, one, now=now, forget_s=access.FORGOTTEN_S)
