"""What sources learn, as text that a device keeps: damaged, perhaps, when it is read again."""

from __future__ import annotations

import base64
import json
from array import array
from collections import Counter
from typing import Any, Final

from edgeslm.core.learning import MAX_SLOTS, Learnt, Pupil, Readings
from edgeslm.core.numbers import History

_DAMAGE: Final = (
    ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError
)  # fmt: skip


def of_learnt(learnt: Learnt) -> str:
    """Return the record of what a source has learnt."""
    return json.dumps(
        {
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
    )


def learnt_of(source: str, record: str) -> Learnt:
    """Return what a source has learnt.

    Raises:
        ValueError: the record is damaged.
    """
    try:
        return _learnt(source, json.loads(record))
    except _DAMAGE as err:
        msg = f"damaged: {err}"
        raise ValueError(msg) from None


def of_pupil(pupil: Pupil) -> str:
    """Return the record of what a source has learnt so far."""
    return json.dumps(
        {
            "lines": pupil.lines,
            "heard": pupil.heard,
            "alarms": pupil.alarms,
            "ended": pupil.ended,
            "templates": pupil.templates,
            "readings": {
                template: [
                    *(one.width, one.stride, one.seen),
                    base64.b64encode(one.values.tobytes()).decode("ascii"),
                ]
                for template, one in pupil.readings.items()
            },
        }
    )


def pupil_of(record: str) -> Pupil:
    """Return what a source has learnt so far.

    Raises:
        ValueError: the record is damaged.
    """
    try:
        return _pupil(json.loads(record))
    except _DAMAGE as err:
        msg = f"damaged: {err}"
        raise ValueError(msg) from None


def _learnt(source: str, record: dict[str, Any]) -> Learnt:
    histories = {
        str(template): tuple(
            History(tuple(map(float, v)), tuple(map(int, c)), int(o), int(x), float(e), float(s))
            for v, c, o, x, e, s in found
        )
        for template, found in record["histories"].items()
    }
    templates = frozenset(map(str, record["templates"]))
    return Learnt(source, int(record["lines"]), int(record["once"]), templates, histories)


def _pupil(record: dict[str, Any]) -> Pupil:
    templates = Counter({str(name): _whole(n) for name, n in record["templates"].items()})
    readings = {}
    for template, (width, stride, seen, packed) in record["readings"].items():
        values = array("d", base64.b64decode(packed, validate=True))
        if template not in templates or _whole(width) > MAX_SLOTS or len(values) % width:
            msg = f"readings of {template!r}: {len(values)} numbers in rows of {width}"
            raise ValueError(msg)
        one = Readings(width, values, stride=_whole(stride), seen=_whole(seen))
        readings[template] = one
    lines = _whole(record["lines"], least=0)
    heard = _whole(record.get("heard", lines), least=lines)  # not in records of before
    alarms = _whole(record.get("alarms", 0), least=0)
    return Pupil(lines, heard, alarms, templates, readings, ended=bool(record.get("ended")))


def _whole(value: object, *, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**53:
        msg = f"no count: {value!r}"
        raise ValueError(msg)
    return value
