"""What pages are put together from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from exporters.report.style import STYLE
from exporters.report.svg import Plot, tell_apart


def document(title: str, parts: Iterable[str]) -> str:
    """Return a page that needs no other file, of pieces of HTML; empty ones are left out."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n"
        + tell_apart("\n".join(filter(None, parts)))
        + "\n</body>\n</html>\n"
    )


def facts(found: Mapping[str, str]) -> str:
    """Return a list of terms and what they are."""
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in found.items())
    return f"<dl>{rows}</dl>"


def figures(drawn: Iterable[Plot], *, beside: str = "") -> str:
    """Return figures next to each other, with a piece of HTML after them."""
    shown = "".join(f"<figure>{plot.svg}</figure>" for plot in drawn)
    return f'<div class="figures">{shown}{beside}</div>'


def notes(cautions: Sequence[str]) -> str:
    """Return what the user should know."""
    if not cautions:
        return ""
    return "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(c)}</li>" for c in cautions) + "</ul>"


def table(head: Sequence[str], lines: Iterable[Sequence[str]], *, caption: str = "") -> str:
    """The first column names its row; numbers stand to the right."""
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    rows = "".join(f"<tr>{''.join(_cells(line))}</tr>" for line in lines)
    return (
        f'<div class="wide"><table>{above}<thead><tr>{columns}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cells(line: Sequence[str]) -> Iterator[str]:
    for number, text in enumerate(line):
        if number == 0:
            yield f'<th scope="row">{escape(text)}</th>'
        else:
            kind = ' class="number"' if text[:1].isdigit() or text[:1] == "-" else ""
            yield f"<td{kind}>{escape(text)}</td>"


def number(value: float | None) -> str:
    """Return a value as tables show it."""
    return "" if value is None else f"{value:.4g}"


def words(name: str) -> str:
    """Return a metric's name as people write it."""
    return name.replace("_", " ")
