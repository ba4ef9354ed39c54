"""What devices, browsers and whoever types a filter may send: text, and nothing more."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import insert

from edgeslm.core.rollout import DeviceState, Progress
from edgeslm.fleet.database import accounts, events, registry, rollouts, schema
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.web.guard import MAX_BODY_BYTES, MAX_QUERY_BYTES, POLICY
from edgeslm.fleet.web.render import segment
from tests.fleet.web import fleet
from tests.fleet.web.conftest import World

EVIL: Final = "\"'><script>window.pwned=1</script><img src=x onerror=window.pwned=1>&{{7*7}}"
SHORT: Final = '"><svg onload=window.pwned=1>{{7*7}}'
PAGES: Final = (
    *("/", "/rollouts", "/rollouts/new", "/models", "/evidence", "/audit", "/account", "/login"),
)


class Tags(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        if tag == "script" and not (given.get("src") or "").startswith("/static/"):
            self.faults.append(f"script {given}")
        if tag in {"img", "iframe", "object", "embed", "base", "style"}:
            self.faults.append(tag)
        self.faults += [f"{tag} {name}" for name in given if name.startswith("on")]
        self.faults += [f"{tag} style" for name in given if name == "style"]
        for name in ("href", "src", "action"):
            where = given.get(name)
            if where is not None and not re.match(r"^(/(?!/)|#)", where):
                self.faults.append(f"{tag} {name}={where}")


def faults(page: str) -> list[str]:
    found = Tags()
    found.feed(page)
    return found.faults


def infest(world: World) -> tuple[str, int]:
    """Put a device into the database whose every text is hostile, whatever the service refuses."""
    now, device = time.time(), f"{SHORT}/../x"[:64]
    error = {"code": EVIL[:64], "message": EVIL}
    model = {
        "name": SHORT,
        "state": "failed",
        "version": 4,
        "provider": SHORT,
        "variant": SHORT,
        "node_share": 0.5,
        "error": error,
        "answered": 1,
        "errors": 0,
        "alarms": 1,
        "queue": 0,
        "coverage": {"fallen": [{"operator": EVIL, "count": 1, "why": EVIL}]},
        "passed_over": [EVIL],
    }
    state = {"agent_version": SHORT, "tags": {SHORT: EVIL}}
    update: dict[str, Any] = {
        "updater_version": SHORT,
        "phase": "fetching",
        "error": error,
        "waiting": EVIL,
    }
    update |= {"model": EVIL, "done_bytes": 1, "total_bytes": 2}  # as a device says them
    with world.engine.begin() as conn:
        said = fleet.said(device, now, models=[model], state=state, update=update, profile=SHORT)
        registry.heard(conn, said)
        events.note(
            conn,
            [
                events.Told(
                    device,
                    {
                        "time": now,
                        "event": EVIL,
                        "model": EVIL,
                        "error": error,
                        "detail": {EVIL: EVIL},
                    },
                    now,
                )
            ],
        )
        fleet.alarm(conn, device, now, source=EVIL, text=EVIL, label=EVIL[:200], task="intent")
        fleet.alarm(conn, device, now + 1, source=EVIL, text=EVIL)
        hour = int(now // 3600)
        row = {"device": device, "model": SHORT, "hour": hour, "version": 4}
        conn.execute(insert(schema.hours), [{**row, "answers": 9, "errors": 1, "alarms": 3}])
        # A log line and a reason, as a conductor would write them of a device's words.
        target = rollouts.targets(conn, world.rollout)[0]
        bad = replace(
            target, state=DeviceState.FAILED, reason=EVIL, type=SHORT, device=target.device
        )
        rollouts.record(conn, world.rollout, Progress(), now=now, targets=[bad], log=[EVIL])
        kept = accounts.Token("evil", "ada", "0" * 64, EVIL[:100], now, None)
        accounts.add_token(conn, kept)
    return device, world.rollout


def test_a_hostile_device_is_text_on_every_page(world: World) -> None:
    device, number = infest(world)
    at = segment(device)
    shown = [f"/devices/{at}", f"/models/{segment(SHORT)}", f"/rollouts/{number}", *PAGES]
    shown += [f"/?q=id+%3D+{segment(EVIL)}", f"/audit?who={segment(EVIL)}"]
    shown += [f"/rollouts/new?where={segment(EVIL)}&model={segment(EVIL)}"]
    shown += [f"/login?next=/{segment(EVIL)}", f"/nowhere/{segment(EVIL)}"]
    seen = ""
    with world.signed_in("ada") as client:
        for path in shown:
            answer = client.get(path)
            assert answer.status_code in {200, 400, 404}, path
            assert faults(answer.text) == [], path
            seen += answer.text
    assert html.escape(EVIL).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in seen
    assert "<script>window" not in seen


def test_a_hostile_device_is_text_in_what_is_sent_live(world: World) -> None:
    device, number = infest(world)
    paths = ("/live/fleet", f"/devices/{segment(device)}/live", f"/rollouts/{number}/live")
    with world.signed_in("ada") as client:
        for path in paths:
            for part in first_parts(client, path, 3):
                assert faults(part["html"]) == [], path
                assert "\n" not in json.dumps(part)


def first_parts(client: httpx.Client, path: str, count: int) -> list[dict[str, str]]:
    found = []
    with client.stream("GET", path) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
            if len(found) == count:
                break
    return found


def test_a_hostile_device_is_judged_and_tagged_like_any_other(world: World) -> None:
    device, _ = infest(world)
    with world.signed_in("ada") as client:
        page = client.get(f"/devices/{segment(device)}")
        ids = re.findall(r'name="id" value="([^"]*)"', page.text)
        csrf = fleet.token_in(page.text)
        form = {"csrf": csrf, "id": html.unescape(ids[0]), "label": "normal", "back": "//evil"}
        answer = client.post("/evidence/judge", data=form)
        assert answer.headers["location"].startswith("/evidence")
        tagged = client.post(
            f"/devices/{segment(device)}/tags", data={"csrf": csrf, "key": "a", "value": EVIL}
        )
        assert tagged.status_code == 303
        assert faults(client.get(tagged.headers["location"]).text) == []


@pytest.mark.parametrize(
    "filter_",
    [
        "id = 'x' or 1=1",
        "id = \"x'; DROP TABLE devices; --\"",
        "tag.a = \"') or ('1'='1\"",
        "id ~ \"%' OR '1'='1\"",
        "model.press.version = 4 union select password from accounts",
        "id in (\"a'\", 'b\"')",
        "\\", "'", '"', "(" * 500, "not " * 500, "id = \u202e", "\ud800" * 3,
    ],
)  # fmt: skip
def test_a_filter_is_no_way_into_the_database(still: World, filter_: str) -> None:
    shown = filter_.encode("utf-8", "replace").decode()
    with still.signed_in("ada") as client:
        answer = client.get("/", params={"q": shown})
        assert answer.status_code in {200, 400}
        if answer.status_code == 200:
            assert "No device matches" in answer.text
        assert faults(answer.text) == []
    with reading(still.engine) as conn:
        assert registry.counts(conn).total == len(still.names)


@pytest.mark.parametrize(
    "query",
    [
        {"sort": "state; DROP TABLE devices"}, {"sort": "state"}, {"after": "'"},
        {"after": "WzEsIDJd"}, {"after": "W251bGwsIG51bGxd"}, {"down": "' or 1=1"},
    ],
)  # fmt: skip
def test_what_says_how_a_table_is_sorted_is_no_way_in_either(
    still: World, query: dict[str, str]
) -> None:
    with still.signed_in("ada") as client:
        assert client.get("/", params=query).status_code in {200, 400}
        assert client.get(f"/rollouts/{still.rollout}", params=query).status_code == 200
        before = {"before": query.get("after", "1e999 x")}
        assert client.get("/evidence", params=before).status_code == 200
        assert client.get("/audit", params={"before": "1; DROP TABLE audit"}).status_code == 200
    with still.served.client(headers=still.token("ada")) as client:
        assert client.get("/api/v1/devices", params=query).status_code in {200, 400, 422}


def test_every_answer_tells_browsers_what_it_may_not_do(still: World) -> None:
    with still.signed_in("ada") as client:
        answers = [client.get(path) for path in (*PAGES, "/nowhere", "/?q=%29", "/api/v1/devices")]
    for answer in answers:
        assert answer.headers["content-security-policy"] == POLICY
        assert "unsafe" not in POLICY
        assert "frame-ancestors 'none'" in POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("host", "known"),
    [
        *(("localhost", True), ("localhost:8080", True), ("127.0.0.1:9", True), ("[::1]:80", True)),
        *(("10.1.2.3", True), ("fleet.plant", True), ("FLEET.plant:443", True)),
        *(("evil.example", False), ("evil.example:80", False), ("127.0.0.1.evil.example", False)),
        *(("localhost.evil.example", False), ("", False), ("fleet.plant@evil.example", False)),
    ],
)
def test_a_name_that_others_point_here_is_refused(still: World, host: str, known: bool) -> None:  # noqa: FBT001
    with (
        fleet.served(still.engine, hosts=["fleet.plant"]) as served,
        served.client(headers={"host": host}) as client,
    ):
        answer = client.get("/login")
    assert answer.status_code == (200 if known else 421)
    assert known or answer.json()["code"] == "web.host"


def test_a_request_has_a_size(world: World) -> None:
    with world.signed_in("ada") as client:
        csrf = fleet.token_in(client.get("/account").text)
        large = {"csrf": csrf, "label": "x" * MAX_BODY_BYTES}
        assert client.post("/account/tokens", data=large).status_code == 413

        def endless() -> Iterator[bytes]:
            for _ in range(3):
                yield b"label=" + b"x" * (MAX_BODY_BYTES // 2) + b"&"

        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = client.post("/account/tokens", content=endless(), headers=headers)
        assert answer.status_code == 413
        assert client.get("/", params={"q": "x" * MAX_QUERY_BYTES}).status_code == 414
        assert client.get("/?q=%00").status_code == 400
        assert client.get("/devices/%00").status_code == 400
        assert client.get("/account").status_code == 200


def test_a_nul_in_a_form_is_refused_or_harmless(world: World) -> None:
    with world.signed_in("ada") as client:
        csrf = fleet.token_in(client.get("/account").text)
        for key, value in (("a\0b", "c"), ("a", "b\0c")):
            form = {"csrf": csrf, "key": key, "value": value}
            answer = client.post(f"/devices/{world.names[0]}/tags", data=form)
            assert answer.status_code in {303, 400}
        assert client.get(f"/devices/{world.names[0]}").status_code == 200


def test_a_report_runs_nothing_and_is_served_of_known_bundles_alone(
    world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "reports" / fleet.digest(4)
    folder.mkdir(parents=True)
    quality = {"bundle": fleet.digest(4), "fp32": {"accuracy": 99.5}, "cautions": [EVIL]}
    quality["variants"] = {EVIL: {"artifact": {EVIL: 1.0, "accuracy": 99.1}}}
    (folder / "quality.json").write_text(json.dumps(quality))
    (folder / "report.html").write_text(f"<title>{EVIL}</title>")
    (tmp_path / "secret").write_text("secret")
    with world.signed_in("vic") as client:
        page = client.get("/models/press")
        assert "99.1" in page.text
        assert faults(page.text) == []
        report = client.get(f"/models/press/report/{fleet.digest(4)}")
        assert report.status_code == 200
        assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        for bundle in (fleet.digest(5), "..%2F..%2Fsecret", "0" * 64):
            assert client.get(f"/models/press/report/{bundle}").status_code == 404
