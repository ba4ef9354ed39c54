"""Who may silence an alarm: an operator whose token a key of the fleet has signed.

`edgeslm-operator.CLAIMS.SIGNATURE`, both base64url without padding; CLAIMS is the JSON of
`contract.feedback.Claims`, and what is signed is `SIGNED` and those bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from edgeslm.contract.feedback import MAX_TOKEN_CHARS, SIGNED, TOKEN, Claims
from edgeslm.core.ed25519 import verified
from edgeslm.errors import RejectedError

EARLY_S: Final = 86_400.0
"""A token issued so much later than now: it is the clock that is wrong."""
_PARTS: Final = 3


class TokenError(RejectedError):
    """What would silence an alarm has no operator's token, or one that is not of this fleet."""

    code = "feedback.token"


class TokenEndedError(TokenError):
    """The token has expired, or was revoked, or is of a time that this clock has not reached."""

    code = "feedback.token_ended"


class TokenScopeError(TokenError):
    """The token is for other models or devices."""

    code = "feedback.token_scope"


@dataclass(frozen=True, slots=True)
class Where:
    """What a token is held against.

    Args:
        device: this device's id.
        tags: this device's.
        keys: public keys that count, base64.
        revoked: ids of tokens that do not count any more.
    """

    device: str
    tags: Mapping[str, str]
    keys: Sequence[str]
    revoked: Collection[str]


def key_id(public: bytes) -> str:
    """Return what tokens call a key."""
    return hashlib.sha256(public).hexdigest()[:8]


def unsealed(token: str, keys: Sequence[str]) -> Claims:
    """Return what a token says that one of these keys has signed.

    Raises:
        TokenError: it is none, or signed by nobody who counts here.
    """
    raw, signature = _split(token)
    try:
        claims = Claims.model_validate_json(raw)
    except ValidationError:
        msg = "the token's claims are not those of one; it is of a newer version, or damaged"
        raise TokenError(msg) from None
    publics = [base64.b64decode(key) for key in keys]
    mine = [public for public in publics if key_id(public) == claims.key]
    if not mine:
        msg = "the token is signed by a key that [feedback] keys does not have"
        raise TokenError(msg)
    if not any(verified(public, SIGNED + raw, signature) for public in mine):
        msg = "the token's signature is wrong"
        raise TokenError(msg)
    return claims


def admit(claims: Claims, where: Where, *, model: str, now: float) -> None:
    """Check that a token counts here and now, for a model.

    Args:
        claims: whose signature was verified.
        where: this device.
        model: key of [models].
        now: seconds since 1970.

    Raises:
        TokenEndedError, TokenScopeError: see there.
    """
    if claims.id in where.revoked:
        msg = f"token {claims.id} was revoked"
        raise TokenEndedError(msg)
    if now >= claims.expires:
        msg = f"token {claims.id} has expired; ask for a new one"
        raise TokenEndedError(msg)
    if now < claims.issued - EARLY_S:
        msg = f"token {claims.id} is of a later time than this device's clock shows; set the clock"
        raise TokenEndedError(msg)
    if claims.devices and where.device not in claims.devices:
        msg = f"token {claims.id} is for other devices"
        raise TokenScopeError(msg)
    if any(where.tags.get(name) != value for name, value in claims.tags.items()):
        msg = f"token {claims.id} is for devices with other tags"
        raise TokenScopeError(msg)
    if claims.models and model not in claims.models:
        msg = f"token {claims.id} is for other models"
        raise TokenScopeError(msg)


def sealed(raw: bytes, signature: bytes) -> str:
    """Return the token of signed claims."""
    return ".".join((TOKEN, _letters(raw), _letters(signature)))


def _split(token: str) -> tuple[bytes, bytes]:
    parts = token.split(".") if len(token) <= MAX_TOKEN_CHARS else []
    if len(parts) != _PARTS or parts[0] != TOKEN:
        msg = "not a token of `edgeslm fleet token`"
        raise TokenError(msg)
    try:
        return _bytes(parts[1]), _bytes(parts[2])
    except (binascii.Error, ValueError):
        msg = "the token is damaged"
        raise TokenError(msg) from None


def _letters(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _letters(raw) != text:  # a second way to write the same
        raise binascii.Error
    return raw
