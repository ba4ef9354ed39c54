"""One bundle on one set of rows: its answers, and all that is said of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeslm.contract.manifest import Manifest
from edgeslm.errors import RejectedError
from edgeslm.ports import Answer
from edgeslm.runtime.golden import user_verdicts
from edgeslm.runtime.model import Model, load_model
from exporters import recipes
from exporters.bundle import MANIFEST
from exporters.data import OUT_OF_SCOPE, Row
from exporters.evaluation import chance, confusion, promise
from exporters.evaluation.measures import (
    POINTS,
    Area,
    Computed,
    Given,
    Measure,
    Measures,
    Overlap,
    Share,
)
from exporters.quality import answer_all, short
from exporters.recipes.base import Recipe
from exporters.workbench import Stage

PAIRS: Final = 30
"""Mistakes that are listed, the most frequent first."""
BINS: Final = 10
"""Of confidence, each with the share that is right."""
RESAMPLED: Final = 100
"""Sources, those with most rows, whose every metric has an interval. Of the others what takes
thousands of resamples has none: about a tenth of a second for each."""
LEVELS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""p-values at which the share of normal lines is looked at."""
_EXPORT: Final = "bundle"  # folder of an export's output that a device takes


class OtherTaskError(RejectedError):
    """Two bundles cannot be compared."""

    code = "evaluate.other_task"


@dataclass(frozen=True, slots=True)
class Judged:
    """A bundle and its answers.

    Args:
        model: the bundle, loaded.
        recipe: of its task.
        rows: what was asked.
        answers: to each.
        share: what it promises.
        measures: of all rows.
    """

    model: Model
    recipe: Recipe
    rows: Sequence[Row]
    answers: Sequence[Answer]
    share: float
    measures: Measures

    @property
    def manifest(self) -> Manifest:
        """Of the bundle."""
        return self.model.bundle.manifest


def open_model(path: Path, *, variant: str | None, stage: Stage) -> Model:
    """Load a bundle: its folder, or an export's that holds it.

    Raises:
        RejectedError: it is none, is damaged, or cannot run here.
    """
    inside = path / _EXPORT
    folder = inside if (inside / MANIFEST).is_file() else path
    with stage(f"loading {path}", None):
        return load_model(folder, variant=variant, verdict_dir=user_verdicts())


def judge(model: Model, rows: Sequence[Row], *, name: str, stage: Stage) -> Judged:
    """Have a bundle answer `rows`, in their order."""
    recipe = recipes.load(model.task)
    share = recipe.promised(model.files.read("parameters"))
    with stage(f"judging {name}", len(rows)) as advance:
        answers = answer_all(model, rows, advance)
    return Judged(model, recipe, rows, answers, share, recipe.measures(rows, answers, share=share))


def described(judged: Judged) -> dict[str, Any]:
    """Return which bundle it is, what ran it, and how much of a cascade's work its second stage."""
    model, stages = judged.model, [answer.stage for answer in judged.answers]
    found = {**model.ref, "task": model.task, "variant": model.variant, "provider": model.provider}
    if any(stages):
        found["handed_over"] = short(stages.count("second") / len(stages))
    return found


def figures(judged: Judged, *, stage: Stage) -> dict[str, Any]:
    """Return every metric with its interval, and what stands behind them."""
    with stage("resampling", len(judged.measures)) as advance:
        metrics = {}
        for name, measure in judged.measures.items():
            metrics[name] = shown(measure)
            advance(1)
    own = sources(judged, stage=stage)
    return {
        "metrics": metrics,
        "promise": promised(judged),
        "calibration": calibration(judged),
        "classes": classes(judged),
        "sources": own,
        "confusions": [
            pair._asdict() for pair in confusion.worst(judged.rows, judged.answers, pairs=PAIRS)
        ],
    }


def shown(measure: Measure, *, resampled: bool = True) -> dict[str, Any]:
    """Return a measure as reports show it.

    Args:
        measure: what to show.
        resampled: also what takes thousands of resamples.
    """
    value = measure.value
    found: dict[str, Any] = {"value": short(value) if isinstance(value, float) else value}
    if measure.rows is None:
        return found
    found["rows"] = measure.rows
    if not resampled and isinstance(measure, Computed):
        return found
    if (interval := measure.interval()) is not None:
        found |= {"low": short(interval.low), "high": short(interval.high)}
        found["method"] = interval.method
    return found


def promised(judged: Judged) -> dict[str, Any]:
    """Return whether as few normal rows are flagged as the bundle promises."""
    asked, came = judged.recipe.PROMISE
    share = judged.measures[came]
    assert isinstance(share, Share)  # noqa: S101 -- a recipe's own rule
    found: dict[str, Any] = {"asked": asked, "came": came, "share": POINTS * judged.share}
    if not share.rows:
        return found | {"rows": 0, "verdict": None}
    result = promise.judge(share.count, share.rows, judged.share)
    return found | {
        "rows": result.rows,
        "flagged": result.flagged,
        "p_over": short(result.p_over),
        "p_under": short(result.p_under),
        "verdict": result.verdict,
        "method": promise.METHOD,
    }


def calibration(judged: Judged) -> list[dict[str, Any]]:
    """Return whether numbers mean what they say, one entry for each range.

    Of an intent: how often it is right where it is so confident. Of an anomaly score: which share
    of normal lines has so low a p-value.
    """
    if judged.answers[0].accepted is None:
        return list(_p_values(judged))
    return list(_confidences(judged))


