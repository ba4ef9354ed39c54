"""Accounts, their tokens and sessions, and wrong passwords. Of secrets, hashes alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, case, delete, insert, or_, select, update

from edgeslm.fleet.database.engine import insert as insert_or
from edgeslm.fleet.database.errors import AccountError
from edgeslm.fleet.database.schema import accounts, attempts, sessions, tokens
from edgeslm.fleet.database.words import bounded

Role = Literal["viewer", "operator"]
_LABEL_CHARS: Final = 100


@dataclass(frozen=True, slots=True)
class Account:
    """One.

    Args:
        name: of it.
        role: what it may.
        password: argon2id hash.
        created_at: seconds since 1970.
        disabled: it may nothing any more.
    """

    name: str
    role: Role
    password: str
    created_at: float
    disabled: bool


@dataclass(frozen=True, slots=True)
class Token:
    """For programs.

    Args:
        id: what it is called by; no secret.
        account: whose.
        hash: sha256 of the secret.
        label: for people.
        created_at: seconds since 1970.
        expires_at: the same; None: never.
        used_at: the same, last; None: never.
    """

    id: str
    account: str
    hash: str
    label: str
    created_at: float
    expires_at: float | None
    used_at: float | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that is logged in.

    Args:
        hash: sha256 of its cookie.
        account: whose.
        csrf: that its forms must carry.
        created_at: seconds since 1970.
        seen_at: the same, last.
    """

    hash: str
    account: str
    csrf: str
    created_at: float
    seen_at: float


def create(conn: Connection, name: str, role: Role, password: str, *, now: float) -> None:
    """Make an account.

    Raises:
        AccountError: there is one of this name.
    """
    new = insert_or(conn, accounts).values(
        name=name, role=role, password=password, created_at=now, disabled=False
    )
    new = new.on_conflict_do_nothing()
    if not conn.execute(new).rowcount:
        msg = f"{name}: there is an account of this name already."
        raise AccountError(msg)


def account(conn: Connection, name: str) -> Account | None:
    """Return an account; None where there is none of this name."""
    row = conn.execute(select(accounts).where(accounts.c.name == name)).mappings().first()
    return Account(**row) if row is not None else None


def every(conn: Connection) -> list[Account]:
    """Return all accounts by name."""
    rows = select(accounts).order_by(accounts.c.name)
    return [Account(**row) for row in conn.execute(rows).mappings()]


def change(
    conn: Connection,
    name: str,
    *,
    role: Role | None = None,
    password: str | None = None,
    disabled: bool | None = None,
) -> None:
    """Change what is given; its sessions end, and with a new password or role its tokens stay.

    Raises:
        AccountError: there is none of this name.
    """
    given = {"role": role, "password": password, "disabled": disabled}
    values = {key: value for key, value in given.items() if value is not None}
    _one(conn, update(accounts).where(accounts.c.name == name).values(values), name)
    conn.execute(delete(sessions).where(sessions.c.account == name))


def remove(conn: Connection, name: str) -> None:
    """Remove an account, its tokens and its sessions.

    Raises:
        AccountError: there is none of this name.
    """
    _one(conn, delete(accounts).where(accounts.c.name == name), name)


def add_token(conn: Connection, token: Token) -> None:
    """Add a token.

    Raises:
        AccountError: its account is not there.
    """
    if account(conn, token.account) is None:
        raise AccountError(_absent(token.account))
    row = {**asdict(token), "label": bounded(token.label, _LABEL_CHARS)}
    conn.execute(insert(tokens).values(row))


def token(
    conn: Connection,
    hash: str,  # noqa: A002 -- its name
    *,
    now: float,
) -> tuple[Token, Account] | None:
    """Return the token with this hash and its account; None where neither is good."""
    good = or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > now)
    rows = select(tokens).where(tokens.c.hash == hash, good)
    row = conn.execute(rows).mappings().first()
    whose = account(conn, row["account"]) if row is not None else None
    if row is None or whose is None or whose.disabled:
        return None
    return Token(**row), whose


