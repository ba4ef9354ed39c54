"""Fit the anomaly score on normal lines, and put its embedding distance into the graph.

Calibration scores come from lines that the statistics had not seen: each source's lines are cut
into ten blocks in time order (file order where there are no times), and each block is scored by
what the other nine teach. Blocks stay whole, since neighbouring readings resemble each other and
shuffled folds would leak. Final statistics are fitted on all lines.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeslm.core import calibration
from edgeslm.core.calibration import NUMBER, SESSION, TEXT, WINDOW, Scores
from edgeslm.core.detector import SOURCE, Detector, Repertoire
from edgeslm.core.numbers import History, history, pooled
from edgeslm.core.template import MASKS, Split, canonical, number, readable, split
from edgeslm.errors import RejectedError
from edgeslm.tasks.anomaly import DISTANCE
from exporters.data import Row
from exporters.heads import sessions as sessions_
from exporters.heads import steadiness, windows
from exporters.heads.base import Advance, Embed, Tail
from exporters.heads.merge import MAX_TEMPLATES, merge, rarest

FOLDS: Final = 10
MAX_REFERENCES: Final = 1024
"""Most reference templates in the graph, the most frequent first: 1.5 MB at 384 dimensions."""
LEFT_OUT: Final = math.log(FOLDS / (FOLDS - 1))
"""Nats by which something never seen surprises more once all lines are counted, and not nine
tenths: without it, lines that tie at the top of calibration would all rise above it."""
BATCH: Final = 32
REMEMBERS: Final = "anomaly-memory"
"""What a device must understand of a bundle with windows or sessions."""
MASKED: Final = f"anomaly-masks-{MASKS}"
"""What it must understand of every bundle: by other masks it would take lines for new."""
WINDOWS: Final = "windows"
SESSIONS: Final = "sessions"
UNTIMED: Final = (
    "lines without `time`: windows take them as they come, so a pause does not begin them anew, "
    "and a reading that comes late or twice counts, unless an id tells that it comes again"
)
ON: Final = "on"
OFF: Final = "off"
TOO_SHORT: Final = (
    "too few lines to tell how slowly the plant's numbers change, so devices watch for drift by "
    "what is said alone: give lines, in time order, that cover its slow changes some fifty times"
)
FEW: Final = 20
"""Lines below which a source's own history of a template gives way to the pooled one."""


class TrainingDataError(RejectedError):
    """The training lines cannot make a detector."""

    code = "data.training"


class SwitchError(RejectedError):
    """An option that is on or off is neither."""

    code = "export.switch"

    def __init__(self, text: str) -> None:
        super().__init__(f"{text!r}: give {ON} or {OFF}")


@dataclass(frozen=True, slots=True)
class _Line:
    """One training line: its parts, the index of its template, and where it is from."""

    parts: Split
    template: int
    source: str
    time: float | None
    key: str | None


@dataclass(frozen=True, slots=True)
class AnomalyHead:
    """The fitted head; see `base.FittedHead`."""

    parameters: bytes
    references: NDArray[np.float32]
    """[references, dim], rows of length 1."""
    requires: tuple[str, ...]
    notes: tuple[str, ...]

    def attach(self, encoder: onnx.ModelProto) -> onnx.ModelProto:
        """Return `encoder` with pooling, cosines and their distance; output `distance` [batch]."""
        tail = Tail(encoder)
        references = tail.constant("references", self.references.T)
        cosines = tail.node("MatMul", [tail.pool(), references], "cosines")
        last = tail.constant("references_axis", np.array([1]))
        nearest = tail.node("ReduceMax", [cosines, last], "nearest", keepdims=0)
        one = tail.constant("one", np.array(1, np.float32))
        return tail.finish({DISTANCE: (tail.node("Sub", [one, nearest], "far"), ("batch",))})


