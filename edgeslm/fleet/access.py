"""Who may use the page and the API: passwords, secrets, roles, and how guessing is slowed down."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from dataclasses import dataclass
from typing import Final, get_args

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from edgeslm.errors import RejectedError, UnavailableError
from edgeslm.fleet.database.accounts import Role
from edgeslm.fleet.database.errors import AccountError

ROLES: Final[tuple[Role, ...]] = get_args(Role)
MIN_PASSWORD: Final = 12
MAX_PASSWORD: Final = 256
IDLE_S: Final = 8 * 3600.0
"""A session that nobody uses for so long has ended."""
ABSOLUTE_S: Final = 7 * 86_400.0
"""A session has ended after so long, whoever uses it."""
FORGOTTEN_S: Final = 86_400.0
"""Wrong passwords older than this count no more."""
TOKEN_PREFIX: Final = "efl_"  # noqa: S105 -- so that scanners of secrets know one
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
# OWASP's second choice for argon2id: 19 MiB, so that a service of 250 MB can afford it.
_MEMORY_KIB: Final = 19_456
_PASSES: Final = 2
_AT_ONCE: Final = 2  # passwords that are checked at the same time, each with that memory


class PasswordRefusedError(RejectedError):
    """A password is too short, too long, or the name of its account."""

    code = "account.password"


class ThrottledError(UnavailableError):
    """There were too many wrong passwords; says how long to wait, and what to do.

    Args:
        wait_s: seconds until the next one is looked at.
    """

    code = "account.throttled"

    def __init__(self, wait_s: float) -> None:
        super().__init__(
            f"Too many wrong passwords. Try again in {max(1, round(wait_s))} s; or set a new one "
            "where the service runs: edgeslm fleet accounts password NAME."
        )
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Patience:
    """How many wrong passwords are free, and how the wait grows after them.

    Args:
        free: without a wait.
        most_s: longest wait; it doubles from 1 s up to this.
    """

    free: int
    most_s: float

    def wait_s(self, count: int, last_at: float, now: float) -> float:
        """Return how long is still to wait after `count` wrong ones, the last at `last_at`."""
        over = count - self.free
        if over < 0 or now - last_at > FORGOTTEN_S:
            return 0.0
        return max(0.0, last_at + min(self.most_s, 2.0 ** min(over, 30)) - now)


# The owner of an account that somebody else guesses at waits at most five minutes.
OF_ACCOUNT: Final = Patience(free=5, most_s=300.0)
OF_ADDRESS: Final = Patience(free=20, most_s=900.0)


class Passwords:
    """Hashes and verifies passwords, argon2id; a few at a time.

    Threads: any.
    """

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=_PASSES, memory_cost=_MEMORY_KIB, parallelism=1)
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        # Of no account: an unknown name takes as long as a known one.
        self._nobody = self._hasher.hash(secrets.token_hex(16))

    def hashed(self, password: str) -> str:
        """Return what is kept of a password."""
        with self._turns:
            return self._hasher.hash(password)

    def right(self, kept: str | None, password: str) -> bool:
        """Whether `password` is the one that `kept` was made of; None: of an unknown account."""
        with self._turns:
            try:
                self._hasher.verify(kept or self._nobody, password[:MAX_PASSWORD])
            except (VerificationError, InvalidHashError):
                return False
        return kept is not None


def check_name(name: str) -> None:
    """Refuse a name that no account can have.

    Raises:
        AccountError: says why.
    """
    if not _NAME.fullmatch(name):
        msg = f"{name!r}: no name of an account: letters, digits, '.', '_', '-', '@', up to 64."
        raise AccountError(msg)


def of_account(name: str) -> str:
    """Return under what wrong passwords of an account are counted; the name is anybody's text."""
    return f"account {fingerprint(name)}"


def check_new(name: str, password: str) -> None:
    """Refuse a password that is no good.

    Raises:
        PasswordRefusedError: says why.
    """
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        msg = f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters; take another one"
        raise PasswordRefusedError(msg)
    if name.lower() in password.lower() and len(password) < len(name) + MIN_PASSWORD:
        msg = "the password is little more than the name of the account; take another one"
        raise PasswordRefusedError(msg)


def secret() -> str:
    """Return a new secret of 256 bits."""
    return secrets.token_urlsafe(32)


def new_token() -> tuple[str, str]:
    """Return the id of a new API token, and the token."""
    return secrets.token_hex(8), TOKEN_PREFIX + secret()


def fingerprint(text: str) -> str:
    """Return what is kept of a secret that is random: without it nobody gets in."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def alive(created_at: float, seen_at: float, now: float) -> bool:
    """Whether a session may still be used."""
    return now < created_at + ABSOLUTE_S and now < seen_at + IDLE_S


def may(role: str, needed: Role) -> bool:
    """Whether an account of `role` may do what `needed` is needed for."""
    return role in ROLES and ROLES.index(role) >= ROLES.index(needed)
