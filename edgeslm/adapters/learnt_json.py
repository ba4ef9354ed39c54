"""What a source has learnt, as it stands in the file of lessons."""

from __future__ import annotations

from typing import Any

from edgeslm.core.learning import Learnt
from edgeslm.core.numbers import History


def written(learnt: Learnt) -> dict[str, object]:
    """Return it as JSON can say it."""
    return {
        "lines": learnt.lines,
        "once": learnt.once,
        "templates": sorted(learnt.templates),
        "histories": {
            template: [
                [h.values, h.counts, h.once, h.others, h.effective, h.scale] for h in histories
            ]
            for template, histories in learnt.histories.items()
        },
    }


def read(source: str, record: dict[str, Any]) -> Learnt:
    """Return what `written` gave; ValueError, KeyError, TypeError, IndexError: it is damaged."""
    histories = {
        str(template): tuple(
            History(tuple(map(float, v)), tuple(map(int, c)), int(o), int(x), float(e), float(s))
            for v, c, o, x, e, s in found
        )
        for template, found in record["histories"].items()
    }
    templates = frozenset(map(str, record["templates"]))
    return Learnt(source, int(record["lines"]), int(record["once"]), templates, histories)
