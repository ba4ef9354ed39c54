"""The registry is what devices said last, whatever they say, how often and in which order."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from edgeslm.core.filters import All, parse
from edgeslm.fleet.database import registry
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.errors import PlaceError, UnknownDeviceError
from edgeslm.fleet.database.registry import Heard, heard
from edgeslm.fleet.database.schema import device_models, devices, hours, tags
from edgeslm.fleet.database.words import MAX_WHOLE

NOW: Final = 7200.0


def status(device: str, at: float = 0.0, *, online: bool = True) -> Heard:
    reason = "running" if online else "lost"
    return Heard(device, "status", {"device": device, "online": online, "reason": reason}, at)


def model(name: str = "press", version: int | None = 1, answered: int = 0, **more: Any) -> Any:
    row = {"name": name, "state": "serving", "answered": answered, "errors": 0, "alarms": 0, **more}
    return row if version is None else {"version": version, **row}


def state(device: str, at: float, *models: Any, began: float = 0.0, **more: Any) -> Heard:
    message = {
        "device": device,
        "time": at,
        "uptime_s": at - began,
        "agent_version": "1",
        "models": list(models),
        **more,
    }
    return Heard(device, "state", message, at)


def update(device: str, at: float, *models: Any, seq: int = 0, **more: Any) -> Heard:
    message = {
        "device": device,
        "time": at,
        "updater_version": "2",
        "phase": "idle",
        "seq": seq,
        "models": list(models),
        **more,
    }
    return Heard(device, "update", message, at)


def hear(database: Engine, *messages: Heard) -> Counter[str]:
    with database.begin() as conn:
        return heard(conn, messages)


def device(database: Engine, name: str) -> registry.DeviceRow:
    with reading(database) as conn:
        row = registry.device(conn, name)
    assert row is not None
    return row


def press(database: Engine, name: str = "d") -> registry.DeviceModel:
    [found] = [each for each in device(database, name).models if each.model == "press"]
    return found


def test_a_device_registers_by_what_it_says(database: Engine) -> None:
    hear(
        database,
        status("d", 1.0),
        state("d", 2.0, model(provider="qnn", node_share=0.9), profile="pi-5", tags={"hall": "A"}),
        update("d", 3.0, {"name": "press", "version": 1}, seq=4, platform={"arch": "aarch64"}),
    )
    row = device(database, "d")
    assert (row.profile, row.arch, row.agent_version, row.updater_version) == (
        *("pi-5", "aarch64"),
        *("1", "2"),
    )
    assert (row.online, row.health, row.phase, row.seq) == (True, "ok", "idle", 4)
    assert (row.heard_at, row.state_at, row.update_at) == (3.0, 2.0, 3.0)
    assert row.tags == {"hall": "A"}
    assert row.state is not None
    assert row.state["models"][0]["node_share"] == 0.9
    assert row.update is not None
    [found] = row.models
    assert (found.version, found.committed, found.provider) == (1, 1, "qnn")
    with reading(database) as conn:
        assert registry.device(conn, "other") is None


def test_what_comes_again_is_no_news(database: Engine) -> None:
    messages = (status("d", 1.0), state("d", 2.0, model(answered=5)), update("d", 3.0, seq=1))
    hear(database, *messages)
    before = device(database, "d"), press(database)
    late = [Heard(each.device, each.kind, each.message, 500.0) for each in messages]
    assert hear(database, *late) == Counter()
    assert (device(database, "d"), press(database)) == before


def test_a_last_will_is_no_sign_of_life(database: Engine) -> None:
    hear(database, status("d", 1.0), status("d", 50.0, online=False))
    row = device(database, "d")
    assert (row.online, row.reason, row.heard_at) == (False, "lost", 1.0)
    hear(database, status("d", 60.0))
    assert device(database, "d").heard_at == 60.0


def test_what_is_replayed_is_refused(database: Engine) -> None:
    hear(database, state("d", 100.0, model(answered=50)), update("d", 100.0, seq=3))
    refused = hear(
        database,
        state("d", 90.0, model(answered=40, version=9)),
        update("d", 90.0, seq=2, phase="trial"),
    )
    assert refused == {"replayed": 2}
    assert (press(database).version, press(database).answers) == (1, 50)
    assert (device(database, "d").seq, device(database, "d").phase) == (3, "idle")


def test_a_device_that_was_made_anew_begins_at_nothing(database: Engine) -> None:
    hear(database, update("d", 100.0, seq=3))
    hear(database, update("d", 200.0, seq=0))
    assert device(database, "d").seq == 0


def test_counters_go_on_over_a_restart_and_anew_with_a_version(database: Engine) -> None:
    hear(
        database,
        state("d", 10.0, model(answered=10, errors=1, alarms=2, p99_ms=4.0)),
        state("d", 20.0, model(answered=15, errors=1, alarms=4, p99_ms=5.0)),
        state("d", 30.0, model(answered=20, errors=1, alarms=3), began=25.0),  # higher, and anew
        state("d", 40.0, model(version=None, answered=20, errors=1, alarms=3), began=25.0),
    )
    found = press(database)
    assert (found.counted, found.version) == (1, None)
    # Answers, errors included: 11, then 5, then 21 of a new start.
    assert (found.answers, found.errors, found.alarms) == (37, 2, 7)
    hear(database, state("d", 50.0, model(version=2, answered=25, errors=1, alarms=3), began=25.0))
    found = press(database)
    assert (found.counted, found.answers, found.alarms) == (2, 5, 0)
    assert (found.before_version, found.before_answers, found.before_p99_ms) == (1, 37, 5.0)


def test_hours_add_up(database: Engine) -> None:
    hear(database, state("d", 100.0, model(answered=1000)))  # nobody knows when those came
    for at, answered in ((200.0, 1010), (300.0, 1030), (3700.0, 1031)):
        hear(database, state("d", at, model(answered=answered, alarms=answered - 1000)))
    hear(database, state("e", 3700.0, model()), state("e", 3800.0, model(answered=5)))
    with reading(database) as conn:
        mine = registry.by_hour(conn, since=0.0, device="d", model="press")
        assert [(each.hour, each.version, each.answers, each.alarms) for each in mine] == [
            (0, 1, 30, 30),
            (1, 1, 1, 1),
        ]
        assert [each.answers for each in registry.by_hour(conn, since=3600.0)] == [6]
    with database.begin() as conn:
        registry.prune(conn, 3600.0 * (registry.HOURS_KEPT + 1))
    with reading(database) as conn:
        assert [each.hour for each in registry.by_hour(conn, since=0.0)] == [1]


def test_models_come_and_go(database: Engine) -> None:
    hear(database, state("d", 1.0, model(), model("valve")), update("d", 1.0, {"name": "press"}))
    assert [each.model for each in device(database, "d").models] == ["press", "valve"]
    hear(database, update("d", 2.0, {"name": "press", "version": 3, "bad": ["x" * 64]}))
    hear(database, state("d", 2.0))
    [found] = device(database, "d").models
    assert (found.model, found.version, found.committed, found.bad) == (
        *("press", None),
        *(3, ("x" * 64,)),
    )
    hear(database, update("d", 3.0))
    assert device(database, "d").models == ()


@pytest.mark.parametrize(
    ("states", "health"),
    [((), "idle"), (("serving",), "ok"), (("serving", "loading"), "starting"),
     (("loading", "failed", "serving"), "failing")],
)  # fmt: skip
def test_health_is_that_of_the_worst_model(
    states: tuple[str, ...], health: str, database: Engine
) -> None:
    models = [model(f"m{n}", state=each) for n, each in enumerate(states)]
    hear(database, state("d", 1.0, *models))
    assert device(database, "d").health == health


def test_the_managers_tags_count(database: Engine) -> None:
    hear(database, state("d", 1.0, tags={"hall": "A", "line": "1"}), state("e", 1.0))
    with database.begin() as conn:
        registry.tag(conn, ["d", "e"], "hall", "B")
        with pytest.raises(UnknownDeviceError, match="x: not registered"):
            registry.tag(conn, ["d", "x"], "hall", "C")
    hear(database, state("d", 2.0, tags={"hall": "Z"}))  # line is gone
    assert device(database, "d").tags == {"hall": "B"}
    assert device(database, "d").given == {"hall"}
    assert device(database, "e").tags == {"hall": "B"}
    with database.begin() as conn:
        registry.tag(conn, ["d", "e"], "hall", None)
    assert device(database, "d").tags == {"hall": "Z"}
    assert device(database, "e").tags == {}


def test_a_device_that_is_forgotten_leaves_nothing_and_may_come_back(database: Engine) -> None:
    hear(database, state("d", 100.0, model(), tags={"a": "b"}))
    hear(database, state("d", 200.0, model(answered=1)))
    with database.begin() as conn:
        assert registry.forget(conn, "d")
        assert not registry.forget(conn, "d")
        for table in (devices, device_models, hours, tags):
            assert conn.execute(select(table)).all() == []
    hear(database, status("d", 300.0))
    assert device(database, "d").registered_at == 300.0


def test_counts_and_latencies(database: Engine) -> None:
    hear(
        database,
        status("a"),
        state("a", 1.0, model(p99_ms=1.0, p50_ms=0.5), profile="x"),
        state("b", 1.0, model(p99_ms=3.0), profile="x"),
        state("c", 1.0, model(version=2), model("valve"), profile="y"),
        update("e", 1.0, phase="trial"),
    )
    with reading(database) as conn:
        found = registry.counts(conn)
        assert (found.total, found.online) == (4, 1)
        assert found.health == {"ok": 3, "unknown": 1}
        assert found.phase == {"idle": 3, "trial": 1}
        assert found.profiles == {"": 1, "x": 2, "y": 1}
        assert found.models == {"press": {1: 2, 2: 1}, "valve": {1: 1}}
        some = registry.counts(conn, parse("profile = x"))
        assert (some.total, some.models) == (2, {"press": {1: 2}})
        assert [
            (each.version, each.profile, each.devices, each.p50_ms, each.p99_ms)
            for each in registry.latency(conn, "press")
        ] == [(2, "y", 1, None, None), (1, "x", 2, 0.5, 2.0)]
        assert registry.ids(conn, parse("profile = x"), now=NOW) == {"a": "x", "b": "x"}
        assert set(registry.models_of(conn, "press")) == {"a", "b", "c"}


def many(database: Engine, count: int = 53) -> list[str]:
    names = [f"d{n:03}" for n in range(count)]
    hear(
        database,
        *(
            state(name, 1.0, profile=f"p{n % 3}", tags={"n": str(n)})
            for n, name in enumerate(names)
        ),
    )
    return names


@pytest.mark.parametrize("sort", ["id", "profile", "heard_at", "online"])
@pytest.mark.parametrize("descending", [False, True])
def test_pages_hold_each_device_once(sort: Any, descending: bool, database: Engine) -> None:  # noqa: FBT001
    names = many(database)
    after: str | None = None
    seen: list[str] = []
    rows: list[registry.DeviceRow] = []
    with reading(database) as conn:
        while True:
            page = registry.find(
                *(conn, All()), now=NOW, sort=sort, descending=descending, after=after, limit=10
            )
            assert page.total == len(names)
            seen += [row.id for row in page.devices]
            rows += page.devices
            if (after := page.next) is None:
                break
    assert sorted(seen) == names
    keys = [(getattr(row, sort), row.id) for row in rows]
    assert keys == sorted(keys, reverse=descending)
    assert rows[0].tags
    assert rows[0].state is None


@pytest.mark.parametrize(
    "after",
    ["", "x", "W10=", "WyJhIl0=", "WzEsMl0=", "bnVsbA==", "é", "\0",
     "WyJcdWQ4MDAiLCJhIl0=", "WyJcdTAwMDAiLCJhIl0=", "W" * 5000],
)  # fmt: skip
def test_a_place_that_is_none_is_refused(after: str, database: Engine) -> None:
    with reading(database) as conn, pytest.raises(PlaceError):
        registry.find(conn, All(), now=NOW, after=after)


texts = st.text(st.characters(codec="utf-16"), max_size=300) | st.sampled_from(
    ["\0", "\ud800", "a\0b", "press", "x" * 70_000]
)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.just(10**400)
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
whole = st.integers() | st.sampled_from([-1, 2**63, 10**400])


def hostile(*required: str) -> st.SearchStrategy[dict[str, Any]]:
    """Models that a schema lets pass, and whatever else."""
    named = st.fixed_dictionaries(
        {"name": texts, "state": st.sampled_from(["serving", "failed"])},
        optional={
            **dict.fromkeys(("answered", "errors", "alarms", "version"), whole),
            **dict.fromkeys(("provider", "variant"), texts),
            "bad": st.lists(texts, max_size=100),
            "error": st.fixed_dictionaries({"code": texts, "message": texts}),
            "p99_ms": numbers,
            "node_share": numbers,
            "coverage": anything,
        },
    )
    return st.fixed_dictionaries(
        {
            "time": numbers,
            "uptime_s": numbers,
            "seq": whole,
            "models": st.lists(named, max_size=100),
            **dict.fromkeys(("agent_version", "updater_version", "phase", *required), texts),
        },
        optional={
            "profile": texts,
            "reason": texts,
            "online": st.booleans(),
            "tags": st.dictionaries(texts, texts, max_size=50),
            "platform": st.fixed_dictionaries({"arch": texts}),
            "more": anything,
        },
    )


def test_nothing_that_a_device_says_disturbs_the_others(database: Engine) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(st.tuples(st.sampled_from(["status", "state", "update"]), hostile()), max_size=4)
    )
    def holds(said: list[tuple[Any, dict[str, Any]]]) -> None:
        hear(database, *(Heard("bad", kind, message, 1.0) for kind, message in said))
        hear(database, state("good", 1.0, model()))
        with reading(database) as conn:
            page = registry.find(conn, parse("id ~ *"), now=NOW)
            assert "good" in {row.id for row in page.devices}
            for row in page.devices:
                for each in row.models:
                    assert 0 <= each.answers <= 1000 * MAX_WHOLE
            registry.device(conn, "bad")
            registry.counts(conn)
            registry.by_hour(conn, since=-1e9)

    holds()