def fit(  # noqa: PLR0913 -- by name
    rows: Sequence[Row],
    embed: Embed,
    *,
    alarm_budget: float,
    seed: int,
    advance: Advance,
    options: Mapping[str, str] = MappingProxyType({}),
) -> AnomalyHead:
    """Fit the score on the normal and unlabelled lines of `rows`.

    Args:
        rows: training lines, in file order; "anomaly" ones are left out.
        embed: gives the embeddings of the encoder that the head will be attached to.
        alarm_budget: share of normal lines that may alarm, in (0, 1).
        seed: unused, since nothing here is drawn at random; part of every head's signature.
        advance: called with the number of templates just embedded.
        options: `WINDOWS` and `SESSIONS`, as the command line has them.

    Raises:
        TrainingDataError: no normal line.
        WindowsError: no windows are of such lengths.
        BudgetError: too few lines for the budget; names how many are needed.
    """
    del seed
    normal = [row for row in rows if row.label in {None, "normal"}]
    if not normal:
        msg = 'no normal lines to learn from: give lines without a label, or labelled "normal"'
        raise TrainingDataError(msg)
    calibration.require(alarm_budget, len(normal))
    templates, lines, notes = _few(*_split_all(_in_time_order(normal)))
    embeddings = _embed_all(templates, embed, advance)
    text, number_ = _cross_fitted(templates, embeddings, lines)
    nothing = [None] * len(lines)
    in_windows, told = _in_windows(lines, options.get(WINDOWS, windows.DEFAULT), templates)
    notes += told
    in_sessions = None
    keyed = [line.key for line in lines if line.key is not None]
    if parse_switch(options.get(SESSIONS, ON)):
        in_sessions = sessions_.fit(
            [line.key for line in lines],
            [line.template for line in lines],
            [line.time for line in lines],
            [(line.parts.template, *line.parts.slots) for line in lines],
        )
        if in_sessions is None and keyed:
            notes = (*notes, _too_few_sessions(len(set(keyed)), len(keyed)))
    if in_windows is not None and any(line.time is None for line in lines):
        notes = (*notes, UNTIMED)
    by_window = nothing if in_windows is None else in_windows.scores
    by_session = nothing if in_sessions is None else in_sessions.scores
    said = map(Scores, text, number_, by_window, by_session)
    remembers = in_windows is not None or in_sessions is not None
    fusion = calibration.fusion(list(said), ranks=remembers)
    everyone, sources = _repertoires(lines)
    worth = _worth(lines, [fusion.channels[NUMBER].p_value(x) for x in number_], everyone, sources)
    if not worth:
        notes += (TOO_SHORT,)
    parameters = {
        "alarm_budget": alarm_budget,
        "calibration_lines": len(lines),
        "masks": MASKS,
        "templates": templates,
        "everyone": _plain(everyone),
        "sources": {name: _plain(repertoire) for name, repertoire in sources.items()},
        "text": asdict(fusion.channels[TEXT]),
        "number": asdict(fusion.channels[NUMBER]),
        "fused": asdict(fusion.fused),
    }
    if remembers:
        parameters["ranks"] = True
        parameters["drift"] = {NUMBER: worth}
    for name, channel, fitted in (
        ("windows", WINDOW, in_windows),
        (SESSIONS, SESSION, in_sessions),
    ):
        if fitted is not None:
            distribution = asdict(fusion.channels[channel])
            parameters[name] = {**fitted.parameters, "channel": distribution}
    raw = json.dumps(parameters, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    frequent = Counter(line.template for line in lines).most_common(MAX_REFERENCES)
    # A lone surrogate, from a JSON escape in the data, has no UTF-8 form.
    references = embeddings[sorted(i for i, _ in frequent)]
    requires = (MASKED, REMEMBERS) if remembers else (MASKED,)
    return AnomalyHead(raw.encode("utf-8", "replace"), references, requires, notes)


def _in_windows(
    lines: Sequence[_Line], lengths: str, templates: Sequence[str]
) -> tuple[windows.Fitted | None, tuple[str, ...]]:
    """Return what windows of these lengths have learnt, and a note on which series got some.

    Raises:
        WindowsError: no windows are of such lengths.
    """
    if (parsed := windows.parse(lengths)) is None:
        return None, ()
    readings = [windows.Reading(x.source, x.template, x.parts.slots, x.time) for x in lines]
    fitted, tally = windows.fit(readings, parsed)
    told = tally.sentence(templates)
    return fitted, () if told is None else (told,)


def _too_few_sessions(keys: int, lines: int) -> str:
    return (
        f"{keys} keys of {lines} lines make too few sessions to learn from, so `key` is not "
        f"heeded: give {sessions_.FEWEST} or more, of {sessions_.FEWEST_LINES:g} lines each on "
        "average, not counting a line that comes again with the same time"
    )


def parse_switch(text: str) -> bool:
    """Return whether `text` says on.

    Raises:
        SwitchError: neither on nor off.
    """
    if text not in {ON, OFF}:
        raise SwitchError(text)
    return text == ON


def _in_time_order(rows: list[Row]) -> list[Row]:
    """Rows by time where all have one, else as they came."""
    if any(row.time is None for row in rows):
        return rows
    return sorted(rows, key=lambda row: row.time or 0.0)


def _split_all(rows: Sequence[Row]) -> tuple[list[str], list[_Line]]:
    """Return the distinct templates by first appearance, and every line in terms of them."""
    index: dict[str, int] = {}
    templates: list[str] = []
    lines = []
    for row in rows:
        parts = split(row.text)
        place = index.setdefault(canonical(parts.template), len(index))
        if place == len(templates):
            templates.append(parts.template)
        lines.append(_Line(parts, place, row.source, row.time, row.key))
    return templates, lines


def _few(
    templates: list[str], lines: list[_Line]
) -> tuple[list[str], list[_Line], tuple[str, ...]]:
    """Return templates and lines with the templates merged and bounded, and notes on that."""
    found = merge(templates)
    notes = []
    if found.merged:
        notes.append(
            f"{found.merged} templates differ from others by a name alone and became "
            f"{len(found.templates) - len(templates) + found.merged}: any name will do there"
        )
    lines = [replace(line, template=found.places[line.template]) for line in lines]
    if too_many := rarest([line.template for line in lines]):
        left_out = sum(line.template in too_many for line in lines)
        notes.append(
            f"{len(too_many)} templates beyond the {MAX_TEMPLATES} that a bundle holds were left "
            f"out, with {left_out} lines: devices take such lines for new"
        )
        kept = [i for i in range(len(found.templates)) if i not in too_many]
        place = {template: i for i, template in enumerate(kept)}
        lines = [
            replace(line, template=place[line.template]) for line in lines if line.template in place
        ]
        return [found.templates[i] for i in kept], lines, tuple(notes)
    return found.templates, lines, tuple(notes)


def _embed_all(templates: Sequence[str], embed: Embed, advance: Advance) -> NDArray[np.float32]:
    """Return the embedding of each template, float32 [templates, dim]."""
    out = []
    for start in range(0, len(templates), BATCH):
        batch = [readable(template) for template in templates[start : start + BATCH]]
        out.append(embed(batch))
        advance(len(batch))
    return np.concatenate(out)


def _cross_fitted(
    templates: Sequence[str], embeddings: NDArray[np.float32], lines: Sequence[_Line]
) -> tuple[list[float], list[float]]:
    """Return text and number score of each line, by the statistics of the other folds."""
    folds = np.array(_folds(lines))
    text, number_ = [0.0] * len(lines), [0.0] * len(lines)
    for fold in np.unique(folds):
        rest = [lines[i] for i in np.flatnonzero(folds != fold).tolist()]
        everyone, sources = _repertoires(rest)
        known = sorted(everyone.templates)
        # Only the order of the indices changes: `known` has the templates of the other folds.
        place = {template: i for i, template in enumerate(known)}
        detector = Detector(
            [templates[i] for i in known],
            _renumbered(everyone, place),
            {name: _renumbered(repertoire, place) for name, repertoire in sources.items()},
        )
        held_out = np.flatnonzero(folds == fold).tolist()
        new = sorted({lines[i].template for i in held_out} - everyone.templates)
        nearest = (embeddings[new] @ embeddings[known].T).max(axis=1)
        distance = dict(zip(new, (1 - nearest).clip(0, 2).tolist(), strict=True))
        for i in held_out:
            line = lines[i]
            scores = detector.scores(line.parts, line.source, distance.get(line.template, 0.0))
            text[i] = scores.text + SOURCE * LEFT_OUT if scores.text else 0.0
            number_[i] = scores.number + LEFT_OUT if scores.number else 0.0
    return text, number_


def _folds(lines: Sequence[_Line]) -> list[int]:
    """Return each line's fold: the lines of its source in ten contiguous blocks.

    Sources with too few lines for that are cut together, by the place of a line in the whole.
    """
    totals = Counter(line.source for line in lines)
    seen: Counter[str] = Counter()
    folds = []
    for i, line in enumerate(lines):
        place, of = seen[line.source], totals[line.source]
        folds.append(FOLDS * place // of if of >= FOLDS else FOLDS * i // len(lines))
        seen[line.source] += 1
    return folds


def _repertoires(lines: Sequence[_Line]) -> tuple[Repertoire, dict[str, Repertoire]]:
    """Return what all sources said together, and what each said."""
    columns: dict[str, dict[int, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        columns[line.source][line.template].append([number(slot) for slot in line.parts.slots])
    sources = {}
    slots: dict[int, list[list[tuple[float, ...]]]] = defaultdict(list)
    for source, by_template in sorted(columns.items()):
        histories = {}
        for template, readings in by_template.items():
            by_slot = list(zip(*readings, strict=True))
            slots[template].append(by_slot)
            if by_slot and len(readings) >= FEW:
                histories[template] = [history(slot) for slot in by_slot]
        sources[source] = _repertoire({i: len(r) for i, r in by_template.items()}, histories)
    everyone = {
        template: [pooled(groups) for groups in zip(*by_source, strict=True)]
        for template, by_source in slots.items()
        if by_source[0]
    }
    totals = Counter(line.template for line in lines)
    return _repertoire(totals, everyone), sources


def _worth(
    lines: Sequence[_Line],
    p_values: Sequence[float],
    everyone: Repertoire,
    sources: Mapping[str, Repertoire],
) -> float:
    """Return how many independent lines one is worth by its numbers; see `steadiness.worth`."""
    series = [(line.source, line.template) for line in lines]
    middles = {}
    for source, template in set(series):
        own = sources[source].histories.get(template)
        histories = everyone.histories.get(template, ()) if own is None else own
        middles[source, template] = steadiness.Middle(histories)
    leans = [
        middles[one].lean([number(slot) for slot in line.parts.slots])
        for one, line in zip(series, lines, strict=True)
    ]
    return steadiness.worth(p_values, leans, series)


def _repertoire(
    counts: Mapping[int, int], histories: Mapping[int, Sequence[History]]
) -> Repertoire:
    once = sum(count == 1 for count in counts.values())
    return Repertoire(sum(counts.values()), once, frozenset(counts), histories)


def _renumbered(repertoire: Repertoire, place: Mapping[int, int]) -> Repertoire:
    """Return `repertoire` with template i called `place[i]`."""
    return replace(
        repertoire,
        templates=frozenset(place[i] for i in repertoire.templates),
        histories={place[i]: h for i, h in repertoire.histories.items()},
    )


def _plain(repertoire: Repertoire) -> dict[str, Any]:
    return {
        "lines": repertoire.lines,
        "once": repertoire.once,
        "templates": sorted(repertoire.templates),
        "histories": {i: [asdict(h) for h in hs] for i, hs in repertoire.histories.items()},
    }
