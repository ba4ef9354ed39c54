"""How long to wait before trying again."""

from __future__ import annotations


def full_jitter(attempt: int, *, base_s: float, cap_s: float, chance: float) -> float:
    """Seconds to wait before retry number `attempt`.

    The wait is spread over the whole interval, so that a fleet whose broker came back does not
    return as one wave.

    Args:
        attempt: retries made so far, from 0.
        base_s: upper end of the first interval.
        cap_s: upper end that no interval passes.
        chance: a random number in [0, 1).

    Returns:
        A value in [0, min(cap_s, base_s * 2**attempt)).

    Source:
        "Full jitter" of M. Brooker, Exponential Backoff and Jitter, 2015.
    """
    # 2**attempt of a device that has been alone for a year must not become a huge integer.
    return min(cap_s, base_s * 2.0 ** min(attempt, 64)) * chance
