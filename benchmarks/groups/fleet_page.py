"""The fleet's page with many devices: how long people wait for it."""

from __future__ import annotations

import http.client
import re
import statistics
import time
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Engine

from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from benchmarks.stats import repeated
from edgeslm.contract.fleet import BundleOffer
from edgeslm.fleet.access import fingerprint
from edgeslm.fleet.database import accounts, registry
from edgeslm.fleet.database.engine import open_database
from edgeslm.fleet.web.app import create_app
from edgeslm.fleet.web.serving import Web, serve_web

_DEVICES: Final = 5000
_FEW: Final = 50  # one page of them
_REQUESTS: Final = 100  # a round
_PROFILES: Final = ("raspberry-pi-5", "jetson-orin-nano", "rb3-gen2", "generic-x86_64")
_BATCH: Final = 500
_COOKIE: Final = "of the benchmark"
_LOOKED: Final = (
    *("", "sort=heard_at&down=1", "sort=health", "sort=profile&down=1"),
    *(f"q={quote(where)}" for where in (
        "online = true and tag.hall = h3",
        "model.press.version < 4",
        "not (profile = rb3-gen2 or id ~ press-00*) and heard_ago < 1h",
    )),
)  # fmt: skip
_NEXT: Final = re.compile(r'rel="next" href="([^"]*)"')


class _Nothing:
    """A repository without models: none is looked for here."""

    def models(self) -> Sequence[str]:
        return ()

    def offers(self, model: str) -> Sequence[BundleOffer]:
        del model
        return ()

    def expired(self, model: str) -> Sequence[str]:
        del model
        return ()


def fleet_page(setup: Setup) -> dict[str, Measured]:
    """Fleet pages of 5,000 devices, in turns with those of 50: sorted, filtered, turned over."""
    setup.tell(f"registering {_DEVICES} devices")
    many = _served(setup.work / "many.db", _DEVICES)
    few = _served(setup.work / "few.db", _FEW)
    ours: list[float] = []
    theirs: list[float] = []
    try:
        for number in range(setup.rounds):
            setup.tell(f"round {number + 1} of {setup.rounds}: {_REQUESTS} pages")
            ours.append(_p95(_took_ms(many.port)))
            theirs.append(_p95(_took_ms(few.port)))
    finally:
        many.stop()
        few.stop()
    return {"fleet-page-p95": repeated(ours, theirs)}


def _took_ms(port: int) -> list[float]:
    """Return how long each page took, from the request to its last byte."""
    link = http.client.HTTPConnection("127.0.0.1", port)
    took: list[float] = []
    onwards: str | None = None
    for number in range(_REQUESTS):
        path = onwards or f"/?{_LOOKED[number % len(_LOOKED)]}"
        began = time.perf_counter()
        link.request("GET", path, headers={"cookie": f"edgeslm={_COOKIE}"})
        answer = link.getresponse()
        page = answer.read().decode()
        took.append((time.perf_counter() - began) * 1e3)
        if answer.status != http.client.OK or "<h1>Fleet</h1>" not in page:
            msg = f"{path}: status {answer.status}, and no page of the fleet"
            raise RunFailedError(msg)
        found = _NEXT.search(page)
        # Every page that is looked for is turned over once.
        onwards = unescape(found[1]) if found is not None and onwards is None else None
    link.close()
    return took


def _p95(took: Sequence[float]) -> float:
    return statistics.quantiles(took, n=20)[-1]


def _served(database: Path, devices: int) -> Web:
    engine = open_database(f"sqlite:///{database}")
    _fill(engine, devices)
    app = create_app(engine, shelf=_Nothing(), secure=False)
    web = serve_web(app, ("127.0.0.1", 0))
    web.start()
    return web


def _fill(engine: Engine, devices: int) -> None:
    now = time.time()
    with engine.begin() as conn:
        accounts.create(conn, "ada", "operator", "none", now=now)
        kept = accounts.Session(fingerprint(_COOKIE), "ada", "none", now, now)
        accounts.add_session(conn, kept)
    for begin in range(0, devices, _BATCH):
        with engine.begin() as conn:
            for number in range(begin, min(begin + _BATCH, devices)):
                registry.heard(conn, said(number, now))


def said(number: int, now: float) -> list[registry.Heard]:
    """Return what a device says of itself when it connects."""
    device, at = f"press-{number:04d}", now - number % 60
    model: dict[str, Any] = {
        "name": "press",
        "version": 3 + number % 2,
        "state": "serving",
        "provider": "cpu",
        "answered": 40_000,
        "errors": 3,
        "alarms": 200,
        "queue": 0,
        "p50_ms": 9.1,
        "p99_ms": 21.5,
        "node_share": 1.0,
    }
    state = {
        "time": at,
        "uptime_s": 4e5,
        "agent_version": "1",
        "rss_mb": 96.0,
        "models": [model],
        "profile": _PROFILES[number % 4],
        "tags": {"hall": f"h{number % 9}", "line": "l1"},
    }
    update = {
        "time": at,
        "updater_version": "1",
        "phase": "idle",
        "seq": 1,
        "models": [{"name": "press", "version": 3 + number % 2}],
        "platform": {"arch": "aarch64"},
    }
    status = {"online": number % 50 != 0, "reason": "running"}
    return [
        registry.Heard(device, "state", state, at),
        registry.Heard(device, "update", update, at),
        registry.Heard(device, "status", status, at),
    ]
