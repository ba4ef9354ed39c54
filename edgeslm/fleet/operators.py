"""Tokens of operators, who may silence alarms on devices: signed here, verified there.

Signed by a key of its own, whose public half stands in the settings of devices. It is no key of
the metadata: who has it can have a device take a fault for normal, and not another model.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import ValidationError
from securesystemslib.signer import SSlibKey

from edgeslm.contract.base import problems_of
from edgeslm.contract.feedback import SIGNED, Claims
from edgeslm.core.operators import key_id, sealed
from edgeslm.errors import RejectedError
from edgeslm.fleet.errors import KeyMissingError
from edgeslm.fleet.keys import KeyFolder
from edgeslm.fleet.repository import Repository

ROLE: Final = "operators"
_DAY_S: Final = 86_400


class TokenInvalidError(RejectedError):
    """What was asked for makes no token; names each field."""

    code = "fleet.token"


def signing_key(keys: KeyFolder) -> str | None:
    """Return the name of the newest key that signs tokens; None: there is none."""
    found = [name for name, record in keys.records().items() if record.role == ROLE]
    return max(found, key=lambda name: int(name.removeprefix(ROLE).lstrip("-") or 1), default=None)


def public_key(repository: Repository, *, new: bool = False) -> str:
    """Return the public half of the key that signs tokens, as settings have it; made if need be.

    Args:
        repository: where it is.
        new: make another, which signs from now on.

    Raises:
        EdgeSLMError: a key is damaged, or there is no passphrase.
        OSError: the disk refused.
    """
    with repository.store.locked():
        name = signing_key(repository.keys)
        if name is None or new:
            name = repository.keys.make(ROLE)
    return base64.b64encode(_public(repository.keys, name)).decode()


def make_token(  # noqa: PLR0913 -- what a token says
    repository: Repository,
    operator: str,
    *,
    days: float,
    models: Sequence[str] = (),
    devices: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
) -> tuple[Claims, str]:
    """Return a token, and what it says.

    Args:
        repository: where the key is.
        operator: who it is for, as devices note it.
        days: for which it is good.
        models: for which it is good; none: for all.
        devices: on which; none: on all.
        tags: on devices that have all of them.

    Raises:
        TokenInvalidError: see there.
        EdgeSLMError: the key is not there, or cannot be opened.
    """
    if (name := signing_key(repository.keys)) is None:
        msg = "no key signs tokens yet; make it: edgeslm fleet token key"
        raise KeyMissingError(msg)
    now = int(repository.now())
    try:
        claims = Claims(
            id=secrets.token_hex(8),
            operator=operator,
            key=key_id(_public(repository.keys, name)),
            issued=now,
            expires=now + int(days * _DAY_S),
            models=tuple(models),
            devices=tuple(devices),
            tags=dict(tags or {}),
        )
    except ValidationError as err:
        msg = "; ".join(f"{field}: {what}" for field, what in problems_of(err))
        raise TokenInvalidError(msg) from None
    raw = claims.model_dump_json(exclude_defaults=True).encode()
    signature = repository.keys.signer(name).sign(SIGNED + raw)
    return claims, sealed(raw, bytes.fromhex(signature.signature))


def _public(keys: KeyFolder, name: str) -> bytes:
    public = keys.records()[name].public()
    if not isinstance(public, SSlibKey) or public.keytype != "ed25519":
        msg = f"{name}: {public.keytype} is not a kind of key that devices know; it is ed25519"
        raise TokenInvalidError(msg)
    return bytes.fromhex(public.keyval["public"])
