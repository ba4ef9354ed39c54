"""Passwords, sessions and forms, against those who guess, plant, forge and wait."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Final

import httpx
import pytest
from sqlalchemy import select

from edgeslm.fleet import access
from edgeslm.fleet.access import OF_ACCOUNT, OF_ADDRESS, Patience
from edgeslm.fleet.database import accounts, audit, schema
from edgeslm.fleet.database.engine import reading
from tests.fleet.web import fleet
from tests.fleet.web.conftest import World

COOKIE: Final = "edgeslm"
WRONG: Final = "not that password at all"


def done(world: World) -> list[str]:
    with reading(world.engine) as conn:
        return [entry.what for entry in audit.entries(conn, limit=1000)]


# Sessions


def test_a_session_has_another_cookie_than_the_one_that_was_planted(world: World) -> None:
    with world.served.client(cookies={COOKIE: "planted"}) as client:
        fleet.sign_in(client, "ada")
        made = client.cookies.get(COOKIE, domain="127.0.0.1")
        assert made not in {None, "planted"}
    with world.served.client(cookies={COOKIE: "planted"}) as thief:
        assert thief.get("/").status_code == 303


def test_signing_in_again_ends_the_session_before(world: World) -> None:
    with world.signed_in("ada") as client:
        first = client.cookies[COOKIE]
        fleet.sign_in(client, "ada")
        assert client.cookies[COOKIE] != first
    with world.served.client(cookies={COOKIE: first}) as thief:
        assert thief.get("/").status_code == 303


def test_the_cookie_is_kept_from_scripts_and_from_other_sites(world: World) -> None:
    with world.served.client() as client:
        answer = fleet.sign_in(client, "ada")
    cookie = next(c for c in answer.headers.get_list("set-cookie") if c.startswith(f"{COOKIE}="))
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "Secure" not in cookie


def test_by_tls_the_cookie_is_for_tls_and_this_host_alone(world: World) -> None:
    with fleet.served(world.engine, secure=True) as served, served.client() as client:
        form = client.get("/login")
        guard = form.headers["set-cookie"]
        assert guard.startswith("__Host-edgeslm-login=")
        assert "Secure" in guard
        assert "Domain" not in guard
        assert form.headers["strict-transport-security"].startswith("max-age=")
        # httpx, as browsers, would not send a cookie for TLS without it.
        cookies = {"__Host-edgeslm-login": guard.split("=", 1)[1].split(";")[0]}
        values = {"name": "ada", "password": fleet.PASSWORD, "csrf": fleet.token_in(form.text)}
        answer = client.post("/login", data=values, headers=_cookies(cookies))
        made = answer.headers.get_list("set-cookie")[0]
        assert made.startswith("__Host-edgeslm=")
        assert {"Secure", "HttpOnly"} <= {part.strip() for part in made.split(";")}


def _cookies(cookies: dict[str, str]) -> dict[str, str]:
    return {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}


def test_of_a_session_the_database_holds_no_secret(world: World) -> None:
    with world.signed_in("ada") as client:
        cookie = client.cookies[COOKIE]
    with reading(world.engine) as conn:
        kept = conn.execute(select(schema.sessions)).mappings().one()
    assert cookie not in str(kept)
    assert kept["hash"] == access.fingerprint(cookie)


@pytest.mark.parametrize("after_s", [access.IDLE_S + 1, access.ABSOLUTE_S + 1])
def test_a_session_ends_when_it_is_idle(world: World, after_s: float) -> None:
    with world.signed_in("ada") as client:
        assert client.get("/").status_code == 200
        world.clock.ahead_s = after_s
        assert client.get("/").status_code == 303


def test_a_session_ends_after_a_week_however_busy_it_is(world: World) -> None:
    step = access.IDLE_S - 60
    with world.signed_in("ada") as client:
        while world.clock.ahead_s < access.ABSOLUTE_S - step:
            world.clock.ahead_s += step
            assert client.get("/account").status_code == 200
        world.clock.ahead_s += step
        assert client.get("/account").status_code == 303


def test_signing_out_ends_the_session_and_not_only_the_cookie(world: World) -> None:
    with world.signed_in("ada") as client:
        cookie = client.cookies[COOKIE]
        csrf = fleet.token_in(client.get("/account").text)
        client.post("/logout", data={"csrf": csrf})
    with world.served.client(cookies={COOKIE: cookie}) as thief:
        assert thief.get("/").status_code == 303
    assert done(world)[:2] == ["session.ended", "session.began"]


def test_a_new_password_signs_all_others_out(world: World) -> None:
    new = "quite another password"
    with world.signed_in("vic") as other, world.signed_in("vic") as client:
        form = {"csrf": fleet.token_in(client.get("/account").text), "new": new, "again": new}
        assert client.post("/account/password", data={**form, "current": WRONG}).status_code == 400
        answer = client.post("/account/password", data={**form, "current": fleet.PASSWORD})
        assert answer.status_code == 303
        assert client.get("/account").status_code == 200
        assert other.get("/account").status_code == 303
    with world.served.client() as client:
        assert fleet.sign_in(client, "vic").status_code == 401
        assert fleet.sign_in(client, "vic", new).status_code == 303


@pytest.mark.parametrize("new", ["short", "vic vic vic", "x" * 300])
def test_a_bad_password_is_refused(world: World, new: str) -> None:
    with world.signed_in("vic") as client:
        csrf = fleet.token_in(client.get("/account").text)
        form = {"csrf": csrf, "current": fleet.PASSWORD, "new": new, "again": new}
        assert client.post("/account/password", data=form).status_code == 400


# Forms


@pytest.mark.parametrize("csrf", [None, "", "wrong"])
def test_a_form_without_the_sessions_token_does_nothing(world: World, csrf: str | None) -> None:
    data = {"key": "hall", "value": "b"} | ({} if csrf is None else {"csrf": csrf})
    with world.signed_in("ada") as client:
        answer = client.post(f"/devices/{world.names[0]}/tags", data=data)
        assert answer.status_code == 403
    assert "device.tagged" not in done(world)


def test_the_token_of_another_session_is_none(world: World) -> None:
    with world.signed_in("vic") as other:
        csrf = fleet.token_in(other.get("/account").text)
    with world.signed_in("ada") as client:
        answer = client.post(f"/rollouts/{world.rollout}/abort", data={"csrf": csrf})
        assert answer.status_code == 403
    with reading(world.engine) as conn:
        assert conn.execute(select(schema.rollouts.c.asked)).scalar() is None


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}]
)
def test_a_form_from_elsewhere_is_refused(world: World, headers: dict[str, str]) -> None:
    with world.signed_in("ada") as client:
        csrf = fleet.token_in(client.get("/account").text)
        answer = client.post("/logout", data={"csrf": csrf}, headers=headers)
        assert answer.status_code == 403


def test_nobody_is_signed_in_as_somebody_else_by_a_foreign_form(world: World) -> None:
    with world.served.client() as client:
        values = {"name": "ada", "password": fleet.PASSWORD, "csrf": "made up"}
        assert client.post("/login", data=values).status_code == 403
        assert COOKIE not in client.cookies


@pytest.mark.parametrize(
    ("asked", "to"),
    [
        ("/models?x=1", "/models?x=1"),
        *((kept, kept) for kept in ("/", "/?q=a%0Ab", "/rollouts/1")),
        *((f"/{bad}/evil", "/") for bad in ("%09", "%2F", "%5C", "%00", "\t")),
        *((bad, "/") for bad in ("", "evil", "//[evil", "/%2fevil", "/%0d%0aevil", "\\/evil")),
        *((f"{bad}evil.example/", "/") for bad in ("//", "https://", "/\\", "javascript:", "\t//")),
    ],
)
def test_signing_in_leads_nowhere_else(world: World, asked: str, to: str) -> None:
    with world.served.client() as client:
        csrf = fleet.token_in(client.get("/login").text)
        values = {"name": "ada", "password": fleet.PASSWORD, "csrf": csrf, "next": asked}
        assert client.post("/login", data=values).headers["location"] == to


# Guessing


def guess(client: httpx.Client, name: str, password: str = WRONG) -> int:
    return fleet.sign_in(client, name, password).status_code


def test_guessing_at_an_account_is_slowed_down_and_the_right_password_waits_too(
    world: World,
) -> None:
    with world.served.client() as client:
        for _ in range(OF_ACCOUNT.free):
            assert guess(client, "ada") == 401
        answer = fleet.sign_in(client, "ada")  # it is right
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= OF_ACCOUNT.most_s
        assert "edgeslm fleet accounts password" in answer.text
        assert guess(client, "vic", fleet.PASSWORD) == 303  # others are not slowed down
        world.clock.ahead_s = 2.0
        assert guess(client, "ada", fleet.PASSWORD) == 303
        assert guess(client, "ada") == 401  # and it begins anew
    assert done(world).count("session.refused") == OF_ACCOUNT.free + 1


def test_many_guesses_at_once_are_not_more_than_one_after_another(world: World) -> None:
    codes: list[int] = []

    def one() -> None:
        with world.served.client() as client:
            codes.append(guess(client, "ada"))

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes.count(401) <= OF_ACCOUNT.free
    assert set(codes) == {401, 429}


def test_an_address_that_tries_many_names_is_slowed_down(world: World) -> None:
    with world.served.client() as client:
        codes = [guess(client, f"name-{n}") for n in range(OF_ADDRESS.free + 2)]
    assert codes[: OF_ADDRESS.free] == [401] * OF_ADDRESS.free
    assert codes[-1] == 429


def test_signing_in_often_is_no_guessing(world: World) -> None:
    with world.served.client() as client:
        codes = [guess(client, "ada", fleet.PASSWORD) for _ in range(OF_ADDRESS.free + 3)]
    assert set(codes) == {303}


def test_an_account_that_is_not_there_is_answered_as_one_that_is(world: World) -> None:
    def took_s(name: str) -> float:
        with world.served.client() as client:
            answer, begun = client.get("/login"), time.perf_counter()
            values = {"name": name, "password": WRONG, "csrf": fleet.token_in(answer.text)}
            texts.add(client.post("/login", data=values).text.count(name))
            return time.perf_counter() - begun

    texts: set[int] = set()
    known = [took_s("ada") for _ in range(3)]
    unknown = [took_s("nob") for _ in range(3)]
    assert 0.4 < statistics.median(unknown) / statistics.median(known) < 2.5
    assert len(texts) == 1


def test_a_disabled_account_is_out_at_once_and_stays_out(world: World) -> None:
    with world.signed_in("ada") as client:
        with world.engine.begin() as conn:
            accounts.change(conn, "ada", disabled=True)
        assert client.get("/").status_code == 303
        assert fleet.sign_in(client, "ada").status_code == 401


def test_the_wait_doubles_up_to_its_limit_and_is_forgotten_after_a_day() -> None:
    patience = Patience(free=2, most_s=60.0)
    waits: Callable[[int], float] = lambda count: patience.wait_s(count, 100.0, 100.0)  # noqa: E731
    assert [waits(n) for n in range(10)] == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert patience.wait_s(10**9, 100.0, 130.0) == 30.0
    assert patience.wait_s(9, 100.0, 101.0 + access.FORGOTTEN_S) == 0.0


# Tokens


def test_a_token_is_shown_once_used_and_revoked(world: World) -> None:
    with world.signed_in("vic") as client:
        csrf = fleet.token_in(client.get("/account").text)
        form = {"csrf": csrf, "label": "<b>script</b>", "days": "1"}
        shown = client.post("/account/tokens", data=form).text
        token = shown.split('id="token">', 1)[1].split("<", 1)[0]
        assert token.startswith("efl_")
        again = client.get("/account").text
        assert token not in again
        assert "<b>" not in again
        with world.served.client(headers={"authorization": f"Bearer {token}"}) as program:
            assert program.get("/api/v1/devices").status_code == 200
            world.clock.ahead_s = 86_401.0
            assert program.get("/api/v1/devices").status_code == 401
            world.clock.ahead_s = 0.0
            number = again.split("/account/tokens/", 1)[1].split("/", 1)[0]
            client.post(f"/account/tokens/{number}/revoke", data={"csrf": csrf})
            assert program.get("/api/v1/devices").status_code == 401


def test_nobody_revokes_another_ones_token(world: World) -> None:
    headers = world.token("ada")
    with reading(world.engine) as conn:
        number = accounts.tokens_of(conn, "ada")[0].id
    with world.signed_in("vic") as client:
        csrf = fleet.token_in(client.get("/account").text)
        answer = client.post(f"/account/tokens/{number}/revoke", data={"csrf": csrf})
        assert answer.status_code == 404
    with world.served.client(headers=headers) as program:
        assert program.get("/api/v1/devices").status_code == 200
