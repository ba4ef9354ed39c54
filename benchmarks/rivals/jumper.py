"""The published test of when to retrain: a conformal test martingale on one p-value a message.

Source:
    Vovk, Petej, Nouretdinov, Ahlberg, Carlsson & Gammerman 2021, "Retrain or not retrain: conformal
    test martingales for change-point detection", PMLR 152, algorithm 1: Simple Jumper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_JUMPS: Final = 0.01  # its authors' rate
_SLOPES: Final = (-1.0, 0.0, 1.0)


def reports(p_values: Sequence[float], *, limit: float) -> list[int]:
    """Return after how many messages its capital reached `limit`; it begins anew each time."""
    found = []
    capital = [1 / len(_SLOPES)] * len(_SLOPES)
    for number, p in enumerate(p_values, 1):
        whole = sum(capital)
        capital = [
            ((1 - _JUMPS) * part + _JUMPS * whole / len(_SLOPES)) * (1 + slope * (p - 0.5))
            for part, slope in zip(capital, _SLOPES, strict=True)
        ]
        if sum(capital) >= limit:
            found.append(number)
            capital = [1 / len(_SLOPES)] * len(_SLOPES)
    return found