def _confidences(judged: Judged) -> Iterable[dict[str, Any]]:
    known = [
        (answer.confidence, answer.label == row.label)
        for row, answer in zip(judged.rows, judged.answers, strict=True)
        if row.label != OUT_OF_SCOPE
    ]
    confidence = np.array([sure for sure, _ in known])
    right = np.array([hit for _, hit in known], bool)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    for i in range(BINS):
        here = place == i
        if here.any():
            mean = short(float(confidence[here].mean()))
            yield {"confidence": mean, "right": shown(Share(right, here, unit=1.0))}


def _p_values(judged: Judged) -> Iterable[dict[str, Any]]:
    normal = _normal(judged)
    p = np.array([1.0 if answer.p_value is None else answer.p_value for answer in judged.answers])
    if normal.any():
        for level in LEVELS:
            yield {"p_value": level, "at_or_below": shown(Share(p <= level, normal, unit=1.0))}


def _normal(judged: Judged) -> chance.Bools:
    _, came = judged.recipe.PROMISE
    share = judged.measures[came]
    assert isinstance(share, Share)  # noqa: S101 -- a recipe's own rule
    return share.of


def classes(judged: Judged) -> dict[str, Any]:
    """Return recall, precision and F1 of each label, of the rows that are not rejected."""
    both = list(zip(judged.rows, judged.answers, strict=True))
    said = np.array([confusion.said_of(answer) for _, answer in both])
    truth = np.array([confusion.truth_of(row, answer) for row, answer in both])
    found = {}
    for label in sorted(set(truth.tolist())):
        is_it = truth == label
        verdict = said == (confusion.REJECTED if label == OUT_OF_SCOPE else label)
        found[label] = {
            "rows": int(is_it.sum()),
            "recall": shown(Share(verdict, is_it)),
            "precision": shown(Share(is_it, verdict)),
            "f1": shown(Overlap(is_it, verdict)),
        }
    return found


def sources(judged: Judged, *, stage: Stage) -> dict[str, Any]:
    """Return the metrics of each source's own rows, if the rows are of more than one."""
    places = _places(judged)
    if len(places) == 1:
        return {}
    whole = set(_by_rows(places)[:RESAMPLED])
    found = {}
    with stage("resampling sources", len(places)) as advance:
        for source in sorted(places):
            found[source] = _of(judged, places[source], resampled=source in whole)
            advance(1)
    return found


def _places(judged: Judged) -> Mapping[str, Sequence[int]]:
    """Return where the rows of each source are."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(judged.rows):
        places[row.source].append(i)
    return places


def _by_rows(places: Mapping[str, Sequence[int]]) -> list[str]:
    """Return the sources, those with most rows first."""
    return sorted(places, key=lambda source: (-len(places[source]), source))


def _of(judged: Judged, places: Sequence[int], *, resampled: bool) -> dict[str, Any]:
    rows = [judged.rows[i] for i in places]
    answers = [judged.answers[i] for i in places]
    measures = judged.recipe.measures(rows, answers, share=judged.share)
    found: dict[str, Any] = {
        name: shown(measure, resampled=resampled)
        for name, measure in measures.items()
        if not isinstance(measure, Given) and measure.value is not None
    }
    known = {answer.source_known for answer in answers} - {None}
    return {"rows": len(rows), **({"known": known == {True}} if known else {}), **found}


def left_out(judged: Judged, *, compared: bool) -> list[str]:
    """Say which figures have no interval, or no test, though there are rows to count.

    Args:
        judged: of whose rows.
        compared: with another bundle.
    """
    found = []
    names = [name for name, one in judged.measures.items() if isinstance(one, Computed)]
    beyond = _by_rows(_places(judged))[RESAMPLED:]
    if names and beyond:
        named = " and ".join(name.replace("_", " ") for name in names)
        found.append(
            f"{len(beyond)} sources, all but the {RESAMPLED} with most rows, have no interval of "
            f"{named}: it takes thousands of resamples each; evaluate their rows by themselves"
        )
    for name, one in judged.measures.items():
        if compared and isinstance(one, Area) and one.told and one.few is not None:
            found.append(
                f"{name.replace('_', ' ')}: the two are not compared, since {one.few} rows are of "
                f"the rarer kind and the test is too sure of fewer than {chance.LEAST}; give more"
            )
    return found


def compared(first: Judged, second: Judged, *, stage: Stage) -> dict[str, Any]:
    """Return by how much the second differs from the first, and whether that may be chance."""
    found = {}
    with stage("comparing", len(second.measures)) as advance:
        for name, measure in second.measures.items():
            difference = measure.against(first.measures[name])
            advance(1)
            if difference is not None:
                numbers = {k: short(v) for k, v in difference._asdict().items() if k != "method"}
                found[name] = {**numbers, "method": difference.method}
    values = {name: measure.value for name, measure in first.measures.items()}
    differ = Counter(
        (a.label, a.accepted) != (b.label, b.accepted)
        for a, b in zip(first.answers, second.answers, strict=True)
    )
    return {
        "primary": first.recipe.primary(values),
        "verdicts_differ": differ[True],
        "metrics": found,
    }