def tokens_of(conn: Connection, name: str | None = None) -> list[Token]:
    """Return the tokens of an account; None: of all."""
    rows = select(tokens).order_by(tokens.c.account, tokens.c.created_at, tokens.c.id)
    if name is not None:
        rows = rows.where(tokens.c.account == name)
    return [Token(**row) for row in conn.execute(rows).mappings()]


def token_used(conn: Connection, id: str, *, now: float) -> None:  # noqa: A002 -- its name
    """Note that a token is used."""
    conn.execute(update(tokens).where(tokens.c.id == id).values(used_at=now))


def remove_token(conn: Connection, id: str) -> bool:  # noqa: A002 -- its name
    """Remove a token; False where there was none."""
    return bool(conn.execute(delete(tokens).where(tokens.c.id == id)).rowcount)


def add_session(conn: Connection, session: Session) -> None:
    """Add a session."""
    conn.execute(insert(sessions).values(asdict(session)))


def session(conn: Connection, hash: str) -> tuple[Session, Account] | None:  # noqa: A002
    """Return the session with this hash and its account; None where there is none that is good."""
    rows = select(sessions).where(sessions.c.hash == hash)
    row = conn.execute(rows).mappings().first()
    whose = account(conn, row["account"]) if row is not None else None
    if row is None or whose is None or whose.disabled:
        return None
    return Session(**row), whose


def session_seen(conn: Connection, hash: str, *, now: float) -> None:  # noqa: A002 -- its name
    """Note that a session is used."""
    conn.execute(update(sessions).where(sessions.c.hash == hash).values(seen_at=now))


def remove_session(conn: Connection, hash: str) -> None:  # noqa: A002 -- its name
    """End a session."""
    conn.execute(delete(sessions).where(sessions.c.hash == hash))


def remove_sessions(conn: Connection, name: str) -> None:
    """End all sessions of an account."""
    conn.execute(delete(sessions).where(sessions.c.account == name))


def failed(conn: Connection, who: str, *, now: float, forget_s: float) -> int:
    """Count a wrong password; return how many there were, of which the last less than that ago."""
    new = insert_or(conn, attempts).values(who=who, count=1, last_at=now)
    fresh = attempts.c.last_at > now - forget_s
    row = new.on_conflict_do_update(
        index_elements=["who"],
        set_={"count": case((fresh, attempts.c.count + 1), else_=1), "last_at": now},
    )
    return int(conn.execute(row.returning(attempts.c.count)).scalar_one())


def failures(conn: Connection, who: str, *, now: float, forget_s: float) -> tuple[int, float]:
    """Return how many wrong passwords there were, and when the last one came; (0, 0.0): none."""
    of = attempts.c
    rows = select(of.count, of.last_at).where(of.who == who, of.last_at > now - forget_s)
    found = conn.execute(rows).one_or_none()
    return (found[0], found[1]) if found is not None else (0, 0.0)


def forgive(conn: Connection, who: str) -> None:
    """Forget wrong passwords: a right one came."""
    conn.execute(delete(attempts).where(attempts.c.who == who))


def prune(
    conn: Connection, now: float, *, session_s: float, idle_s: float, forget_s: float
) -> None:
    """Forget sessions and tokens that are over, and wrong passwords of long ago."""
    over = or_(sessions.c.created_at < now - session_s, sessions.c.seen_at < now - idle_s)
    conn.execute(delete(sessions).where(over))
    conn.execute(delete(tokens).where(tokens.c.expires_at < now))
    conn.execute(delete(attempts).where(attempts.c.last_at < now - forget_s))


def _one(conn: Connection, statement: Any, name: str) -> None:
    if not conn.execute(statement).rowcount:
        raise AccountError(_absent(name))


def _absent(name: str) -> str:
    return f"{name}: there is no account of this name. `edgeslm fleet accounts list` has them."
