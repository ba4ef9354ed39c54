"""What the examples hold: a section of `report.html`, and a page of its own."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

from exporters.inspection.findings import Finding, Inspection, Offender
from exporters.report.parts import document, figures, table
from exporters.report.svg import MAIN, OTHER, Plot, drawing

_NAMED: Final = 40  # with so many groups or fewer, each bar has room for its name
_DRAWN: Final = 200  # bars at most: of more groups, every second, every third, ...
_LONGEST: Final = 30  # characters of a name
# How each kind of line is drawn, in the order of `Inspection.counts`.
_KINDS: Final = ((MAIN, 0.75), (OTHER, 0.75), (OTHER, 0.35))


def section(inspection: Inspection) -> str:
    """Return the section."""
    said = "" if inspection.findings else "<p>Nothing to mend was found.</p>"
    notes = "".join(f"<p>{escape(note)}</p>" for note in inspection.notes)
    tables = "".join(map(_finding, inspection.findings))
    return f"<h2>Examples</h2>{figures([counts(inspection)])}{said}{tables}{notes}"


def page(title: str, inspection: Inspection) -> str:
    """Return a page of nothing else."""
    return document(title, [section(inspection)])


def counts(inspection: Inspection) -> Plot:
    """How many lines there are of each label or source, most first, by what they are used for."""
    every = list(inspection.counts)
    step = -(-len(every) // _DRAWN)
    names = every[::step]
    kinds = list(next(iter(inspection.counts.values()), {}))
    few = len(every) <= _NAMED
    height = 1.2 + 0.2 * len(names) if few else 3.1
    title = f"Lines by {inspection.groups}"
    with drawing(title, width=5.4, height=height) as (axes, plot):
        left = [0] * len(names)
        for kind, (colour, alpha) in zip(kinds, _KINDS, strict=False):
            lines = [inspection.counts[name][kind] for name in names]
            label = kind.replace("_", " ")
            if few:
                axes.barh(
                    range(len(names)), lines, 0.7, left, color=colour, alpha=alpha, label=label
                )
            else:
                edges = range(0, step * len(names) + 1, step)
                ends = [a + b for a, b in zip(left, lines, strict=True)]
                axes.stairs(
                    ends, edges, baseline=left, fill=True, color=colour, alpha=alpha, label=label
                )
            left = [a + b for a, b in zip(left, lines, strict=True)]
        if few:
            axes.set_yticks(range(len(names)), list(map(_short, names)))
            axes.invert_yaxis()
            axes.set(xlabel="lines")
        else:
            axes.set(xlabel=f"{len(every)} {inspection.groups}s, most first", ylabel="lines")
        axes.legend(loc="lower right" if few else "upper right")
    return plot


def _finding(finding: Finding) -> str:
    """One table: the worst offenders of a kind."""
    shown = len(finding.worst)
    listed = f"; the worst {shown}" if finding.count > shown else ""
    rows = [_merged(offender) for offender in finding.worst]
    head = list(rows[0])
    lines = [[str(row[name]) for name in head] for row in rows]
    caption = f"{finding.what[0].upper()}{finding.what[1:]}: {finding.count}{listed}"
    names = [name.replace("_", " ") for name in head]
    return table(names, lines, caption=caption) + f"<p>{escape(finding.remedy)}</p>"


def _merged(offender: Offender) -> Mapping[str, str | int | float]:
    """Columns as people read them: file and line are one."""
    merged: dict[str, str | int | float] = {}
    for name, value in offender.items():
        if name.endswith("file"):
            line = offender[f"{name.removesuffix('file')}line"]
            merged[f"{name.removesuffix('file')}place"] = f"{value}:{line}"
        elif not name.endswith("line"):
            merged[name] = value
    return merged


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
