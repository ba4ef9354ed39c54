"""Signatures are right exactly where a library of cryptography says so."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.core.ed25519 import verified

ORDER = 2**252 + 27742317777372353535851937790883648493
P = 2**255 - 19
# RFC 8032, 7.1, tests 1 and 3.
VECTORS = (
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
            "4a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
)
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PRIVATE.public_key().public_bytes_raw()


def by_library(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@pytest.mark.parametrize(("public", "message", "signature"), VECTORS)
def test_what_the_rfc_signs_is_signed(public: str, message: str, signature: str) -> None:
    assert verified(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature))


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 64 * 8 - 1), st.integers(0, 32 * 8 - 1))
def test_a_bit_makes_the_difference(message: bytes, of_signature: int, of_key: int) -> None:
    signature = PRIVATE.sign(message)
    assert verified(PUBLIC, message, signature)
    assert not verified(PUBLIC, message + b"\0", signature)
    for raw, bit, held in ((signature, of_signature, True), (PUBLIC, of_key, False)):
        other = bytearray(raw)
        other[bit // 8] ^= 1 << bit % 8
        pair = (PUBLIC, bytes(other)) if held else (bytes(other), signature)
        assert not verified(pair[0], message, pair[1])
        assert not by_library(pair[0], message, pair[1])


def test_a_second_way_to_write_a_signature_is_none() -> None:
    signature = PRIVATE.sign(b"m")
    s = int.from_bytes(signature[32:], "little")
    again = signature[:32] + (s + ORDER).to_bytes(32, "little")
    assert not verified(PUBLIC, b"m", again)


@pytest.mark.parametrize(
    "point",
    [
        P.to_bytes(32, "little"),  # y is not reduced
        (1 | 1 << 255).to_bytes(32, "little"),  # x is 0, and said to be odd
        (2).to_bytes(32, "little"),  # no point has this y
    ],
)
def test_what_is_no_point_is_no_key(point: bytes) -> None:
    assert not verified(point, b"m", PRIVATE.sign(b"m"))


@given(st.binary(max_size=70), st.binary(max_size=10), st.binary(max_size=70))
@settings(deadline=None, max_examples=30)
def test_any_bytes_are_answered(public: bytes, message: bytes, signature: bytes) -> None:
    assert not verified(public, message, signature)
