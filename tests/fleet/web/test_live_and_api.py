"""What is sent live, what programs are told, and what roll-outs are asked for by both."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Generator, Iterator
from typing import Any

import httpx
import pytest

from edgeslm.core.rollout import DeviceState
from edgeslm.fleet.access import IDLE_S
from edgeslm.fleet.database import audit, registry
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.web.forms import FormError, fields_of, plan_of
from edgeslm.fleet.web.live import MAX_STREAMS, Streams, StreamsFullError
from edgeslm.fleet.web.serving import AddressError, serve_web
from tests.fleet.web import fleet
from tests.fleet.web.conftest import World

PLAN = {"model": "press", "version": 5, "where": "tag.site = graz", "waves": ["2", "100%"]}


def parts(client: httpx.Client, path: str) -> Generator[dict[str, str], None, None]:
    with client.stream("GET", path, headers={"accept": "text/event-stream"}) as answer:
        assert answer.status_code == 200
        event = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield {"event": event, **json.loads(line.removeprefix("data: "))}


def test_only_what_has_changed_is_sent_again(world: World) -> None:
    with world.signed_in("vic") as client:
        coming = parts(client, f"/rollouts/{world.rollout}/live")
        first = {next(coming)["id"] for _ in range(4)}
        assert first == {"state", "waves", "targets", "log"}
        with world.engine.begin() as conn:
            states = {0: [DeviceState.SUCCEEDED]}
            fleet.move(conn, world.rollout, time.time(), wave=1, states=states)
        changed: set[str] = set()
        while not {"targets", "waves"} <= changed:  # how long ago something was may change as well
            changed.add(next(coming)["id"])
        assert "log" not in changed
        coming.close()


def test_who_is_signed_out_is_sent_nothing_more(world: World) -> None:
    with world.signed_in("vic") as client:
        coming = parts(client, "/live/fleet")
        for _ in range(3):
            next(coming)
        world.clock.ahead_s = IDLE_S + 1
        assert next(coming)["event"] == "bye"
        assert list(coming) == []


def test_a_page_that_is_left_open_keeps_no_session_alive(world: World) -> None:
    with world.signed_in("vic") as client:
        coming = parts(client, "/live/fleet")
        next(coming)
        for _ in range(4):  # it is looked at again all the while
            world.clock.ahead_s += IDLE_S / 4 + 1
            time.sleep(0.3)
        assert [part["event"] for part in coming][-1] == "bye"


def test_so_many_pages_are_live_and_no_more() -> None:
    streams = Streams(2)
    streams.enter()
    streams.enter()
    with pytest.raises(StreamsFullError, match="2 pages"):
        streams.enter()
    streams.leave()
    streams.enter()
    assert MAX_STREAMS < 100


def test_a_stream_that_is_left_makes_room(world: World) -> None:
    with world.signed_in("vic") as client:
        for _ in range(MAX_STREAMS + 5):
            coming = parts(client, "/live/evidence")
            next(coming)
            coming.close()


def test_the_service_stops_while_pages_are_live(world: World) -> None:
    with contextlib.ExitStack() as stack, world.served.client() as client:
        served = stack.enter_context(fleet.served(world.engine))
        client.base_url = httpx.URL(served.url)
        fleet.sign_in(client, "vic")
        coming = parts(client, "/live/fleet")
        next(coming)
        begun = time.monotonic()
        stack.close()
        assert time.monotonic() - begun < 10.0
        assert all(part["event"] == "part" for part in coming)  # and then it ends


def test_an_address_that_is_taken_is_said(world: World) -> None:
    with pytest.raises(AddressError, match="Choose another address"):
        serve_web(world.served.web._app, ("127.0.0.1", world.served.web.port))  # noqa: SLF001


# The API


@pytest.fixture
def api(world: World) -> Iterator[httpx.Client]:
    with world.served.client(headers=world.token("ada")) as client:
        client.base_url = httpx.URL(f"{world.served.url}/api/v1/")
        yield client


def test_openapi_has_every_route_and_each_error_has_a_code(api: httpx.Client) -> None:
    found = api.get("openapi.json").json()
    assert {"/api/v1/devices", "/api/v1/rollouts/{number}/{what}"} <= set(found["paths"])
    assert all(path.startswith("/api/v1/") for path in found["paths"])
    assert found["security"] == [{"token": []}]
    assert "Plan" in json.dumps(found["components"]["schemas"]["Plan"]["title"])
    for path, status in (("devices/none", 404), ("rollouts/99", 404), ("devices?where=)", 400)):
        answer = api.get(path)
        assert answer.status_code == status
        assert {"code", "message"} <= answer.json().keys()


def test_pages_of_devices_are_all_devices_once(api: httpx.Client, world: World) -> None:
    seen: list[str] = []
    query: dict[str, Any] = {"sort": "heard_at", "descending": True, "limit": 7}
    while True:
        page = api.get("devices", params=query).json()
        assert page["total"] == len(world.names)
        seen += [device["id"] for device in page["devices"]]
        if page["next"] is None:
            break
        query["after"] = page["next"]
    assert sorted(seen) == sorted(world.names)


def test_a_roll_out_by_the_api_is_looked_at_started_watched_and_aborted(
    api: httpx.Client, world: World
) -> None:
    busy = api.post("rollouts", json=PLAN)
    assert busy.status_code == 409
    assert set(busy.json()["busy"]) <= set(world.names[:20])
    plan = {**PLAN, "where": "id = linz-press-0055"}
    looked = api.post("rollouts/preview", json=plan).json()
    assert looked == {"waves": [{looked_type(world): 1}, {}], "unfit": {}, "busy": {}}
    made = api.post("rollouts", json=plan)
    assert made.status_code == 201, made.text
    number = made.json()["id"]
    assert api.get(f"rollouts/{number}/devices").json()[0]["device"] == "linz-press-0055"
    assert api.post(f"rollouts/{number}/explode").status_code == 422
    assert api.post(f"rollouts/{number}/abort").json()["asked"] == "abort"
    log = [entry["what"] for entry in api.get("audit").json()]
    assert log[:2] == ["rollout.abort", "rollout.started"]
    assert api.get("audit?who=ada").json()[0]["by"] == "api"


def looked_type(world: World) -> str:
    with reading(world.engine) as conn:
        found = registry.device(conn, "linz-press-0055")
    assert found is not None
    return found.profile


def test_devices_that_cannot_run_it_are_listed_before_the_start(world: World) -> None:
    shelf = fleet.Shelf(arch="riscv64")
    where = f"id in ({', '.join(world.names[30:50])})"
    with fleet.served(world.engine, shelf=shelf) as served:
        with served.client(headers=world.token("ada")) as client:
            answer = client.post("/api/v1/rollouts", json={**PLAN, "where": where})
            assert answer.status_code == 409
            assert answer.json()["code"] == "rollout.unfit"
            assert len(answer.json()["unfit"]) > 5
        with served.signed_in("ada") as client:
            csrf = fleet.token_in(client.get("/account").text)
            form = {"csrf": csrf, "model": "press 5", "where": where}
            page = client.post("/rollouts/preview", data=form)
            assert "cannot run it" in page.text
            assert "Start roll-out" not in page.text
            refused = client.post("/rollouts", data=form)
            assert refused.status_code == 200
            assert "cannot run it" in refused.text


@pytest.mark.parametrize(
    "plan",
    [{}, [], None, {**PLAN, "waves": ["5%", "1%"]}, {**PLAN, "extra": 1}, {**PLAN, "version": "5"}],
)
def test_a_plan_that_is_none_is_said_field_by_field(api: httpx.Client, plan: object) -> None:
    answer = api.post("rollouts", json=plan)
    assert answer.status_code == 422
    assert answer.json()["code"] == "api.invalid"


def test_what_is_done_by_a_page_is_in_the_audit_log(world: World) -> None:
    device = world.names[0]
    with world.signed_in("ada") as client:
        csrf = fleet.token_in(client.get("/account").text)
        client.post(f"/devices/{device}/tags", data={"csrf": csrf, "key": "hall", "value": "b"})
        client.post(f"/devices/{device}/tags", data={"csrf": csrf, "key": "hall", "remove": "1"})
        page = client.get(f"/devices/{device}").text
        found = page.split('name="id" value="', 1)[1].split('"', 1)[0]
        form = {"csrf": csrf, "id": found, "label": "normal", "back": f"/devices/{device}"}
        assert client.post("/evidence/judge", data=form).headers["location"].endswith("judged")
        assert "by ada" in client.get(f"/devices/{device}").text
        form = {"csrf": csrf, "model": "press 5", "where": f"id = {world.names[40]}"}
        started = client.post("/rollouts", data=form)
        assert started.status_code == 303
        client.post(f"{started.headers['location']}/pause", data={"csrf": csrf})
    with reading(world.engine) as conn:
        entries = audit.entries(conn)
    assert [entry.what for entry in entries[::-1]] == [
        *("session.began", "device.tagged", "device.untagged", "evidence.judged"),
        *("rollout.started", "rollout.pause"),
    ]
    assert {entry.who for entry in entries} == {"ada"}


# The form of a roll-out


def test_the_form_begins_with_what_a_plan_has_by_itself() -> None:
    plan = plan_of({**fields_of({}), "model": "press 5"})
    fresh = type(plan)(model="press", version=5)
    assert plan == fresh


@pytest.mark.parametrize(
    ("field", "text"),
    [
        *(("model", "press"), ("model", ""), ("waves", "5%, 1%"), ("waves", ""), ("waves", "x")),
        *(("canaries", "-1"), ("canaries", "1e3"), ("soak", "soon"), ("deadline", "0")),
        *(("hours", "24:00-1"), ("failed", "5"), ("silent", ""), ("error_share", "nan")),
        *(
            ("latency_ratio", "0.5"),
            ("alarm_ratio", "inf"),
            ("answers", "0"),
            ("where", "x" * 3000),
        ),
    ],
)
def test_a_field_that_is_wrong_is_named(field: str, text: str) -> None:
    form = {**fields_of({"model": "press 5"}), field: text}
    with pytest.raises(FormError) as caught:
        plan_of(form)
    assert list(caught.value.faults) == [field]


def test_a_limit_that_is_empty_is_not_judged() -> None:
    plan = plan_of({**fields_of({"model": "a b 5", "soak": "90 min"}), "model": "press 5",
                    "latency_ratio": "", "alarm_ratio": ""})  # fmt: skip
    assert plan.limits.latency_ratio is None
    assert plan.limits.alarm_ratio is None
    assert plan.soak_s == 5400.0
