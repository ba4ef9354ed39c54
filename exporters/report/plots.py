"""The figures of a report, each from what was judged or tuned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from exporters.data import ANOMALY, OUT_OF_SCOPE
from exporters.evaluation.confusion import REJECTED, Confusions, right
from exporters.evaluation.measures import POINTS
from exporters.golden import Judged
from exporters.report.content import Judgement
from exporters.report.svg import FAINT, INK, MAIN, OTHER, REFERENCE, Plot, drawing

_BINS: Final = 10
_BARS: Final = 32
_FEW_LABELS: Final = 12  # with so many or fewer, cells have room for their counts
_NAMED_LABELS: Final = 40  # with so many or fewer, rows and columns have room for their names
_LONGEST: Final = 22  # characters of a name on an axis
_LONGEST_NODE: Final = 30
_TAIL: Final = 0.5  # per cent of the scores, at either end, that share the outermost bar
_LEAST_P: Final = 1e-4
Floats = NDArray[np.float64]


def confusion_matrix(found: Confusions) -> Plot:
    """Truth downwards, verdicts across; a cell is as strong as its share of its row."""
    truths = _ordered({truth for truth, _ in found})
    said = _ordered({*truths, *(verdict for _, verdict in found)} - {OUT_OF_SCOPE})
    totals: Counter[str] = Counter()
    for (truth, _), count in found.items():
        totals[truth] += count
    size = min(6.5, 2.2 + 0.24 * max(len(truths), len(said)))
    with drawing("Confusion matrix", width=size + 0.6, height=size) as (axes, plot):
        for (truth, verdict), count in sorted(found.items()):
            y, x = truths.index(truth), said.index(verdict)
            share = count / totals[truth]
            axes.add_patch(
                Rectangle(
                    (x - 0.5, y - 0.5), 1, 1, facecolor=MAIN if right(truth, verdict) else OTHER,
                    alpha=0.12 + 0.63 * share, linewidth=0,
                )
            )  # fmt: skip
            if len(said) <= _FEW_LABELS:
                axes.text(x, y, str(count), ha="center", va="center", fontsize=8)
        axes.set(xlim=(-0.5, len(said) - 0.5), ylim=(len(truths) - 0.5, -0.5))
        axes.set_aspect("equal")
        if len(said) <= _NAMED_LABELS:
            axes.set_xticks(range(len(said)), list(map(_short, said)), rotation=90)
            axes.set_yticks(range(len(truths)), list(map(_short, truths)))
        else:
            axes.set(xticks=(), yticks=())
        axes.set(xlabel=f"said, {said[-1]} last" if REJECTED in said else "said", ylabel="is")
    return plot


def reliability(judgement: Judgement) -> Plot:
    """Of an intent: is it right as often as it is confident?"""
    inside = np.array([row.label != OUT_OF_SCOPE for row in judgement.rows])
    truth = np.array([str(row.label) for row in judgement.rows])[inside]
    with drawing("Confidence and accuracy") as (axes, plot):
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
        for answers, style in _pair(judgement):
            confidence = np.array([answer.confidence for answer in answers])[inside]
            known = np.array([answer.label for answer in answers])[inside] == truth
            bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
            filled = [b for b in range(_BINS) if (bins == b).any()]
            axes.plot(
                [confidence[bins == b].mean() for b in filled],
                [known[bins == b].mean() for b in filled],
                **style,
            )
        axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(loc="upper left")
    return plot


def false_alarms(judgement: Judgement, budget: float) -> Plot:
    """Of an anomaly score: do as many normal lines fall below a p-value as it says?"""
    normal = np.array([row.label != ANOMALY for row in judgement.rows])
    with drawing("p-values of normal lines") as (axes, plot):
        axes.plot([_LEAST_P, 1], [_LEAST_P, 1], color=FAINT, linewidth=1)
        axes.axvline(budget, color=FAINT, linewidth=1, linestyle=":")
        axes.annotate(
            "alarm budget", (budget, 1), (3, -2), textcoords="offset points", va="top", fontsize=8
        )
        for answers, style in _pair(judgement):
            p = np.array([1.0 if a.p_value is None else a.p_value for a in answers])[normal]
            ordered = np.clip(np.sort(p), _LEAST_P, 1)
            shares = np.arange(1, len(p) + 1) / max(len(p), 1)
            axes.step(ordered, shares, where="post", **{**style, "marker": ""})
        axes.set(xscale="log", yscale="log", xlim=(_LEAST_P, 1), ylim=(_LEAST_P, 1.2))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set(xlabel="p-value", ylabel="share of normal lines at or below")
        axes.legend(loc="lower right")
    return plot


def has_scale(judgement: Judgement) -> bool:
    """Whether all scores can be compared: those of a cascade's two stages cannot."""
    return all(a.stage is None for a in (*judgement.answers, *judgement.reference))


