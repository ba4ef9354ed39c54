"""The figures, area by area: what each means, its rival, and its bound."""

from __future__ import annotations

from typing import Final

from benchmarks.figures.accelerators import DOCUMENTED, EMULATED
from benchmarks.figures.agent import AGENT
from benchmarks.figures.anomalies import ANOMALIES
from benchmarks.figures.base import Figure, Measured, Spec
from benchmarks.figures.devices import DEVICES
from benchmarks.figures.exporting import EXPORTING
from benchmarks.figures.fleet import FLEET
from benchmarks.figures.intents import INTENTS

__all__ = ["BY_NAME", "SPECS", "Figure", "Measured", "Spec"]

# In the order of the README's table.
SPECS: Final = (
    *INTENTS,
    *ANOMALIES,
    *AGENT,
    *EXPORTING,
    *EMULATED,
    *DEVICES,
    *FLEET,
    *DOCUMENTED,
)
BY_NAME: Final = {spec.name: spec for spec in SPECS}
