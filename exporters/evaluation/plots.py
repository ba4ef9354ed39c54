"""Figures of an evaluation that an export's report has not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.ticker import MaxNLocator

from exporters.evaluation.judge import Judged
from exporters.evaluation.measures import POINTS, Area
from exporters.report.svg import FAINT, INK, MAIN, REFERENCE, Plot, drawing

SHOWN: Final = 25
"""Lines of a figure that compares many."""
_CORNERS: Final = 400  # of a curve: more is not seen
_LONGEST: Final = 28


def roc(judged: Sequence[tuple[str, Judged]]) -> Plot | None:
    """Found against falsely flagged, at every threshold; discs are where the bundles stand.

    Args:
        judged: name and answers of each, the first drawn strongest. None where there is only one
            kind of rows.
    """
    drawn = [(name, one, area) for name, one in judged if (area := _area(one)) is not None]
    if not drawn:
        return None
    with drawing("Found against falsely flagged") as (axes, plot):
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
        for (name, one, area), colour in zip(drawn, (MAIN, REFERENCE), strict=False):
            falsely, found = _curve(area)
            axes.plot(falsely, found, color=colour, linewidth=1.4, label=name)
            flagged = np.array([_flagged(answer) for answer in one.answers])
            x, y = flagged[~area.positive].mean(), flagged[area.positive].mean()
            axes.scatter([x], [y], s=36, color=colour, edgecolors=INK, zorder=3)
        axes.set(xlabel="share of the others flagged", ylabel="share found")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(loc="lower right")
    return plot


def _area(judged: Judged) -> Area | None:
    areas = [m for m in judged.measures.values() if isinstance(m, Area) and m.told]
    return areas[0] if areas else None


def _flagged(answer: Any) -> bool:
    return answer.label == "anomaly" if answer.accepted is None else not answer.accepted


def _curve(area: Area) -> tuple[np.ndarray, np.ndarray]:
    """Return both shares at each threshold, at most `_CORNERS` of them."""
    order = np.argsort(-area.scores, kind="stable")
    positive, scores = area.positive[order], area.scores[order]
    ends = np.append(np.nonzero(np.diff(scores))[0], len(scores) - 1)  # ties go together
    found = np.concatenate([[0], np.cumsum(positive)[ends] / positive.sum()])
    falsely = np.concatenate([[0], np.cumsum(~positive)[ends] / (~positive).sum()])
    kept = np.unique(np.linspace(0, len(found) - 1, _CORNERS).round().astype(int))
    return falsely[kept], found[kept]


def ranges(title: str, found: Mapping[str, Mapping[str, Any]], *, worst_high: bool) -> Plot:
    """Shares with their intervals, the worst on top; the counts of rows are beside the names.

    Args:
        title: what they are.
        found: by name, each as `judge.shown` gives it; at least one.
        worst_high: high is worse than low.
    """
    sign = -1 if worst_high else 1
    ordered = sorted(found, key=lambda name: (sign * found[name]["value"], name))[:SHOWN]
    with drawing(title, width=5.2, height=1.2 + 0.22 * len(ordered)) as (axes, plot):
        for y, name in enumerate(ordered):
            one = found[name]
            axes.plot([one["low"], one["high"]], [y, y], color=MAIN, linewidth=1.5, alpha=0.6)
            axes.scatter([one["value"]], [y], s=18, color=MAIN, zorder=2)
        names = [f"{_short(name)} ({found[name]['rows']})" for name in ordered]
        axes.set_yticks(range(len(ordered)), names)
        axes.set(ylim=(len(ordered) - 0.5, -0.5), xlim=(0, POINTS), xlabel="%")
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return plot


def _short(name: str) -> str:
    shown = name or "(no source)"
    cut = f"{shown[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
    return shown if len(shown) <= _LONGEST else cut