def scores(judgement: Judgement) -> Plot:
    """How far apart the scores of the two kinds lie, and where the line between them is drawn."""
    strange = [row.label in {ANOMALY, OUT_OF_SCOPE} for row in judgement.rows]
    intent = any(answer.accepted is not None for answer in judgement.answers)
    names = ("in scope", "out of scope") if intent else ("normal", "anomalies")
    after = np.array([answer.score for answer in judgement.answers])
    before = np.array([answer.score for answer in judgement.reference])
    both = np.concatenate([after, before])
    low, high = np.percentile(both, [_TAIL, 100 - _TAIL])
    edges = np.linspace(low, high if high > low else low + 1, _BARS + 1)
    with drawing("Scores") as (axes, plot):
        for kind, colour, name in ((False, MAIN, names[0]), (True, OTHER, names[1])):
            chosen = np.array([s == kind for s in strange], bool)
            if not chosen.any():
                continue
            shares = _histogram(after[chosen], edges)
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.45, label=name)
            if len(before):
                axes.stairs(_histogram(before[chosen], edges), edges, color=colour, linewidth=1.2)
        if len(before):
            name = f"lines: {judgement.original}"
            axes.plot([], [], color=REFERENCE, linewidth=1.2, label=name)
        line = _threshold(judgement)
        if line is not None and low <= line <= high:
            axes.axvline(line, color=INK, linewidth=1, linestyle=":")
        axes.set(xlabel="score", ylabel="% of its kind")
        axes.legend()
    return plot


def unbeaten(weighed: Mapping[str, tuple[float, float]]) -> list[tuple[float, float]]:
    """Return those that no other beats in both numbers, of which less is better; sorted."""
    points = sorted(set(weighed.values()))
    return [p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)]


def front(weighed: Mapping[str, tuple[float, float]]) -> Plot:
    """Points lost against size, by name; those that no other beats in both are joined.

    Args:
        weighed: size in MB and points lost of each.
    """
    best = unbeaten(weighed)
    with drawing("Quality against size", width=5.4, height=3.2) as (axes, plot):
        axes.step(*zip(*best, strict=True), where="post", color=MAIN, linewidth=1, zorder=1)
        for name, (x, y) in weighed.items():
            colour = MAIN if (x, y) in best else FAINT
            axes.scatter([x], [y], s=40, color=colour, zorder=2)
            axes.annotate(_short(name), (x, y), (5, 5), textcoords="offset points", fontsize=8)
        axes.margins(x=0.25, y=0.2)
        axes.set(xlim=(0, None), xlabel="MB", ylabel="points lost")
    return plot


