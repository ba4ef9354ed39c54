"""Every route, tried by everybody: the routes are read from the app, so that none is forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from edgeslm.fleet.web.app import create_app
from tests.fleet.web import fleet
from tests.fleet.web.conftest import World

OPEN: Final = {("GET", "/login"), ("POST", "/login"), ("GET", "/static/{name}")}
OWN: Final = {
    *(("POST", "/logout"), ("POST", "/account/password"), ("POST", "/account/signout")),
    *(("POST", "/account/tokens"), ("POST", "/account/tokens/{number}/revoke")),
    *(("POST", "/rollouts/preview"), ("POST", "/api/v1/rollouts/preview")),
}
"""What a viewer may do besides looking: things of one's own, and what changes nothing."""


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Yield method and path of all that the app answers."""
    found: list[BaseRoute] = list(app.routes)
    while found:
        route = found.pop()
        inner = getattr(route, "original_router", None)
        if inner is not None:  # FastAPI keeps a router that was included as one route
            found += inner.routes
            continue
        assert isinstance(route, APIRoute), f"{route}: no right is asked for it"
        yield from ((method, route.path) for method in route.methods or ())


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    return create_app(fleet.opened(tmp_path), shelf=fleet.Shelf())


def ask(client: httpx.Client, world: World, method: str, path: str) -> httpx.Response:
    """Make a request that is meant: with a token of the form, and with what the path names."""
    values = {
        "device": world.names[0],
        "number": str(world.rollout),
        "what": "pause",
        "name": "fleet.css" if path.startswith("/static") else fleet.MODEL,
        "bundle": fleet.digest(4),
        "key": "hall",
    }
    url = re.sub(r"\{(\w+)(:\w+)?\}", lambda m: values[m[1]], path)
    if path.startswith("/api/"):
        return client.request(method, url)
    if method == "GET":
        headers = {"accept": "text/event-stream"} if "live" in path else {}
        with client.stream(method, url, headers=headers) as answer:
            return answer
    page = client.get("/account")
    csrf = fleet.token_in(page.text) if page.status_code == 200 else "none"
    return client.request(method, url, data={"csrf": csrf, "id": "x", "label": "y", "key": "hall"})


def test_the_app_answers_nothing_that_this_test_does_not_walk(app: FastAPI) -> None:
    found = set(routes(app))
    assert len(found) > 40
    assert found >= OPEN | OWN
    assert ("GET", "/api/v1/openapi.json") in found


def test_nobody_gets_in_anywhere(world: World, app: FastAPI) -> None:
    for method, path in routes(app):
        if (method, path) in OPEN:
            continue
        with world.served.client() as client:
            answer = ask(client, world, method, path)
        if path.startswith("/api/"):
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
        elif "live" in path:
            assert answer.status_code == 401, (method, path)
        else:
            assert answer.status_code == 303, (method, path)
            assert answer.headers["location"].startswith("/login"), (method, path)


def test_a_viewer_sees_all_and_changes_nothing(world: World, app: FastAPI) -> None:
    with world.signed_in("vic") as client:
        client.headers.update(world.token("vic"))
        for method, path in sorted(routes(app)):
            if (method, path) in OPEN | OWN:
                continue
            answer = ask(client, world, method, path)
            if method == "GET":
                missing = {404} if "report" in path else set()
                assert answer.status_code in {200} | missing, (method, path)
            else:
                assert answer.status_code == 403, (method, path)


def test_an_operator_is_refused_nothing(world: World, app: FastAPI) -> None:
    with world.signed_in("ada") as client:
        client.headers.update(world.token("ada"))
        for method, path in sorted(routes(app)):
            if (method, path) in OPEN:
                continue
            answer = ask(client, world, method, path)
            assert answer.status_code not in {401, 403, 405, 500}, (method, path)
            if path in {"/logout", "/account/signout"}:  # the cookie is another one now
                assert fleet.sign_in(client, "ada").status_code == 303
            else:
                assert "login" not in answer.headers.get("location", ""), (method, path)


def test_a_cookie_is_no_way_into_the_api_and_a_token_none_into_the_pages(world: World) -> None:
    with world.signed_in("ada") as client:
        assert client.get("/api/v1/devices").status_code == 401
    with world.served.client(headers=world.token("ada")) as client:
        assert client.get("/").status_code == 303


def test_a_role_that_is_taken_away_counts_at_once(world: World) -> None:
    from edgeslm.fleet.database import accounts  # noqa: PLC0415

    token = world.token("ada")
    with world.served.client(headers=token) as client:
        url = f"/api/v1/devices/{world.names[0]}/tags/hall"
        assert client.put(url, json={"value": "b"}).status_code == 204
        with world.engine.begin() as conn:
            accounts.change(conn, "ada", role="viewer")
        assert client.put(url, json={"value": "c"}).status_code == 403
        with world.engine.begin() as conn:
            accounts.change(conn, "ada", disabled=True)
        assert client.get("/api/v1/devices").status_code == 401
