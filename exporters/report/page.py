"""`report.html`: one export on one page that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from edgeslm.contract.manifest import Artifact, Coverage
from edgeslm.runtime.placement import PROVED, proved
from exporters import targets
from exporters.evaluation.confusion import confusions, worst
from exporters.report import plots
from exporters.report.content import FLOAT32, Content, Judgement
from exporters.report.examples import section
from exporters.report.parts import document, facts, figures, notes, number, table, words
from exporters.tune.run import tunable

_MB: Final = 1e6
_CONFUSED: Final = 12  # pairs that are listed
_HELD: Final = ("graph", "weights", "context")  # what a model weighs
_TRIALS: Final = (
    "recipe", "precision", "points lost", "ms, one text", "messages/s", "MB", "fits", "front",
)  # fmt: skip


def page(content: Content, searches: Sequence[Mapping[str, Any]]) -> str:
    """Return the page; `searches` are those of `tune.json`, where recipes were searched for."""
    manifest = content.manifest
    title = f"{manifest.name} {manifest.version}: {manifest.task}"
    parts = [
        _lead(content),
        _quality(content),
        _reductions(content.quality.get("reductions", ())),
        _variants(content),
        _front(content),
        *(_variant(content, judgement) for judgement in content.judgements),
        *map(_tuning, searches),
        _unsearched(content, searches),
        "" if content.inspection is None else section(content.inspection),
        notes(content.quality["cautions"]),
        _pins(content),
    ]
    return document(title, parts)


def _lead(content: Content) -> str:
    manifest, profile = content.manifest, content.profile
    held = content.quality["held_out"]
    judged = f"{held['rows']} held-out texts"
    given = "given to judge by" if held["given"] else "kept from the training data"
    about = {
        "made for": f"{profile.name}: {profile.description}",
        "profile verified": proved(profile.verified),
        "made from": f"{manifest.base_model.source} ({manifest.base_model.sha256[:12]})",
        "judged on": f"{judged}, {given}",
        "bundle": content.bundle_hash,
    }
    return facts(about)


def _quality(content: Content) -> str:
    """One table for each set of rows that variants were judged on."""
    of = content.reference
    by_rows: dict[int, dict[str, Mapping[str, Any]]] = {}
    for name, report in content.quality["variants"].items():
        by_rows.setdefault(report["rows"], {})[name] = report
    tables = []
    for rows, reports in by_rows.items():
        first = next(iter(reports.values()))
        lines: list[Sequence[str]] = [
            [words(metric), number(first[of.key][metric])]
            + [number(r["artifact"].get(metric)) for r in reports.values()]
            for metric in first[of.key]
        ]
        for what in first["lost_points"]:
            lost = [number(r["lost_points"].get(what)) for r in reports.values()]
            lines.append([f"points lost: {words(what)}", "", *lost])
        allowed = [number(r["allowed_points"]) for r in reports.values()]
        lines.append(["points that may be lost", "", *allowed])
        verdict = ["passed" if r["passed"] else "beyond the gate" for r in reports.values()]
        lines.append(["gate", "", *verdict])
        caption = f"On {rows} texts"
        tables.append(table(["", of.name, *reports], lines, caption=caption))
    note = "<p>In per cent, except counts; oos auroc and calibration error go from 0 to 1.</p>"
    return "<h2>Quality</h2>" + "".join(tables) + note


def _reductions(steps: Sequence[Mapping[str, Any]]) -> str:
    """What made the encoder smaller before it was compiled, and what that cost."""
    if not steps:
        return ""
    tables = []
    for step in steps:
        weights = (f"{step['parameters'][when] / 1e6:.1f}" for when in ("before", "after"))
        lines: list[Sequence[str]] = [["parameters, millions", *weights]]
        lines += [
            [words(metric), *(number(step[when].get(metric)) for when in ("before", "after"))]
            for metric in step["before"]
        ]
        lines += [
            [f"points lost: {words(what)}", "", number(points)]
            for what, points in step["lost_points"].items()
        ]
        tables.append(table(["", "before", "after"], lines, caption=_begun(step["what"])))
    note = "<p>Float32 both, on the held-out texts; the gate above judges what is left.</p>"
    return "<h2>Made smaller</h2>" + "".join(tables) + note


def _variants(content: Content) -> str:
    shipped = content.manifest.variants()
    lines = []
    for name, report in content.quality["variants"].items():
        files = content.manifest.of(name) if name in shipped else ()
        found = [a.coverage for a in files if a.role == "graph" and a.coverage is not None]
        worst = min(found, key=_share, default=None)
        lines.append([
            name,
            report["provider"],
            report["precision"],
            report["verified"],
            "yes" if name in shipped else "no: beyond the gate",
            f"{_megabytes(content, name):.1f}" if files else "",
            *_taken(worst),
        ])  # fmt: skip
    head = [
        "variant", "runs on", "precision", "verified", "in the bundle", "MB", "nodes taken",
        "operations taken", "pieces",
    ]  # fmt: skip
    note = (
        "A device runs the first that it can. MB: graphs, weights and compiled contexts. Taken: by "
        "its provider, of the graph of which it takes least; what is left runs on the CPU."
    )
    used = {report["verified"] for report in content.quality["variants"].values()}
    terms = "; ".join(proved(word) for word in PROVED if word in used)
    said = f"<p>{escape(note)} Verified: {escape(terms)}.</p>"
    return "<h2>Variants</h2>" + table(head, lines) + said


def _front(content: Content) -> str:
    """Quality against size, of float32 and the variants in the bundle."""
    reports = content.quality["variants"]
    weighed = {content.reference.name: (content.reference_bytes / _MB, 0.0)}
    for judgement in content.judgements:
        name = judgement.variant
        lost = max(reports[name]["lost_points"].values(), default=0.0)
        weighed[name] = (_megabytes(content, name), lost)
    note = (
        "Joined are those that no other beats in both. Points lost: of the metric that loses most, "
        f"against {content.reference.name} on the same texts. Times differ from run to run, so "
        "they are beside this page, in measurements.json."
    )
    return f"<h2>Pareto front</h2>{figures([plots.front(weighed)])}<p>{escape(note)}</p>"


def _megabytes(content: Content, variant: str) -> float:
    """Size of graphs, weights and compiled contexts of a variant in the bundle."""
    files = content.manifest.of(variant)
    return sum(file.size for file in files if file.role in _HELD) / _MB


def _variant(content: Content, judgement: Judgement) -> str:
    """The section of one variant: its figures, its confusions, its graphs."""
    drawn = [plots.scores(judgement)] if plots.has_scale(judgement) else []
    if content.manifest.task == "intent":
        drawn.append(plots.reliability(judgement))
    else:
        budget = float(content.quality["fp32"]["alarm_budget"]) / 100
        drawn.append(plots.false_alarms(judgement, budget))
    found = confusions(judgement.rows, judgement.answers)
    confused = ""
    if wrong := worst(judgement.rows, judgement.answers, pairs=_CONFUSED):
        lines = [[pair.truth, pair.said, str(pair.times)] for pair in wrong]
        confused = table(["is", "said", "times"], lines, caption="Most often confused")
    graphs = [a for a in content.manifest.of(judgement.variant) if a.role == "graph"]
    return (
        f"<h2>{escape(judgement.variant)}</h2>"
        f"{figures(drawn)}"
        f"{figures([plots.confusion_matrix(found)], beside=confused)}"
        f"{_coverage(graphs)}"
    )


def _coverage(graphs: Sequence[Artifact]) -> str:
    lines = [[_called(graph), *_taken(graph.coverage)] for graph in graphs]
    whole = table(
        ["graph", "nodes taken", "operations taken", "pieces"],
        lines,
        caption=f"Coverage on {', '.join(dict.fromkeys(str(g.provider) for g in graphs))}",
    )
    fallen = [
        [_called(graph), f.operator, str(f.count), f.why]
        for graph in graphs
        for f in (graph.coverage.fallen if graph.coverage is not None else ())
    ]
    if fallen:
        head = ["graph", "operator", "nodes", "why"]
        return whole + table(head, fallen, caption="Not taken by it")
    return whole


def _called(graph: Artifact) -> str:
    file = graph.path.rpartition("/")[2]
    return file if graph.stage is None else f"{graph.stage}: {file}"


def _taken(found: Coverage | None) -> list[str]:
    """Nodes, operations and pieces; unknown where neither provider nor check was here."""
    if found is None:
        return ["unknown", "unknown", "unknown"]
    operations = "not counted"
    if found.operations:
        share = found.operations_taken / found.operations
        operations = f"{share:.1%} of {found.operations / 1e6:.4g} M"
    return [f"{found.nodes_taken} of {found.nodes}", operations, str(found.partitions)]


def _share(found: Coverage) -> float:
    return found.nodes_taken / found.nodes if found.nodes else 1.0


def _tuning(tune: Mapping[str, Any]) -> str:
    """What was tried, what was picked and why."""
    trials = [trial for trial in tune["trials"] if "latency_ms" in trial]  # measured
    lines = [
        [
            trial["name"],
            trial["precision"],
            number(max(trial["lost_points"].values(), default=0.0)),
            number(trial["latency_ms"]),
            number(trial["messages_per_s"]),
            f"{trial['size_bytes'] / _MB:.1f}",
            "yes" if trial["fits"] else "no",
            "yes" if trial["front"] else "",
        ]
        for trial in trials
    ]
    failed = [[t["name"], t["problem"]] for t in tune["trials"] if t["problem"] is not None]
    picked = f"Picked: {tune['picked']}. {tune['why'].rstrip('.')}."
    cut = "" if tune["whole"] else " The search was cut short: what it had found counts."
    where = f"Timed on {tune['cpu']}."
    drawn = [plots.pareto(trials, tune["picked"])] if trials else []
    for recipe in dict.fromkeys(one["recipe"] for one in tune["sensitivity"]):
        of = [one for one in tune["sensitivity"] if one["recipe"] == recipe]
        drawn.append(plots.sensitivity(of, recipe))
    return (
        f"<h2>Recipes tried for {escape(tune['provider'])}</h2>"
        f"<p>{escape(picked)} {escape(where)}{escape(cut)}</p>"
        f"{figures(drawn)}{table(_TRIALS, lines)}"
        + (table(["recipe", "why not"], failed, caption="Could not be tried") if failed else "")
    )


def _unsearched(content: Content, searches: Sequence[Mapping[str, Any]]) -> str:
    """Say which providers no recipe was searched for."""
    if content.reference != FLOAT32:  # it was put together of what is compiled
        return ""
    searched = {search["provider"] for search in searches}
    left = [provider for provider in content.profile.providers if provider not in searched]
    known = [provider for provider in left if tunable(targets.load(provider)) is not None]
    said = []
    if known:
        said.append(
            f"Not searched for {', '.join(known)}: export with --tune to learn which operators "
            "int8 hurts, and what other recipes would come to."
        )
    if one := [provider for provider in left if provider not in known]:
        said.append(f"One recipe alone is known for {', '.join(one)}.")
    return f"<h2>Sensitivity</h2><p>{escape(' '.join(said))}</p>" if said else ""


def _pins(content: Content) -> str:
    pins = {"edgeslm": content.manifest.exporter, **content.manifest.pins}
    listed = ", ".join(f"{name} {version}" for name, version in pins.items())
    return f"<h2>Made with</h2><p>{escape(listed)}</p>"


def _begun(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
