"""Figures as pieces of a page: SVG that takes the page's colours and font."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stand-ins that matplotlib draws with; the page's own colours take their place, light or dark.
INK: Final = "#010101"
FAINT: Final = "#020202"
MAIN: Final = "#030303"
OTHER: Final = "#040404"
REFERENCE: Final = "#050505"
_COLOURS: Final = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    MAIN: "var(--main)",
    OTHER: "var(--other)",
    REFERENCE: "var(--reference)",
}
_REM_PER_INCH: Final = 7.0
_STYLE: Final[dict[Any, Any]] = {
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.size": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "edgeslm",
    "text.color": INK,
    "text.parse_math": False,  # a label may hold a dollar sign
    "xtick.color": INK,
    "xtick.labelsize": 8,
    "ytick.color": INK,
    "ytick.labelsize": 8,
}


@contextmanager
def drawing(title: str, *, width: float = 4.4, height: float = 3.1) -> Iterator[tuple[Axes, Plot]]:
    """Give axes to draw on; the plot is ready at the end. Sizes in inches."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
        plot = Plot(title)
        yield axes, plot
        plot.svg = _svg(figure, title)


class Plot:
    """A figure.

    Attributes:
        svg: the element; empty until its `drawing` has ended.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.svg = ""


def _svg(figure: Figure, title: str) -> str:
    file = io.StringIO()
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=nothing)
    whole = file.getvalue()
    text = whole[whole.index("<svg") :]
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, variable)
    text = re.sub(r'<g id="[^"]+"', "<g", text)  # nothing refers to groups
    text = re.sub(r"<style type=\"text/css\">.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", text)
    wide = f"max-width: {_REM_PER_INCH * figure.get_figwidth():.2f}rem"  # text in all alike large
    head = f'<svg role="img" aria-label="{_attribute(title)}" style="{wide}" '
    text = re.sub(r' width="[^"]*pt" height="[^"]*pt"', "", text, count=1)
    return text.replace("<svg ", head, 1)


def tell_apart(page: str) -> str:
    """Return a page whose figures share no ids: each begins to number its parts anew."""
    numbers = itertools.count(1)

    def rename(figure: re.Match[str]) -> str:
        number = next(numbers)
        text = re.sub(r'\bid="', f'id="f{number}-', figure[0])
        return re.sub(r'(href="|url\()#', rf"\g<1>#f{number}-", text)

    return re.sub(r"<svg.*?</svg>", rename, page, flags=re.DOTALL)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
