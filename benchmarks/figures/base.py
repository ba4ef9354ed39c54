"""What a figure is: what it means, its rival, its bound; and one measured value of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Direction = Literal[">=", "<="]
Compared = Literal["value", "ratio", "difference"]


@dataclass(frozen=True, slots=True)
class Spec:
    """A promise: what is measured, against what, and how good it must be.

    Args:
        name: as on the command line.
        group: module of benchmarks/groups/ that measures it, together with its siblings.
        what: one line for people.
        unit: of the value and of the rival's value.
        rival: what runs beside it.
        direction: whether the bound is a least or a most, or more is better or less.
        bound: a number on `compared`; None: published as it is, and nothing is promised.
        compared: the value itself, value / rival's value, or value - rival's value.
    """

    name: str
    group: str
    what: str
    unit: str
    rival: str
    direction: Direction
    bound: float | None
    compared: Compared = "value"

    def keeps(self, number: float) -> bool:
        """Whether `number`, of the kind `compared` says, is within the bound."""
        if self.bound is None:
            return True
        return number >= self.bound if self.direction == ">=" else number <= self.bound


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure's measurement.

    Args:
        value: ours, in the figure's unit; for repeated measurements the median.
        rival_value: the rival's, in the same unit.
        spread: least and most of what the bound is on, over rounds, seeds or files.
        compared: what the bound is on; None: as it follows from the two values. Medians of
            paired rounds are not the quotient of two medians, so a timing gives it.
        note: what is unlike the usual about this measurement, such as an emulator.
    """

    value: float
    rival_value: float
    spread: tuple[float, float]
    compared: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured promise."""

    spec: Spec
    measured: Measured
    machine: Mapping[str, object]
    commit: str
    quick: bool = False

    @property
    def compared(self) -> float:
        """The number that the bound is on."""
        m = self.measured
        if m.compared is not None:
            return m.compared
        match self.spec.compared:
            case "value":
                return m.value
            case "ratio":
                return m.value / m.rival_value
            case "difference":
                return m.value - m.rival_value

    @property
    def ratio(self) -> float | None:
        """Value / rival's value; None where the rival's is nought."""
        if self.spec.compared == "ratio":
            return self.compared
        m = self.measured
        return m.value / m.rival_value if m.rival_value else None

    @property
    def holds(self) -> bool:
        return self.spec.keeps(self.compared)

    def as_json(self) -> dict[str, object]:
        """Return the object that `--json` prints; `note` and `quick` where there is cause."""
        s, m = self.spec, self.measured
        found: dict[str, object] = {
            "name": s.name,
            "value": rounded(m.value),
            "unit": s.unit,
            "rival": s.rival,
            "rival_value": rounded(m.rival_value),
            "ratio": None if self.ratio is None else rounded(self.ratio),
            "direction": s.direction,
            "bound": s.bound,
            "bound_on": s.compared,
            "spread": [rounded(x) for x in m.spread],
            "holds": None if s.bound is None else self.holds,
            "machine": dict(self.machine),
            "commit": self.commit,
        }
        if m.note:
            found["note"] = m.note
        return found | {"quick": True} if self.quick else found


def rounded(number: float) -> float:
    """Five significant digits: more would be noise."""
    return float(f"{number:.5g}")


FP32: Final = "the same bundle's fp32 original"
"""The rival of what is quantised."""
RATE: Final = "messages/s"
"""The unit of what is counted per second."""
