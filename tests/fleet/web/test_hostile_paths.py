"""Every address with a part that varies, asked with what nobody should send: never a fault."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest

from edgeslm.fleet.web.app import create_app
from tests.fleet.web import fleet
from tests.fleet.web.conftest import World
from tests.fleet.web.test_rights import routes

HUGE: Final = "9" * 20
VALUES: Final = (
    *(HUGE, "9" * 5000, "-1", "0", "1e9", "1.5", "2147483648", "x", "none", "%00", "%25", "%2F"),
    *("..%2F..", "%ff%fe", "%ed%a0%80", "%F0%9F%92%A9", "%0d%0aa:b", "1%20OR%201=1", "%09", "+1"),
)
# Each is of a kind with its neighbour.
SAMPLED: Final = [
    pytest.param(value, id=value[:24], marks=[pytest.mark.slow] if i % 2 else [])
    for i, value in enumerate(VALUES)
]
BROKEN: Final = 500


def url(path: str, value: str) -> str:
    return re.sub(r"\{\w+(:\w+)?\}", lambda _: value, path)


@pytest.mark.parametrize("value", SAMPLED)
def test_no_address_is_a_fault(still: World, value: str) -> None:
    app = create_app(still.engine, shelf=fleet.Shelf())
    walked = sorted((method, path) for method, path in routes(app) if "{" in path)
    assert len(walked) > 15
    with still.signed_in("ada") as client:
        client.headers.update(still.token("ada"))
        csrf = fleet.token_in(client.get("/account").text)
        for method, path in walked:
            sent = (
                {"json": {"value": "a"}} if path.startswith("/api/") else {"data": {"csrf": csrf}}
            )
            more: dict[str, Any] = sent if method in {"POST", "PUT"} else {}
            with client.stream(method, url(path, value), **more) as answer:
                assert answer.status_code < BROKEN, (method, path)


@pytest.mark.parametrize("value", SAMPLED)
def test_no_query_is_a_fault(still: World, value: str) -> None:
    names = ("before", "after", "limit", "sort", "down", "state", "q", "where", "who", "device")
    query = "&".join(
        f"{name}={value[:400]}" for name in (*names, "model", "descending", "done", "v")
    )
    # No page has both a `before` and an `after`.
    alone = [f"after={value}&before={value}", f"after={value}%20x&before={value}%20x"]
    app = create_app(still.engine, shelf=fleet.Shelf())
    known = {"{number}": str(still.rollout), "{device}": still.names[0], "{name}": fleet.MODEL}
    with still.signed_in("ada") as client:
        client.headers.update(still.token("ada"))
        for method, path in sorted(routes(app)):
            if method != "GET":
                continue
            there = re.sub(r":\w+\}", "}", path)
            for name, one in known.items():
                there = there.replace(name, one)
            for given in (query, *alone):
                with client.stream("GET", f"{url(there, 'x')}?{given}") as answer:
                    assert answer.status_code < BROKEN, (path, given)


@pytest.mark.parametrize("number", [HUGE, "2147483648", "0", "-1", "x", "9" * 5000])
def test_a_number_that_no_roll_out_has_is_a_page_that_is_not_there(
    world: World, number: str
) -> None:
    with world.signed_in("ada") as client:
        csrf = fleet.token_in(client.get("/account").text)
        for path in ("", "/live", "/abort"):
            answer = client.get(f"/rollouts/{number}{path}")
            assert answer.status_code == 404
            assert "There is no such page" in answer.text
        assert client.post(f"/rollouts/{number}/abort", data={"csrf": csrf}).status_code == 404
    with world.served.client(headers=world.token("ada")) as client:
        assert client.get(f"/api/v1/rollouts/{number}").status_code == 422


def test_numbers_in_a_form_are_bounded_too(world: World) -> None:
    with world.signed_in("ada") as client:
        csrf = fleet.token_in(client.get("/account").text)
        for days in (HUGE, "00001" + "9" * 400, "-1", "1.5", "\N{SUPERSCRIPT TWO}"):
            form = {"csrf": csrf, "label": "a", "days": days}
            assert client.post("/account/tokens", data=form).status_code == 400, days


@pytest.mark.parametrize(
    ("body", "place"),
    [
        *((b"{", "line 1, column 2"), (b'{"model": press}', "line 1, column 11")),
        (b'{\n "a": 1 "b": 2\n}', "line 2, column 9"),
    ],
)
def test_what_is_no_json_is_told_where(world: World, body: bytes, place: str) -> None:
    headers = {**world.token("ada"), "content-type": "application/json"}
    with world.served.client(headers=headers) as client:
        answer = client.post("/api/v1/rollouts", content=body)
    assert answer.status_code == 422
    said = answer.json()
    assert said["code"] == "api.invalid"
    assert f"not JSON at {place}: " in said["message"]
    assert "Send one JSON object" in said["message"]
