"""What of a long outage is kept: which telemetry on disk is summed up, and which is given up.

Without I/O and clock. Alerts are never touched. Telemetry gives way oldest first: while there is
much of it, all results of one model to one source in one period become one summary, which takes the
place of the last of them, so that order is kept; where even that does not fit, the oldest go.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from edgeslm.contract.messages import ClockTrust, Result, Scores, Summary, encode, stamp
from edgeslm.core.delivery import Row

MAX_OPEN: Final = 4096  # summaries that may yet grow
SUMMARY: Final = "summary"  # what a reader of such a result must understand
UNTRUSTED: Final = "untrusted"

_Key = tuple[str, str | None, str | None, str, int]


class Stored(NamedTuple):
    """What is known of a row on disk without reading it.

    Args:
        row: its id.
        size: bytes, as the bound counts them.
        results: how many it stands for: 1, or those of its summary.
        age_s: seconds that the agent has run since it was written.
    """

    row: int
    size: int
    results: int
    age_s: float


class Grown(NamedTuple):
    """A row that is overwritten by a summary.

    Args:
        row: its id.
        payload: the summary.
        results: how many it stands for.
    """

    row: int
    payload: bytes
    results: int


@dataclass(frozen=True, slots=True)
class Thinned:
    """What becomes of some rows; those it does not name stay as they are.

    Args:
        grown: rows that are overwritten.
        gone: rows that are forgotten: a summary has what they held.
        results: how many are in a summary now and were in none.
    """

    grown: list[Grown]
    gone: list[int]
    results: int


def to_evict(oldest: Sequence[Stored], *, rows: int, size: int) -> list[Stored]:
    """Return the first of `oldest` that make room for so many rows and bytes; all, if too few."""
    out: list[Stored] = []
    for stored in oldest:
        if rows <= 0 and size <= 0:
            break
        out.append(stored)
        rows -= 1
        size -= stored.size
    return out


def to_expire(oldest: Sequence[Stored], *, max_age_s: float) -> list[Stored]:
    """Return the first of `oldest` that are older than that, up to the first that is not."""
    out: list[Stored] = []
    for stored in oldest:
        if stored.age_s <= max_age_s:
            break
        out.append(stored)
    return out


@dataclass(slots=True)
class _Open:
    """The newest summary of its kind, or the one result that may become it."""

    row: int
    period: int
    result: Result
    counted: int  # of its results, those that were in a summary before
    payload: bytes = b""  # once it has grown


@dataclass(slots=True)
class Thinner:
    """Sums rows up, oldest first.

    Args:
        period_s: of one summary, by the times of the results.

    Attributes:
        after: the last row that it has seen.
    """

    period_s: float
    after: int = 0
    _open: dict[_Key, _Open] = field(default_factory=dict, init=False)

    def forget(self, upto: int) -> None:
        """Rows up to this id are gone, or no longer to be changed."""
        self.after = max(self.after, upto)
        self._open = {key: one for key, one in self._open.items() if one.row > upto}

    def take(self, rows: Sequence[Row]) -> Thinned:
        """Take the next rows, in order; what they become counts the same results, once each."""
        gone: list[int] = []
        touched: dict[_Key, _Open] = {}
        done: list[_Open] = []
        if len(self._open) > MAX_OPEN:
            self._open.clear()
        for row, topic, payload, _ in rows:
            self.after = row
            try:
                key, period, result = _read(topic, payload, self.period_s)
                one = self._open.get(key)
                if one is None or one.period != period or result is None:
                    if one is not None and key in touched:
                        done.append(touched.pop(key))
                    self._open.pop(key, None)
                    if result is not None:
                        encode(_added(result, result))  # else it would hold up what follows it
                        one = _Open(row, period, result, _summed(result))
                        self._open[key] = touched[key] = one
                    continue
                whole = _added(one.result, result)
                one.payload = encode(whole)
                one.counted += _summed(result)
            except Exception:  # noqa: BLE001, S112 -- damaged on disk, however: it goes as it is
                continue
            one.result = whole
            gone.append(one.row)
            one.row = row
            touched[key] = one
        grown = [one for one in (*done, *touched.values()) if one.payload]
        out = [Grown(one.row, one.payload, _count(one.result)) for one in grown]
        results = sum(_count(one.result) - one.counted for one in grown)
        for one in grown:
            one.counted = _count(one.result)
        return Thinned(out, gone, results)


def _count(result: Result) -> int:
    return result["summary"]["count"]


def _summed(result: Result) -> int:
    """How many results of a row were in a summary before it was read."""
    count = _count(result)
    return count if count > 1 else 0


def _read(topic: str, payload: bytes, period_s: float) -> tuple[_Key, int, Result | None]:
    """Return a row's kind, its period, and its result where that may be summed up.

    One whose input the broker sent before may have come through by itself, or be on disk twice.

    Raises:
        Exception: of any kind, where it was damaged.
    """
    result: Result = json.loads(payload)
    model = result["model"]
    key = (topic, result["topic"], result["source"], model["hash"], model["version"])
    hash(key)
    if SUMMARY not in result:
        if result.get("redelivered"):
            return key, 0, None
        result = _summary_of_one(result)
    return key, int(result["summary"]["last_time"] // period_s), result


def _summary_of_one(result: Result) -> Result:
    """Return a result in the form of a summary: what of it can be added up."""
    summary: Summary = {
        "count": 1,
        "labels": {},
        "errors": 0,
        "redelivered": 0,
        "first_id": result["id"],
        "last_id": result["id"],
        "first_time": result["time_out"],
        "last_time": result["time_out"],
    }
    if (label := result.get("label")) is not None:
        summary["labels"] = {label: 1}
    else:
        summary["errors"] = 1
    if (score := result.get("score")) is not None:
        summary["score"] = {"count": 1, "min": score, "mean": score, "max": score}
    of_one: Result = {
        "schema": result["schema"],
        "requires": [SUMMARY],
        "id": result["id"],
        "device": result["device"],
        "topic": result["topic"],
        "source": result["source"],
        "time_in": result["time_in"],
        "time_out": result["time_out"],
        "latency_ms": result["latency_ms"],
        "task": result["task"],
        "model": result["model"],
        "summary": summary,
    }
    _date(of_one, result, trust=result.get("clock"))
    return of_one


def _added(first: Result, second: Result) -> Result:
    """Return the summary of two that follow each other."""
    a, b = first["summary"], second["summary"]
    labels = dict(a["labels"])
    for label, count in b["labels"].items():
        labels[label] = labels.get(label, 0) + count
    summary: Summary = {
        "count": a["count"] + b["count"],
        "labels": labels,
        "errors": a["errors"] + b["errors"],
        "redelivered": a["redelivered"] + b["redelivered"],
        "first_id": a["first_id"],
        "last_id": b["last_id"],
        "first_time": min(a["first_time"], b["first_time"]),
        "last_time": max(a["last_time"], b["last_time"]),
    }
    if (score := _together(a.get("score"), b.get("score"))) is not None:
        summary["score"] = score
    whole: Result = {
        **first,
        "id": f"{a['first_id']}..{b['last_id']}",
        "time_out": second["time_out"],
        "latency_ms": max(first["latency_ms"], second["latency_ms"]),
        "summary": summary,
    }
    doubted = UNTRUSTED in {first.get("clock"), second.get("clock")}
    _date(whole, second, trust=UNTRUSTED if doubted else second.get("clock"))
    return whole


def _date(result: Result, last: Result, *, trust: ClockTrust | None) -> None:
    """Give a summary the monotonic time of its last result."""
    result.pop("time_mono", None)
    result.pop("boot", None)
    result.pop("clock", None)
    if "time_mono" in last and "boot" in last:
        stamp(result, mono=last["time_mono"], boot=last["boot"], trust=trust)


def _together(a: Scores | None, b: Scores | None) -> Scores | None:
    if a is None or b is None:
        return a or b
    count = a["count"] + b["count"]
    return {
        "count": count,
        "min": min(a["min"], b["min"]),
        "mean": a["mean"] + (b["mean"] - a["mean"]) * b["count"] / count,
        "max": max(a["max"], b["max"]),
    }
