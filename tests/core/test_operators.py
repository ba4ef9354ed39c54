"""Who may silence an alarm: nobody but whom a key of the fleet has signed, here and now."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeslm.core.operators import (
    EARLY_S,
    TokenEndedError,
    TokenError,
    TokenScopeError,
    Where,
    admit,
    unsealed,
)
from tests.agent.lines import Signer

SIGNER, STRANGER = Signer(), Signer()
KEYS = (SIGNER.public,)
NOW = 1_000_000.0
HERE = Where("dev1", {"hall": "B", "line": "3"}, KEYS, frozenset())


def admitted(where: Where = HERE, *, now: float = NOW, model: str = "m", **claims: Any) -> None:
    admit(unsealed(SIGNER.token(**claims), where.keys), where, model=model, now=now)


def test_a_token_says_who_its_operator_is() -> None:
    assert unsealed(SIGNER.token(operator="Anna"), KEYS).operator == "Anna"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "edgeslm-operator",
        "edgeslm-operator..",
        "edgeslm-operator.e30.e30",
        STRANGER.token(),
        SIGNER.token() + "A",
        SIGNER.token().replace("edgeslm-operator", "edgeslm-other"),
        SIGNER.token().rsplit(".", 1)[0] + "." + STRANGER.token().rsplit(".", 1)[1],
        "x" * 10_000,
        SIGNER.token() + "=",
    ],
)
def test_what_no_key_here_has_signed_is_no_token(token: str) -> None:
    with pytest.raises(TokenError):
        unsealed(token, KEYS)


def test_a_key_that_does_not_count_any_more_signs_nothing() -> None:
    token = SIGNER.token()
    with pytest.raises(TokenError, match="does not have"):
        unsealed(token, (STRANGER.public,))
    assert unsealed(token, (STRANGER.public, SIGNER.public)).operator == "Anna"


def test_a_claim_that_is_not_known_may_be_a_limit() -> None:
    raw = json.dumps({**unsealed(SIGNER.token(), KEYS).model_dump(), "hours": "day"}).encode()
    with pytest.raises(TokenError):
        unsealed(SIGNER.seal(raw), KEYS)


def test_a_signature_of_something_else_is_none_of_a_token() -> None:
    """Were metadata signed by the same key, they would be no token."""
    raw = unsealed(SIGNER.token(), KEYS).model_dump_json().encode()
    bare = SIGNER._private.sign(raw)  # noqa: SLF001 -- as another program of the fleet would
    from edgeslm.core.operators import sealed  # noqa: PLC0415

    with pytest.raises(TokenError, match="signature"):
        unsealed(sealed(raw, bare), KEYS)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"models": ("m", "n")},
        {"devices": ("dev0", "dev1")},
        {"tags": {"hall": "B"}},
        {"expires": int(NOW) + 1},
        {"issued": int(NOW + EARLY_S / 2)},
    ],
)
def test_a_token_counts_within_its_scope(claims: dict[str, Any]) -> None:
    admitted(**claims)


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"models": ("n",)}, TokenScopeError),
        ({"devices": ("dev2",)}, TokenScopeError),
        ({"tags": {"hall": "C"}}, TokenScopeError),
        ({"tags": {"hall": "B", "shift": "1"}}, TokenScopeError),
        ({"expires": int(NOW)}, TokenEndedError),
        ({"issued": int(NOW + EARLY_S) + 1}, TokenEndedError),
    ],
)
def test_and_not_outside_of_it(claims: dict[str, Any], error: type[TokenError]) -> None:
    with pytest.raises(error):
        admitted(**claims)


def test_a_revoked_token_does_not_count() -> None:
    with pytest.raises(TokenEndedError, match="revoked"):
        admitted(Where("dev1", {}, KEYS, {"0123456789abcdef"}))
