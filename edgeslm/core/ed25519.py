"""Checks Ed25519 signatures (RFC 8032) by plain integers: all of it is public, nothing is secret.

For a process that must not load a library of cryptography and still has to know who has signed a
token (docs/adr/0028-operators-sign-what-silences.md). It signs nothing and holds no key, so how
long it takes tells nobody anything. A few milliseconds a signature; whoever calls it bounds how
often.
"""

from __future__ import annotations

import hashlib
from typing import Final

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_P: Final = 2**255 - 19
_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, -1, _P) % _P
_ROOT: Final = pow(2, (_P - 1) // 4, _P)  # of -1

_Point = tuple[int, int, int, int]  # X, Y, Z, T: x = X/Z, y = Y/Z, xy = T/Z (5.1.4)
_ZERO: Final[_Point] = (0, 1, 1, 0)


def verified(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of `message` by the key `public` (RFC 8032, 5.1.7).

    As strict as OpenSSL: numbers that are not reduced, and points that are none, are no signature.
    """
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    key = _point(public)
    s = int.from_bytes(signature[KEY_BYTES:], "little")
    if key is None or s >= _ORDER:
        return False
    first = signature[:KEY_BYTES]
    digest = hashlib.sha512(first + public + message).digest()
    k = int.from_bytes(digest, "little") % _ORDER
    # S B = R + k A, as S B - k A = R; held against R as it is written, so that no second form fits.
    return _bytes_of(_sum_of_multiples(s, _BASE, k, _minus(key))) == first


def _point(raw: bytes) -> _Point | None:
    """Return what 32 bytes name (5.1.3); None: no point."""
    y = int.from_bytes(raw, "little")
    odd, y = y >> 255, y & (2**255 - 1)
    if y >= _P:
        return None
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if (v * x * x - u) % _P:
        x = x * _ROOT % _P
        if (v * x * x - u) % _P:
            return None
    if x == 0 and odd:
        return None
    if x & 1 != odd:
        x = _P - x
    return x, y, 1, x * y % _P


def _bytes_of(point: _Point) -> bytes:
    x, y, z, _ = point
    inverse = pow(z, -1, _P)
    x, y = x * inverse % _P, y * inverse % _P
    return (y | (x & 1) << 255).to_bytes(KEY_BYTES, "little")


def _minus(point: _Point) -> _Point:
    x, y, z, t = point
    return _P - x, y, z, _P - t


def _sum(p: _Point, q: _Point) -> _Point:
    x1, y1, z1, t1 = p
    x2, y2, z2, t2 = q
    a, b = (y1 - x1) * (y2 - x2) % _P, (y1 + x1) * (y2 + x2) % _P
    c, d = 2 * t1 * t2 * _D % _P, 2 * z1 * z2 % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _double(p: _Point) -> _Point:
    x, y, z, _ = p
    a, b = x * x % _P, y * y % _P
    h, g = a + b, a - b
    e, f = h - (x + y) * (x + y), 2 * z * z + g
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _sum_of_multiples(s: int, p: _Point, k: int, q: _Point) -> _Point:
    """Return s p + k q, bit by bit of both together."""
    both = _sum(p, q)
    total = _ZERO
    for i in reversed(range(max(s.bit_length(), k.bit_length()))):
        total = _double(total)
        bits = (s >> i & 1, k >> i & 1)
        if bits == (1, 1):
            total = _sum(total, both)
        elif bits == (1, 0):
            total = _sum(total, p)
        elif bits == (0, 1):
            total = _sum(total, q)
    return total


def _base() -> _Point:
    y = 4 * pow(5, -1, _P) % _P
    point = _point(y.to_bytes(KEY_BYTES, "little"))
    assert point is not None  # noqa: S101 -- RFC 8032, 5.1
    return point


_BASE: Final = _base()
