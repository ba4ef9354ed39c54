"""Anomalies: faults that equal normal lines, and sources that say too little."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import chain
from typing import Final

from exporters.data import ANOMALY, Row, Split
from exporters.heads.anomaly import FEW
from exporters.inspection.findings import WORST, Finding, Inspection, line, named
from exporters.tune.lock import Train
from exporters.workbench import Workbench

_NAMELESS: Final = "(no source)"


def inspect(split: Split, bench: Workbench | None, train: Train | None = None) -> Inspection:
    """See `exporters.inspection.Inspector.inspect`: no model is needed."""
    del bench, train
    found = _equal_to_normal(split) + _thin(split) + _unheard(split)
    return Inspection("anomaly", "source", _counts(split), found)


def _counts(split: Split) -> dict[str, dict[str, int]]:
    """Return how many lines of each source are learnt from, judge as normal, and as anomalies."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in split.train:
        found[row.source]["train"] += 1
    for row in split.held_out:
        found[row.source]["anomalies" if row.label == ANOMALY else "held_out"] += 1
    kinds = ("train", "held_out", "anomalies")
    ordered = sorted(found, key=lambda source: (-found[source]["train"], source))
    return {
        source or _NAMELESS: {kind: found[source][kind] for kind in kinds} for source in ordered
    }


def _equal_to_normal(split: Split) -> list[Finding]:
    """Anomalies whose text the same source says where all is well: learnt so, or judged so."""
    normal: dict[tuple[str, str], Row] = {}
    for row in chain(split.train, split.held_out):
        if row.label != ANOMALY:
            normal.setdefault((row.source, row.text), row)
    anomalies = [row for row in split.held_out if row.label == ANOMALY]
    same = [(row, normal[key]) for row in anomalies if (key := (row.source, row.text)) in normal]
    if not same:
        return []
    return [
        Finding(
            "contradiction",
            f"of {len(anomalies)} anomalies, those whose text the same source says as normal",
            len(same),
            [line(row) | line(other, "other_") for row, other in same[:WORST]],
            [f"{row.place} is {other.place}" for row, other in same],
            "By themselves they cannot be told apart, whatever is learnt: mend the label of one, "
            "or expect that only their company gives them away.",
        )
    ]


def _thin(split: Split) -> list[Finding]:
    """Sources with too few lines for a history of their own."""
    totals = Counter(row.source for row in split.train)
    first: dict[str, Row] = {}
    for row in split.train:
        first.setdefault(row.source, row)
    thin = sorted((n, source) for source, n in totals.items() if n < FEW)
    if not thin or len(totals) == 1:  # of a single source the budget says how many it takes
        return []
    return [
        Finding(
            "few",
            f"sources with fewer than {FEW} lines to learn from",
            len(thin),
            [
                {"source": name or _NAMELESS, "lines": n, "file": first[name].file,
                 "line": first[name].line}
                for n, name in thin[:WORST]
            ],
            [f"{named(name)} {n}, {first[name].place}" for n, name in thin],
            "Their numbers are judged by what all sources have in common: give more of them.",
        )
    ]  # fmt: skip


def _unheard(split: Split) -> list[Finding]:
    """Sources that are judged, and that nothing was learnt of."""
    learnt = {row.source for row in split.train}
    first: dict[str, Row] = {}
    totals: Counter[str] = Counter()
    for row in split.held_out:
        if row.source not in learnt:
            first.setdefault(row.source, row)
            totals[row.source] += 1
    if not first:
        return []
    ordered = sorted(first, key=lambda source: (-totals[source], source))
    return [
        Finding(
            "unheard",
            "sources to judge by that nothing is learnt of",
            len(ordered),
            [
                {"source": name or _NAMELESS, "lines": totals[name], "file": first[name].file,
                 "line": first[name].line}
                for name in ordered[:WORST]
            ],
            [f"{named(name)}, {first[name].place}" for name in ordered],
            "The figures are then of strangers: learn from lines of each, or judge by others.",
        )
    ]  # fmt: skip
