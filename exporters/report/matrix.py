"""`matrix.html`: the profiles of a matrix side by side, in one file that needs no other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from exporters.report.style import STYLE

_MB: Final = 1e6
_TO: Final = "\N{NO-BREAK SPACE}\N{RIGHTWARDS ARROW}\N{NO-BREAK SPACE}"
_HEAD: Final = (
    "profile", "variant", "runs on", "precision", "verified", f"float32{_TO}variant",
    "points lost (allowed)", "MB", "ms, median", "nodes taken", "operations taken", "pieces",
)  # fmt: skip
_WIDER: Final = """
body { max-width: 96rem; }
table { width: 100%; }
small { display: block; color: var(--reference); }
.bad { color: var(--other); }
"""


def page(report: Mapping[str, Any]) -> str:
    """Return the page of what `matrix.json` says."""
    title = f"{report['name']} {report['version']}: {report['task']}"
    rows = report["profiles"]
    made = sum(row["status"] == "made" for row in rows)
    held_out = report["held_out"]["rows"]
    lead = f"{made} of {len(rows)} profiles made from {report['model']}; judged on {held_out} texts"
    body = "".join(_profile(row, _twins(rows)) for row in rows)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in _HEAD)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{_WIDER}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<p>{escape(lead)}.</p>\n"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>'
        f"</div>\n{_notes(rows)}</body>\n</html>\n"
    )


def _profile(row: Mapping[str, Any], twins: Mapping[tuple[str, ...], str]) -> str:
    called = escape(row["out"] or row["profile"])
    about = f"<small>{escape(row['description'])}</small>" if row["description"] else ""
    if row["status"] != "made":
        error = row["error"]
        why = f"{error['message']} [{error['code']}]" if error else "not made: the run ended before"
        return (
            f'<tr><th scope="row">{called}{about}</th>'
            f'<td class="bad" colspan="{len(_HEAD) - 1}">{escape(why)}</td></tr>'
        )
    link = f'<a href="{called}/report.html">{called}</a>{about}'
    variants = row["variants"]
    first = f'<th scope="row" rowspan="{len(variants)}">{link}</th>'
    lines = []
    for number, variant in enumerate(variants):
        cells = _variant(variant, row["fp32"], twins.get(tuple(variant.get("sha256", ()))))
        lines.append(f"<tr>{'' if number else first}{cells}</tr>")
    return "".join(lines)


def _variant(variant: Mapping[str, Any], fp32: Mapping[str, Any], twin: str | None) -> str:
    name = escape(variant["name"])
    if not variant["shipped"]:
        name += '<small class="bad">left out: see the notes</small>'
    elif twin is not None:
        name += f"<small>one graph: {escape(twin)}</small>"
    lost = variant["lost_points"]
    before_after = [
        f"{what} {fp32[what]:.4g}{_TO}{variant['artifact'][what]:.4g}"
        for what in lost
        if fp32.get(what) is not None and variant["artifact"].get(what) is not None
    ]
    allowed = variant["allowed_points"]
    losses = [f"{points:.2f} ({allowed:g})" for points in lost.values()]
    coverage = [took for took in variant.get("coverage", ()) if took is not None]
    numbers = (
        "; ".join(losses),
        _number(variant.get("bytes"), over=_MB),
        _number(variant.get("median_ms")),
        _share(coverage, "nodes_taken", "nodes"),
        _share(coverage, "operations_taken", "operations"),
        str(max(took["partitions"] for took in coverage)) if coverage else "",
    )
    words = [variant["provider"], variant["precision"], variant["verified"]]
    texts = (name, *map(escape, words), escape("; ".join(before_after)))
    return "".join(f"<td>{text}</td>" for text in texts) + "".join(
        f'<td class="number">{escape(number)}</td>' for number in numbers
    )


def _twins(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, ...], str]:
    """Return, by hashes of a graph that several profiles have, which these are."""
    owners: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        for variant in row["variants"]:
            if variant["shipped"]:
                owners.setdefault(tuple(variant["sha256"]), []).append(row["out"])
    return {key: ", ".join(names) for key, names in owners.items() if len(names) > 1}


def _share(coverage: Sequence[Mapping[str, Any]], part: str, whole: str) -> str:
    """Return the least share of a variant's graphs, %."""
    shares = [took[part] / took[whole] for took in coverage if took[whole]]
    return f"{100 * min(shares):.1f} %" if shares else ""


def _number(value: float | None, *, over: float = 1.0) -> str:
    return "" if value is None else f"{value / over:.3g}"


def _notes(rows: Iterable[Mapping[str, Any]]) -> str:
    cautions = dict.fromkeys(caution for row in rows for caution in row["cautions"])
    items = "".join(f"<li>{escape(caution)}</li>" for caution in cautions)
    return f"<h2>Notes</h2><ul>{items}</ul>" if items else ""
