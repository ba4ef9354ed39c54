"""What devices answered, as examples for the next export."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

from edgeslm.errors import RejectedError
from edgeslm.fleet.database.evidence import Evidence

ANOMALY: Final = "anomaly"
NORMAL: Final = "normal"
OUT_OF_SCOPE: Final = "oos"
MAX_BYTES: Final = 1 << 30
"""As much as an exporter reads."""


class NothingCollectedError(RejectedError):
    """No example came of what there is; says why of each."""

    code = "fleet.nothing_collected"


class TooMuchCollectedError(RejectedError):
    """It is more than an exporter reads."""

    code = "fleet.too_much_collected"


def examples(
    found: Iterable[Evidence], *, judged_only: bool, devices: Collection[str] | None
) -> tuple[list[bytes], Counter[str]]:
    """Return a JSON line for each result that teaches something, and how many came of what.

    A person's label counts, else the model's own: of an intent out of scope `oos`; of an anomaly
    only that it was normal, since an alarm that nobody judged is neither.

    Args:
        found: oldest first.
        judged_only: leave out what no person has judged.
        devices: leave out others; None: none.

    Raises:
        TooMuchCollectedError: see there.
    """
    lines: list[bytes] = []
    counts: Counter[str] = Counter()
    size = 0
    for each in found:
        if devices is not None and each.device not in devices:
            counts["of other devices"] += 1
            continue
        why, label = _label(each, judged_only=judged_only)
        counts[why] += 1
        if label is None:
            continue
        line = _line(each, label)
        size += len(line)
        if size > MAX_BYTES:
            msg = f"over {MAX_BYTES} bytes, which is what an exporter reads; give a later --since"
            raise TooMuchCollectedError(msg)
        lines.append(line)
    return lines, counts


def _label(each: Evidence, *, judged_only: bool) -> tuple[str, str | None]:
    """Return what to count a result as, and its label; None: it is left out, "" has none."""
    if each.text is None or not each.text.strip():
        return "without a text: their route does not share it", None
    if each.judged is not None:
        if each.task == ANOMALY and each.judged not in {NORMAL, ANOMALY}:
            return f"judged neither {NORMAL} nor {ANOMALY}", None
        return "judged", each.judged
    if judged_only:
        return "not judged", None
    if each.task == ANOMALY:
        # Unlabelled, since nobody has looked: an exporter takes it for normal.
        return ("alarms that nobody judged", None) if each.label == ANOMALY else ("as answered", "")
    return "as answered", OUT_OF_SCOPE if each.accepted is False else each.label


def _line(each: Evidence, label: str) -> bytes:
    row: dict[str, object] = {"text": each.text, "time": each.time}
    row |= {"label": label} if label else {}
    row |= {name: value for name in ("source", "key") if (value := getattr(each, name)) is not None}
    # For people: an exporter leaves these alone.
    row |= {"device": each.device, "version": each.version, "answered": each.label}
    row |= {
        name: value for name in ("score", "p_value") if (value := getattr(each, name)) is not None
    }
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"
