"""`evaluation.html`: one evaluation on one page that needs no other file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from exporters.evaluation import chance, plots, promise
from exporters.evaluation.confusion import confusions, worst
from exporters.evaluation.judge import Judged
from exporters.report import plots as report_plots
from exporters.report.content import Judgement
from exporters.report.parts import document, facts, figures, notes, number, table, words

_LISTED: Final = 12  # mistakes
_ROWS: Final = 200  # of a table; all are in the JSON file
_SAID: Final = {
    "kept": "kept, as far as chance lets one see",
    "over": "not kept: more are flagged than chance explains",
    "under": "kept, and fewer are flagged than chance explains",
    None: "cannot be judged: no such rows",
}


def page(report: Mapping[str, Any], judged: Judged, against: Judged | None) -> str:
    """Return the page of what `evaluation.json` says; the answers are drawn, too."""
    names = [_name(one) for one in (judged, against) if one is not None]
    if len(set(names)) < len(names):
        names = [f"{names[0]} (first)", f"{names[1]} (second)"]
    manifest = judged.manifest
    return document(
        f"{manifest.name} {manifest.version}: {manifest.task}, evaluated",
        [
            _lead(report),
            _metrics(report, names),
            _promise(report, names),
            _figures(judged, against, names),
            _classes(report),
            _sources(report),
            notes(report["cautions"]),
            _methods(report),
        ],
    )


def _name(judged: Judged) -> str:
    return f"{judged.manifest.name} {judged.manifest.version}"


def _lead(report: Mapping[str, Any]) -> str:
    bundle, data, ran = report["bundle"], report["data"], report["ran"]
    found = {
        "bundle": f"{bundle['hash']}, {bundle['variant']} on {bundle['provider']}",
        "judged on": f"{data['rows']} rows of {data['file']} ({data['sha256'][:12]})",
        "run by": f"edgeslm {ran['edgeslm']} on {ran['cpu']}",
    }
    if "handed_over" in bundle:
        found["second stage"] = f"answers {bundle['handed_over']:.1%} of the rows"
    if (against := report.get("against")) is not None:
        other = against["bundle"]
        found["against"] = (
            f"{other['name']} {other['version']}: {other['hash']}, {other['variant']} on "
            f"{other['provider']}"
        )
    return facts(found)


def _metrics(report: Mapping[str, Any], names: Sequence[str]) -> str:
    against = report.get("against")
    head = ["", names[0]]
    if against is not None:
        head += [names[1], "difference", "p"]
    lines = []
    for name, one in report["metrics"].items():
        line = [words(name), _with_interval(one)]
        if against is not None:
            line.append(_with_interval(against["metrics"][name]))
            difference = against["comparison"]["metrics"].get(name)
            line += [_with_interval(difference), _p(difference)]
        lines.append(line)
    note = (
        "In per cent, except counts; oos auroc and calibration error go from 0 to 1. In brackets: "
        f"the {chance.CONFIDENCE:.0%} interval, of rows that are independent."
    )
    if against is not None:
        primary = words(against["comparison"]["primary"])
        note += (
            f" Compare by {primary}; the other p-values are not corrected for their number. The "
            f"two say something else of {against['comparison']['verdicts_differ']} rows."
        )
    return f"<h2>Metrics</h2>{table(head, lines)}<p>{escape(note)}</p>"


def _with_interval(one: Mapping[str, Any] | None) -> str:
    if one is None or one["value"] is None:
        return ""
    value = number(one["value"])
    return f"{value} [{number(one['low'])}, {number(one['high'])}]" if "low" in one else value


def _p(difference: Mapping[str, Any] | None) -> str:
    return "" if difference is None else f"{difference['p']:.2g}"


def _promise(report: Mapping[str, Any], names: Sequence[str]) -> str:
    both = [report["promise"]]
    if "against" in report:
        both.append(report["against"]["promise"])
    lines = [
        [
            name,
            f"{one['share']:.3g} %",
            f"{one['flagged']} of {one['rows']}" if one["rows"] else "",
            _SAID[one["verdict"]],
            f"{one['p_over']:.2g}" if one["rows"] else "",
            f"{one['p_under']:.2g}" if one["rows"] else "",
        ]
        for name, one in zip(names, both, strict=True)
    ]
    head = [words(both[0]["asked"]), "promised", "flagged", "", "p of so many", "p of so few"]
    note = (
        f"Told where it would come by chance less often than {promise.SURE:g}. Rows of a stream "
        "come in runs, which chance does not know of."
    )
    return f"<h2>Is the promise kept?</h2>{table(head, lines)}<p>{escape(note)}</p>"


def _figures(judged: Judged, against: Judged | None, names: Sequence[str]) -> str:
    """Scores, calibration, ROC; confusions."""
    shown = Judgement(
        names[0],
        judged.rows,
        against.answers if against is not None else (),
        judged.answers,
        original=names[-1],
    )
    drawn = [report_plots.scores(shown)] if report_plots.has_scale(shown) else []
    if judged.answers[0].accepted is None:
        drawn.append(report_plots.false_alarms(shown, judged.share))
    else:
        drawn.append(report_plots.reliability(shown))
    both = [one for one in (judged, against) if one is not None]
    if (roc := plots.roc(list(zip(names, both, strict=True)))) is not None:
        drawn.append(roc)
    found = confusions(judged.rows, judged.answers)
    return f"<h2>Scores and confusions</h2>{figures(drawn)}" + figures(
        [report_plots.confusion_matrix(found)], beside=_worst(judged)
    )


def _worst(judged: Judged) -> str:
    pairs = worst(judged.rows, judged.answers, pairs=_LISTED)
    if not pairs:
        return ""
    lines = [
        [pair.truth, pair.said, str(pair.times), ", ".join(map(str, pair.lines))] for pair in pairs
    ]
    head = ["is", "said", "times", "first in lines"]
    return table(head, lines, caption="Most often confused")


def _classes(report: Mapping[str, Any]) -> str:
    found = report["classes"]
    recalls = {name: one["recall"] for name, one in found.items()}
    drawn = plots.ranges("Found of each, the worst first", recalls, worst_high=False)
    lines = [
        [name, str(one["rows"]), *(_with_interval(one[m]) for m in ("recall", "precision", "f1"))]
        for name, one in _first(found)
    ]
    head = ["", "rows", "found, %", "right where said, %", "F1, %"]
    return f"<h2>By class</h2>{figures([drawn])}{table(head, lines, caption=_cut(found))}"


def _sources(report: Mapping[str, Any]) -> str:
    found = report["sources"]
    if not found:
        return ""
    came = report["promise"]["came"]
    rates = {name: one[came] for name, one in found.items() if came in one}
    drawn = []
    if rates:
        title = f"{words(came).capitalize()}, the worst first"
        drawn.append(plots.ranges(title, rates, worst_high=True))
    shown = [m for m in report["metrics"] if any(m in one for one in found.values())]
    lines = [
        [name or "(no source)", str(one["rows"]), *(_with_interval(one.get(m)) for m in shown)]
        for name, one in _first(found)
    ]
    head = ["source", "rows", *map(words, shown)]
    return f"<h2>By source</h2>{figures(drawn)}{table(head, lines, caption=_cut(found))}"


def _first(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return list(found.items())[:_ROWS]


def _cut(found: Mapping[str, Any]) -> str:
    return f"The first {_ROWS}; all are in evaluation.json" if len(found) > _ROWS else ""


def _methods(report: Mapping[str, Any]) -> str:
    used = sorted(set(_used(report)))
    lines = [[name, chance.METHODS[name]] for name in used]
    return f"<h2>Methods</h2>{table(['', 'source'], lines)}"


def _used(part: Any) -> Iterator[str]:
    """Yield every `method` in a report."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            if key == "method":
                yield value
            else:
                yield from _used(value)
    elif isinstance(part, list):
        for value in part:
            yield from _used(value)
