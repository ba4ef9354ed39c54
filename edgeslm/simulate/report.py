"""What simulated devices saw, for whoever holds a roll-out against it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Assigned:
    """An assignment came.

    Args:
        seq: its number.
        at: when, seconds since 1970, by this machine.
        models: version by model.
    """

    seq: int
    at: float
    models: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Installed:
    """A version was served for the first time, or committed.

    Args:
        version: of the model.
        seq: of the assignment in force; 0: none.
        at: when, seconds since 1970, by this machine.
    """

    version: int
    seq: int
    at: float


@dataclass(slots=True)
class Record:
    """One device.

    Attributes:
        group: of the scenario.
        fault: of that; None: none.
        version: committed.
        connections: made.
        assignments: distinct ones, in the order in which they came.
        tried: versions that were served on trial.
        installs: versions that were committed.
        refusals: codes of changes that came to nothing, and when.
        lost: messages that were dropped for want of room or refused by the broker.
    """

    group: str
    fault: str | None
    version: int
    connections: int = 0
    assignments: list[Assigned] = field(default_factory=list)
    tried: list[Installed] = field(default_factory=list)
    installs: list[Installed] = field(default_factory=list)
    refusals: list[tuple[str, float]] = field(default_factory=list)
    lost: int = 0

    @property
    def doubled(self) -> int:
        """Installs for an assignment that had been carried out already."""
        return sum(n - 1 for n in Counter(each.seq for each in self.installs).values())


def summary(records: Mapping[str, Record]) -> dict[str, Any]:
    """Return all of it as JSON can say it."""
    devices = {
        name: {**asdict(record), "doubled": record.doubled} for name, record in records.items()
    }
    return {"at": time.time(), "totals": totals(records.values()), "devices": devices}


def totals(records: Collection[Record]) -> dict[str, Any]:
    """Return what there is in all."""
    versions = Counter(record.version for record in records)
    return {
        "devices": len(records),
        "assignments": sum(len(record.assignments) for record in records),
        "installs": sum(len(record.installs) for record in records),
        "doubled": sum(record.doubled for record in records),
        "refusals": sum(len(record.refusals) for record in records),
        "lost_messages": sum(record.lost for record in records),
        "versions": {str(version): count for version, count in sorted(versions.items())},
    }
