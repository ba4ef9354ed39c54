"""Signed envelopes (DSSE) of assignments and times: opened here, sealed on the fleet's side."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from securesystemslib.dsse import Envelope
from securesystemslib.signer import Key, Signer

from edgeslm.contract.fleet import MAX_SIGNED_BYTES, Keys
from edgeslm.core.trust import MAX_KEYS, TrustMalformedError

_MAX_SIGNATURES: Final = 2 * MAX_KEYS
_ED25519: Final = "ed25519"


@dataclass(frozen=True, slots=True)
class Signers:
    """Who may sign something.

    Args:
        keys: no two of them the same.
        threshold: how many of them must.
    """

    keys: tuple[Key, ...]
    threshold: int

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(key.keyid for key in self.keys)


def signers_of(keys: Keys) -> Signers:
    """Return the keys as what verifies.

    Raises:
        TrustMalformedError: one is no key, comes twice, or there are fewer than must sign.
    """
    try:
        made = [Key.from_dict(keyid, copy.deepcopy(key)) for keyid, key in keys.keys.items()]
        distinct = {public_of(key) for key in made}
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        msg = f"not a key: {err}"
        raise TrustMalformedError(msg) from None
    if not keys.threshold <= len(distinct) == len(made) <= MAX_KEYS:
        msg = f"{len(distinct)} distinct keys of {len(made)}, and {keys.threshold} must sign"
        raise TrustMalformedError(msg)
    return Signers(tuple(made), keys.threshold)


def public_of(key: Key) -> tuple[str, bytes]:
    """Return what tells a key from another however it is written.

    Raises:
        ValueError, KeyError, AttributeError: it is none.
    """
    public = key.keyval["public"]
    if key.keytype == _ED25519:
        return key.keytype, bytes.fromhex(public)
    return key.keytype, "".join(public.split()).encode()


def read_envelope(raw: bytes, *, kind: str) -> Envelope:
    """Return an envelope of this kind, whoever signed it.

    Raises:
        ValueError: not an envelope, too long, of another kind, or with too many signatures.
    """
    if len(raw) > MAX_SIGNED_BYTES:
        msg = f"longer than {MAX_SIGNED_BYTES} bytes"
        raise ValueError(msg)
    try:
        held = json.loads(raw)
        signatures = len(held["signatures"])
        envelope = Envelope.from_dict(held)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        msg = "not an envelope"
        raise ValueError(msg) from None
    if envelope.payload_type != kind:
        msg = f"an envelope of another kind than {kind}"
        raise ValueError(msg)
    if signatures > _MAX_SIGNATURES:
        msg = f"more than {_MAX_SIGNATURES} signatures"
        raise ValueError(msg)
    return envelope


def open_envelope(raw: bytes, *, kind: str, signers: Signers) -> bytes:
    """Return the payload of an envelope of this kind that enough of `signers` have signed.

    Raises:
        ValueError: see `read_envelope`.
        UnverifiedSignatureError: not signed by enough of them.
    """
    envelope = read_envelope(raw, kind=kind)
    envelope.verify(list(signers.keys), signers.threshold)
    return envelope.payload


def seal(payload: bytes, *, kind: str, signers: Sequence[Signer]) -> bytes:
    """Return an envelope of `payload`, signed by each, as compact JSON."""
    envelope = Envelope(payload, kind, {})
    for signer in signers:
        envelope.sign(signer)
    return json.dumps(envelope.to_dict(), separators=(",", ":"), sort_keys=True).encode()