def pareto(trials: Sequence[Mapping[str, Any]], picked: str) -> Plot:
    """Points lost against latency; a disc grows with its model, what was picked has a rim."""
    largest = max(trial["size_bytes"] for trial in trials)
    with drawing("What was tried", width=5.4, height=3.6) as (axes, plot):
        for trial in trials:
            x, y = trial["latency_ms"], max(trial["lost_points"].values(), default=0.0)
            colour = MAIN if trial["front"] else FAINT
            area = 20 + 160 * trial["size_bytes"] / largest
            edge = INK if trial["name"] == picked else colour
            axes.scatter([x], [y], s=area, color=colour, edgecolors=edge, alpha=0.7, zorder=2)
            if trial["front"]:
                axes.annotate(trial["name"], (x, y), (6, 5), textcoords="offset points", fontsize=8)
        best = sorted(
            (t["latency_ms"], max(t["lost_points"].values(), default=0.0))
            for t in trials
            if t["front"]
        )
        axes.plot([x for x, _ in best], [y for _, y in best], color=MAIN, linewidth=1, zorder=1)
        axes.margins(x=0.25, y=0.15)
        axes.set(xlabel="latency of one text, ms", ylabel="points lost")
    return plot


def sensitivity(found: Sequence[Mapping[str, Any]], recipe: str) -> Plot:
    """What comes back of what int8 costs a recipe when a group of operators stays float32.

    Of the points lost of the task's metric, and of the error of the outputs, each in per cent.
    """
    ordered = sorted(found, key=lambda s: (_back(s, "points"), _back(s, "error")))
    height = 1.6 + 0.34 * len(ordered)
    points, error = (found[0][f"{measure}_with"] for measure in ("points", "error"))
    with drawing(f"What int8 costs: {recipe}", width=6.6, height=height) as (axes, plot):
        rows = range(len(ordered))
        for measure, up, colour, name in (
            ("points", 0.2, OTHER, f"of {points:.2g} points lost"),
            ("error", -0.2, MAIN, f"of an error of {error:.2g}"),
        ):
            back = [_back(one, measure) for one in ordered]
            axes.barh([y + up for y in rows], back, 0.36, color=colour, alpha=0.75, label=name)
        axes.axvline(0, color=FAINT, linewidth=1)
        names = [f"{_end(s['group'])} ({s['nodes']}){'*' * s['excluded']}" for s in ordered]
        axes.set_yticks(rows, names)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set(xlabel="% back when the group stays float32\n(*: as it does in a recipe tried)")
        axes.legend(loc="lower right")
    return plot


def _back(one: Mapping[str, Any], measure: str) -> float:
    """Per cent of what is lost that comes back; below nought where more is lost then."""
    before, after = one[f"{measure}_with"], one[f"{measure}_without"]
    return POINTS * (before - after) / before if before else 0.0


def _pair(judgement: Judgement) -> list[tuple[Sequence[Any], dict[str, Any]]]:
    """The original's answers, if there are any, and the variant's, each with how it is drawn."""
    both: list[tuple[Sequence[Any], dict[str, Any]]] = [
        (
            judgement.reference,
            {"color": REFERENCE, "label": judgement.original, "linewidth": 1, "marker": "o",
             "markersize": 3, "linestyle": "--"},
        ),
        (
            judgement.answers,
            {"color": MAIN, "label": judgement.variant, "linewidth": 1.5, "marker": "o",
             "markersize": 4},
        ),
    ]  # fmt: skip
    return both if judgement.reference else both[1:]


def _histogram(values: Floats, edges: Floats) -> Floats:
    """Per cent of `values` in each bin; those beyond the outermost edges are in the last bins."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return np.asarray(POINTS * counts / max(len(values), 1), np.float64)


def _threshold(judgement: Judgement) -> float | None:
    """Half-way between what is let pass and what is flagged; None where all are alike."""
    judged = list(map(Judged, judgement.rows, judgement.answers))
    flagged = [j.answer.score for j in judged if j.flagged]
    passed = [j.answer.score for j in judged if not j.flagged]
    return (min(flagged) + max(passed)) / 2 if flagged and passed else None


def _ordered(names: set[str]) -> list[str]:
    """By name; what is no intent comes last."""
    return sorted(names, key=lambda name: (name in {OUT_OF_SCOPE, REJECTED}, name))


def _end(name: str) -> str:
    """The end of a node's name, where it says what it does."""
    cut = f"\N{HORIZONTAL ELLIPSIS}{name[1 - _LONGEST_NODE :]}"
    return name if len(name) <= _LONGEST_NODE else cut


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
