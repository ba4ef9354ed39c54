"""However telemetry is summed up, each result is counted once, in order; the oldest goes first."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.contract.messages import ADAPTERS
from edgeslm.core.backlog import Stored, Thinner, to_evict, to_expire
from edgeslm.core.delivery import NO_PROPERTIES, Row

PERIOD_S = 10.0


def result(n: int, *, source: str = "a", model: str = "m", at: float = 0.0, **more: Any) -> bytes:
    about = {"schema": 1, "id": f"d:{source}:{n}", "device": "d", "topic": source, "task": "x"}
    times = {"source": source, "time_in": at, "time_out": at, "latency_ms": float(n % 7)}
    ref = {"name": model, "version": 1, "hash": model}
    said = more or {"label": "normal", "score": float(n)}
    return json.dumps({**about, **times, "model": ref, **said}).encode()


def row(id_: int, payload: bytes, topic: str = "r/m") -> Row:
    return (id_, topic, payload, NO_PROPERTIES)


# Steps in time, whose, and what is said.
steps = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.5, 4.0, 11.0, -30.0]),
        st.sampled_from("ab"),
        st.sampled_from("mn"),
        st.sampled_from(["normal", "b", "normal", "again", "error"]),
    ),
    max_size=40,
)


def saying(kind: str, n: int) -> dict[str, Any]:
    if kind == "error":
        return {"error": {"code": "internal", "message": "m"}}
    if kind == "again":
        return {"label": "normal", "score": float(n), "redelivered": True}
    return {"label": kind, "score": float(n)}


@settings(deadline=None)
@given(steps, st.lists(st.integers(1, 20), min_size=1, max_size=4), st.booleans())
def test_thinning_conserves_counts_and_order(  # noqa: C901 -- all that is kept
    stream: list[tuple[float, str, str, str]],
    chunks: list[int],
    restart: bool,  # noqa: FBT001 -- given by hypothesis
) -> None:
    disk: dict[int, bytes] = {}
    made: list[dict[str, Any]] = []
    now = 0.0
    for n, (step, source, model, kind) in enumerate(stream):
        now += step
        disk[n + 1] = result(n, source=source, model=model, at=now, **saying(kind, n))
        made.append(json.loads(disk[n + 1]))
    thinner = Thinner(PERIOD_S)
    counted = 0
    turn = 0
    while rows := [row(i, p) for i, p in sorted(disk.items()) if i > thinner.after]:
        thinned = thinner.take(rows[: chunks[turn % len(chunks)]])
        for grown in thinned.grown:
            assert grown.row in disk
            disk[grown.row] = grown.payload
            assert grown.results == json.loads(grown.payload)["summary"]["count"]
        for gone in thinned.gone:
            del disk[gone]
        counted += thinned.results
        turn += 1
        if restart and turn == 2:  # what an earlier life has summed up is read again
            thinner = Thinner(PERIOD_S)
    left = [json.loads(payload) for _, payload in sorted(disk.items())]
    summaries = [one for one in left if "summary" in one]
    for one in summaries:
        ADAPTERS["result"].validate_python(one)
        assert one["requires"] == ["summary"]
        summary = one["summary"]
        assert summary["count"] > 1
        assert sum(summary["labels"].values()) + summary["errors"] == summary["count"]
        assert summary["last_time"] - summary["first_time"] < PERIOD_S
    assert counted == sum(one["summary"]["count"] for one in summaries)
    for source in "ab":
        for model in "mn":
            mine = [r for r in made if (r["source"], r["model"]["hash"]) == (source, model)]
            kept = [r for r in left if (r["source"], r["model"]["hash"]) == (source, model)]
            for one in kept:
                part = [
                    mine.pop(0) for _ in range(one["summary"]["count"] if "summary" in one else 1)
                ]
                if "summary" in one:
                    sums_up(one, part)
                else:
                    assert [one] == part
            assert mine == []


def sums_up(one: dict[str, Any], part: list[dict[str, Any]]) -> None:
    """See that a summary says of its results what they say."""
    summary = one["summary"]
    assert (summary["first_id"], summary["last_id"]) == (part[0]["id"], part[-1]["id"])
    assert summary["redelivered"] == sum("redelivered" in r for r in part)
    assert summary["errors"] == sum("error" in r for r in part)
    times = [r["time_out"] for r in part]
    assert (summary["first_time"], summary["last_time"]) == (min(times), max(times))
    assert one["latency_ms"] == max(r["latency_ms"] for r in part)
    scores = [r["score"] for r in part if "score" in r]
    assert ("score" in summary) == bool(scores)
    if scores:
        found = summary["score"]
        assert (found["min"], found["max"]) == (min(scores), max(scores))
        assert found["count"] == len(scores)
        assert found["mean"] == pytest.approx(sum(scores) / len(scores))


def test_what_may_have_been_sent_is_left_alone() -> None:
    thinner = Thinner(PERIOD_S)
    thinner.take([row(1, result(1)), row(2, result(2))])
    thinner.forget(2)
    thinned = thinner.take([row(3, result(3)), row(4, result(4))])
    assert thinned.gone == [3]
    assert [json.loads(g.payload)["summary"]["count"] for g in thinned.grown] == [2]


[_whole] = Thinner(PERIOD_S).take([row(1, result(4)), row(2, result(5))]).grown
summed = _whole.payload


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff",
        b"[]",
        b"7",
        b'{"model": 3}',
        result(1).replace(b'"a"', b'["a"]'),
        result(1).replace(b'"time_out": 0.0', b'"time_out": "x"'),
        result(1).replace(b'"score": 1.0', b'"score": "x"'),
        result(1).replace(b'"latency_ms": 1.0', b'"latency_ms": null'),
        result(1).replace(b'"score": 1.0', b'"score": 1e999'),
        result(1).replace(b'"score": 1.0', b'"score": 1' + b"0" * 400),
        summed.replace(b'{"normal":2}', b'["abc"]'),
        summed.replace(b'"count":2,"min"', b'"count":' + b"9" * 400 + b',"min"'),
        summed.replace(b'"mean":4.5', b'"mean":"x"'),
        summed.replace(b'"count":2,"labels"', b'"count":"2","labels"'),
    ],
)
def test_a_damaged_row_stays_as_it_is_and_holds_up_no_other(damaged: bytes) -> None:
    thinner = Thinner(PERIOD_S)
    thinned = thinner.take([row(1, result(1)), row(2, damaged), row(3, result(3))])
    assert thinned.gone == [1]
    assert [grown.row for grown in thinned.grown] == [3]
    first = Thinner(PERIOD_S).take([row(1, damaged), row(2, result(2)), row(3, result(3))])
    assert first.gone == [2]


def test_what_the_broker_sent_before_is_not_summed_up_and_keeps_its_place() -> None:
    """It may be with the uplink broker by itself, or on disk twice."""
    again = result(3, redelivered=True, label="normal")
    rows = [result(1), result(2), again, result(4), result(5)]
    thinned = Thinner(PERIOD_S).take([row(n + 1, one) for n, one in enumerate(rows)])
    assert thinned.gone == [1, 4]
    assert [(grown.row, grown.results) for grown in thinned.grown] == [(2, 2), (5, 2)]


@pytest.mark.parametrize(
    ("said", "clock"),
    [
        (["synchronised", "synchronised"], "synchronised"),
        (["untrusted", "synchronised", "synchronised"], "untrusted"),
        (["synchronised", None], None),
        ([None, "untrusted"], "untrusted"),
    ],
)
def test_a_summary_has_the_clock_of_its_last_result_and_no_more_trust_than_any(
    said: list[str | None], clock: str | None
) -> None:
    rows = []
    for n, trust in enumerate(said):
        stamped: dict[str, Any] = {"time_mono": float(n), "boot": "b"} | (
            {"clock": trust} if trust else {}
        )
        rows.append(row(n + 1, result(n, label="normal", **stamped)))
    [grown] = Thinner(PERIOD_S).take(rows).grown
    whole = json.loads(grown.payload)
    ADAPTERS["result"].validate_python(whole)
    assert (whole["time_mono"], whole["boot"]) == (len(said) - 1.0, "b")
    assert whole.get("clock") == clock


stored = st.lists(
    st.builds(Stored, st.integers(1, 99), st.integers(1, 99), st.integers(1, 9), st.floats(0, 99)),
    max_size=20,
)


@given(stored, st.integers(-5, 25), st.integers(-50, 900))
def test_eviction_takes_the_oldest_and_no_more_than_is_needed(
    oldest: list[Stored], rows: int, size: int
) -> None:
    out = to_evict(oldest, rows=rows, size=size)
    assert out == oldest[: len(out)]
    enough = len(out) >= rows and sum(one.size for one in out) >= size
    assert enough or out == oldest
    if out:
        fewer = out[:-1]
        assert len(fewer) < rows or sum(one.size for one in fewer) < size


@given(stored, st.floats(0, 99))
def test_what_expires_is_older_than_all_that_stays(oldest: list[Stored], max_age_s: float) -> None:
    by_age = sorted(oldest, key=lambda one: -one.age_s)
    out = to_expire(by_age, max_age_s=max_age_s)
    assert out == [one for one in by_age if one.age_s > max_age_s]
