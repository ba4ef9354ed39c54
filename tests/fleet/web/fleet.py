"""A fleet in a database: devices that have spoken, a shelf of models, accounts; and it served."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
from sqlalchemy import Engine, insert

from edgeslm.contract.fleet import BundleOffer, OfferedVariant
from edgeslm.contract.manifest import Requirements
from edgeslm.contract.rollout import Plan
from edgeslm.core.rollout import DeviceState, Progress, State, Target, waves_of
from edgeslm.fleet import access
from edgeslm.fleet.access import Passwords
from edgeslm.fleet.database import accounts, events, evidence, registry, rollouts, schema
from edgeslm.fleet.database.engine import open_database
from edgeslm.fleet.web.app import create_app
from edgeslm.fleet.web.serving import Web, serve_web

PASSWORD: Final = "a long password of the tests"  # noqa: S105
HASHED: Final = Passwords().hashed(PASSWORD)
TYPES: Final = (
    ("raspberry-pi-5", "cpu", 21.0),
    ("jetson-orin-nano", "cuda", 6.5),
    ("rb3-gen2", "qnn", 4.2),
    ("generic-x86_64", "cpu", 9.0),
)
SITES: Final = ("graz", "linz", "wels")
MODEL: Final = "press"
DAY_S: Final = 86_400.0
HOUR_S: Final = 3600.0


@dataclass
class Shelf:
    """What a repository would offer."""

    versions: Sequence[int] = (3, 4, 5)
    profiles: Sequence[str] = tuple(name for name, _, _ in TYPES)
    name: str = MODEL
    arch: str | None = None

    def models(self) -> Sequence[str]:
        return [self.name]

    def offers(self, model: str) -> Sequence[BundleOffer]:
        return [
            BundleOffer(
                model=model,
                version=version,
                bundle=digest(version),
                task="anomaly",
                profiles=tuple(self.profiles),
                variants=(OfferedVariant(provider="cpu", requires=Requirements(arch=self.arch)),),
                size=25_000_000,
            )
            for version in (self.versions if model == self.name else ())
        ]

    def expired(self, model: str) -> Sequence[str]:
        del model
        return ()


def digest(version: int) -> str:
    return hashlib.sha256(str(version).encode()).hexdigest()


def opened(folder: Path) -> Engine:
    return open_database(f"sqlite:///{folder / 'fleet.db'}")


def add_account(engine: Engine, name: str, role: accounts.Role) -> None:
    with engine.begin() as conn:
        accounts.create(conn, name, role, HASHED, now=time.time())


def add_token(engine: Engine, name: str, *, expires_at: float | None = None) -> str:
    number, token = access.new_token()
    kept = access.fingerprint(token)
    with engine.begin() as conn:
        now = time.time()
        accounts.add_token(conn, accounts.Token(number, name, kept, "tests", now, expires_at, None))
    return token


def said(device: str, now: float, **more: Any) -> list[registry.Heard]:
    """Return what a device says when it connects; `more` is of its state, its model, its update."""
    kind = int(hashlib.sha256(device.encode()).hexdigest(), 16)
    profile, provider, p50 = TYPES[kind % len(TYPES)]
    profile = more.pop("profile", profile)
    version = more.pop("version", 4)
    spread = 0.8 + (kind // 7 % 100) / 250
    model: dict[str, Any] = {
        "name": MODEL,
        "state": "serving",
        "version": version,
        "task": "anomaly",
        "provider": provider,
        "variant": f"{provider}-int8",
        "node_share": 1.0,
        "queue": 0,
        "answered": 41_250,
        "errors": kind % 9,
        "alarms": 180 + kind % 200,
        "expired": 0,
        "cache_hits": 0,
        "cache_misses": 0,
        "p50_ms": p50 * spread,
        "p99_ms": p50 * spread * 2.1,
        **more.pop("model", {}),
    }
    who = {"schema": 1, "device": device, "time": now}
    state = {
        **who,
        "agent_version": "0.6.0",
        "profile": profile,
        "uptime_s": 412_000.0,
        "rss_mb": 96.0,
        "models": more.pop("models", [model]),
        "outbox": 0,
        "withheld": 0,
        "drops": {},
        "tags": {"site": device.split("-", maxsplit=1)[0], "line": f"l{kind % 5 + 1}"},
        **more.pop("state", {}),
    }
    update = {
        **who,
        "updater_version": "0.6.0",
        "phase": "idle",
        "seq": 4,
        "config_seq": 0,
        "models": [{"name": MODEL, "version": version, "bundle": "0" * 64}],
        "platform": {
            "arch": "x86_64" if "x86" in profile else "aarch64",
            "cpu_features": [],
            "socs": [],
            "profile": profile,
            "providers": [provider, "cpu"],
        },
        **more.pop("update", {}),
    }
    status = {**who, "online": True, "reason": "running", **more.pop("status", {})}
    assert not more
    messages: tuple[tuple[Any, Mapping[str, Any]], ...] = (
        *(("state", state), ("update", update)),
        ("status", status),
    )
    return [registry.Heard(device, kind, dict(message), now) for kind, message in messages]


def fill(engine: Engine, count: int, now: float) -> list[str]:
    """Register so many devices, of which a few are offline, failing or busy."""
    names = [f"{SITES[n % 3]}-press-{n:04d}" for n in range(count)]
    chance = random.Random(7)  # noqa: S311 -- the same fleet each time
    batch: list[registry.Heard] = []
    for number, name in enumerate(names):
        more: dict[str, Any] = {}
        at = now - chance.uniform(0, 55)
        draw = chance.random()
        if draw < 0.02:
            more["status"] = {"online": False, "reason": "lost"}
            at = now - chance.uniform(600, 40_000)
        elif draw < 0.03:
            error = {"code": "bundle.damaged", "message": "golden file: 3 of 40 answers differ"}
            more["model"] = {"state": "failed", "error": error}
        elif draw < 0.05:
            more["version"] = 3
        elif draw < 0.06:
            more["update"] = {"phase": "fetching", "done_bytes": 9_100_000} | {
                "total_bytes": 25_000_000,
                "model": MODEL,
                "version": 5,
            }
        batch += said(name, at, **more)
        if len(batch) > 1500 or number == count - 1:
            with engine.begin() as conn:
                registry.heard(conn, batch)
            batch = []
    return names


def live_a_week(engine: Engine, device: str, now: float, *, drifts: bool = False) -> None:
    """Give a device a week of answers, and a few alarms that came home."""
    chance = random.Random(device)  # noqa: S311
    last = int(now // HOUR_S)
    rows = []
    for hour in range(last - 167, last + 1):
        answers = chance.randint(220, 280)
        share = 0.004 + (0.02 if drifts and hour > last - 20 else 0.0)
        alarms = sum(chance.random() < share for _ in range(answers))
        rows.append(
            {
                "device": device,
                "model": MODEL,
                "hour": hour,
                "version": 3 if hour < last - 100 else 4,
                "answers": answers,
                "errors": int(chance.random() < 0.04),
                "alarms": alarms,
            }
        )
    with engine.begin() as conn:
        conn.execute(insert(schema.hours), rows)
        for number in range(12):
            at = now - number * 3100.0
            alarm(conn, device, at, number=number)
        for number, (event, more) in enumerate(_EVENTS):
            message = {"time": now - number * 7000.0, "event": event, **more}
            events.note(conn, [events.Told(device, message, now - number * 7000.0)])


def alarm(conn: Any, device: str, at: float, *, number: int = 0, **more: Any) -> None:
    """Have an alarm come home."""
    texts = ("pressure 7.91 bar at stroke 41", "ram slow: 812 ms", None)
    message = {
        "id": f"{device}-{at}",
        "model": {"name": MODEL, "version": 4, "hash": "0" * 64},
        "task": "anomaly",
        "label": "anomaly",
        "score": 8.1 + number,
        "p_value": 0.0004,
        "source": f"press/{number % 3 + 1}",
        "time_in": at,
        "text": texts[number % 3],
        **more,
    }
    evidence.keep(conn, [evidence.Sent(device, message, at)])


_EVENTS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("model_loaded", {"model": MODEL, "detail": {"version": 4, "slot": "b"}}),
    ("update_committed", {"model": MODEL, "detail": {"version": 4}}),
    ("broker_lost", {"error": {"code": "mqtt.unavailable", "message": "connection reset"}}),
    ("agent_started", {}),
)


def roll_out(
    engine: Engine,
    names: Sequence[str],
    now: float,
    *,
    wave: int = 1,
    states: Mapping[int, Sequence[DeviceState]] | None = None,
    **more: Any,
) -> int:
    """Begin a roll-out of these devices, as if a conductor had got as far as `states` by wave."""
    plan = Plan(model=MODEL, version=5, **more)
    of = waves_of(plan, dict.fromkeys(names, TYPES[0][0]), salt="tests")
    targets = [Target(name, TYPES[0][0], of[name], since=now, previous=4) for name in names]
    with engine.begin() as conn:
        number = rollouts.create(conn, plan, targets, by="ada", now=now - 5400)
        move(conn, number, now, wave=wave, states=states or {})
    return number


def move(  # noqa: PLR0913 -- by name
    conn: Any,
    number: int,
    now: float,
    *,
    wave: int,
    states: Mapping[int, Sequence[DeviceState]],
    state: str = "moving",
    log: Sequence[str] = (),
) -> None:
    """Write down that devices of waves are in these states, in turn."""
    moved = []
    by_wave: dict[int, int] = {}
    for target in rollouts.targets(conn, number):
        if target.wave in states:
            at = by_wave[target.wave] = by_wave.get(target.wave, -1) + 1
            of = states[target.wave]
            reason = "golden.differs" if of[at % len(of)] is DeviceState.FAILED else ""
            moved.append(replace(target, state=of[at % len(of)], reason=reason, since=now - 300))
    progress = Progress(State(state), wave, now - 240)
    rollouts.record(conn, number, now=now, progress=progress, targets=moved, log=log)


@dataclass
class Served:
    """A page that is served."""

    engine: Engine
    web: Web
    url: str

    def client(self, **more: Any) -> httpx.Client:
        # Authorities that nobody asks here take longer to read than all requests of a test.
        return httpx.Client(base_url=self.url, timeout=30.0, verify=False, **more)  # noqa: S501

    @contextlib.contextmanager
    def signed_in(self, name: str) -> Iterator[httpx.Client]:
        with self.client() as client:
            assert sign_in(client, name).status_code == 303
            yield client


@contextlib.contextmanager
def served(engine: Engine, **more: Any) -> Iterator[Served]:
    """Serve the page on the loopback, by uvicorn as the service does."""
    more = {"shelf": Shelf(), "secure": False, "poll_s": 0.2, **more}
    web = serve_web(create_app(engine, **more), ("127.0.0.1", 0))
    stopping = threading.Event()
    thread = threading.Thread(target=web.run, args=[stopping])
    thread.start()
    try:
        yield Served(engine, web, f"http://127.0.0.1:{web.port}")
    finally:
        stopping.set()
        thread.join(15)
        assert not thread.is_alive()


def sign_in(client: httpx.Client, name: str, password: str = PASSWORD) -> httpx.Response:
    """Sign in as a browser does, with the form's token."""
    form = client.get("/login")
    values = {"name": name, "password": password, "csrf": token_in(form.text)}
    return client.post("/login", data=values)


def token_in(html: str) -> str:
    """Return the token of the first form on a page."""
    return html.split('name="csrf" value="', 1)[1].split('"', 1)[0]
