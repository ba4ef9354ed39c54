"""What an agent writes to flash: with its uplink, without it, and while nothing happens."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from benchmarks import bundles, cases
from benchmarks.broker import Broker
from benchmarks.contestants import TOPIC, listening
from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from edgeslm.contract.topics import DEFAULT_ROOT, Topics
from edgeslm.demo.processes import Child
from edgeslm.runtime.profiles import detect_profile

_DEVICE: Final = "press-hall-7"
_PER_S: Final = 100
_BURSTS: Final = 10  # a second
_FLOW_S: Final = 60.0
_IDLE_S: Final = 60.0
_QUICK_S: Final = 6.0
_SOURCES: Final = 2000
_KEPT: Final = 2000  # results on disk, of which half stay as they are
_STILL_S: Final = 3.0  # without another row: all that came is on disk
_SETTLE_S: Final = 8.0  # what loading left behind is given back, and what was answered is saved
_LIMIT_S: Final = 180.0
_DAY_S: Final = 86_400.0


def flash(setup: Setup) -> dict[str, Measured]:
    """One model, two brokers: texts come by one, results leave by the other, which goes and comes.

    Counted is what the kernel counts as written by the agent's process (`write_bytes` less
    `cancelled_write_bytes`). What lies in memory on a device, the runtime directory and the log,
    does so here.
    """
    seconds = _QUICK_S if setup.quick else _FLOW_S
    memory = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="edgeslm-"))
    try:
        return {
            **_measure(setup, memory, seconds),
            **_alerts(setup, memory, seconds),
            **_thinned(setup, memory, seconds),
        }
    finally:
        shutil.rmtree(memory)


def _measure(setup: Setup, memory: Path, seconds: float) -> dict[str, Measured]:
    bundle = bundles.small(setup, "snips", profile=detect_profile().name)
    texts = [row.text for row in cases.rows(setup, "snips", "eval")]
    state = setup.work / "state"
    with (
        Broker(setup.work / "input") as source,
        Broker(setup.work / "uplink") as uplink,
        Child(
            "edgeslm",
            [sys.executable, "-m", "edgeslm", "run", "--config", str(_configure(
                setup.work, bundle, memory, source.port, uplink.port, f'topic = "{TOPIC}"'
            ))],
            log=memory / "log",
        ) as agent,
    ):  # fmt: skip
        out = Topics(DEFAULT_ROOT, _DEVICE).results(_model(bundle))
        with listening(uplink, out) as (_, arrivals):
            _wait(lambda: _flow(source, texts, 0.5) > 0 and bool(arrivals), "no results")
            time.sleep(_SETTLE_S)
            sent = len(arrivals)
            setup.tell(f"uplink up: {seconds:.0f} s of texts, then none")
            begun = _written(agent)
            count = _flow(source, texts, seconds)
            _wait(lambda: len(arrivals) >= sent + count, "results are missing")
            up = (_written(agent) - begun) / count
            idle = _while_idle(agent, setup)
        setup.tell(f"uplink down: {seconds:.0f} s of texts, then none")
        uplink.__exit__()
        time.sleep(1.0)
        begun = _written(agent)
        count = _flow(source, texts, seconds)
        _wait(lambda: _rows(state) >= count, "not all is on disk")
        away = (_written(agent) - begun) / count
        idle = max(idle, _while_idle(agent, setup))
        uplink.restart()
        _wait(lambda: _rows(state) == 0, "the outbox is not emptied")
        time.sleep(1.0)
        down = (_written(agent) - begun) / count
    if down <= 0:
        msg = f"{state}: nothing was written to a disk; it lies in memory"
        raise RunFailedError(msg)
    day_mb = down * _PER_S * _DAY_S / 2**20
    note = f"{away:.0f} B until the uplink is back; a day of it is {day_mb:.0f} MB"
    return {
        "flash-up": Measured(up, 0, (up, up)),
        "flash-down": Measured(down, 0, (down, down), note=note),
        "flash-idle": Measured(idle, 0, (idle, idle)),
    }


def _alerts(setup: Setup, memory: Path, seconds: float) -> dict[str, Measured]:
    setup.tell(f"alerts, uplink down: {seconds:.0f} s of texts, and back")
    lane = 'lane = "alert"'
    away, down = _outage(setup, memory, "alerts", [TOPIC], f'topic = "{TOPIC}"\n{lane}', seconds)
    note = f"{away:.0f} B until the uplink is back"
    return {"flash-alerts": Measured(down, 0, (down, down), note=note)}


def _thinned(setup: Setup, memory: Path, seconds: float) -> dict[str, Measured]:
    setup.tell(f"thinned, uplink down: {seconds:.0f} s of texts, and back")
    topics = [f"plant/{number}" for number in range(_SOURCES)]
    kept = f"[outbox]\nmax_results = {_KEPT}"
    away, down = _outage(setup, memory, "thinned", topics, f'topic = "plant/+"\n{kept}', seconds)
    note = f"{away:.0f} B until the uplink is back"
    return {"flash-thinned": Measured(down, 0, (down, down), note=note)}


def _outage(  # noqa: PLR0913, PLR0917 -- by name would be longer
    setup: Setup, memory: Path, name: str, topics: Sequence[str], route: str, seconds: float
) -> tuple[float, float]:
    """Return bytes for each message: until the uplink is back, and until the disk is empty."""
    bundle = bundles.small(setup, "snips", profile=detect_profile().name)
    texts = [row.text for row in cases.rows(setup, "snips", "eval")]
    work = setup.work / name
    work.mkdir()
    with (
        Broker(work / "input") as source,
        Broker(work / "uplink") as uplink,
        Child(
            "edgeslm",
            [sys.executable, "-m", "edgeslm", "run", "--config", str(_configure(
                work, bundle, memory / name, source.port, uplink.port, route
            ))],
            log=memory / f"{name}.log",
        ) as agent,
    ):  # fmt: skip
        out = Topics(DEFAULT_ROOT, _DEVICE).results(_model(bundle))
        with listening(uplink, out) as (_, arrivals):
            _wait(lambda: _flow(source, texts, 0.5, topics) > 0 and bool(arrivals), "no results")
            time.sleep(_SETTLE_S)
        uplink.__exit__()
        time.sleep(1.0)
        begun = _written(agent)
        count = _flow(source, texts, seconds, topics)
        _wait_until_still(work / "state")
        away = (_written(agent) - begun) / count
        uplink.restart()
        _wait(lambda: _rows(work / "state") == 0, "the outbox is not emptied")
        time.sleep(1.0)
        return away, (_written(agent) - begun) / count


def _wait_until_still(state: Path) -> None:
    """All that came is on disk, summed up or not."""
    rows = -1
    while rows != (rows := _rows(state)) or not rows:
        time.sleep(_STILL_S)


def _while_idle(agent: Child, setup: Setup) -> float:
    begun = _written(agent)
    time.sleep(_QUICK_S if setup.quick else _IDLE_S)
    return float(_written(agent) - begun)


def _written(agent: Child) -> int:
    """Bytes that the process has caused to be written to a disk, or will have."""
    if agent.status is not None:
        msg = f"the agent ended: {agent.last_words()}"
        raise RunFailedError(msg)
    lines = Path(f"/proc/{agent.pid}/io").read_text("ascii").splitlines()
    counts = {name: int(count) for name, count in (line.split(": ") for line in lines)}
    return counts["write_bytes"] - counts["cancelled_write_bytes"]


def _flow(
    source: Broker, texts: Sequence[str], seconds: float, topics: Sequence[str] = (TOPIC,)
) -> int:
    """Publish at the rate for so long, on the topics in turn; return how many."""
    count = 0
    with listening(source, "nothing") as (client, _):
        begun = time.perf_counter()
        for burst in range(int(seconds * _BURSTS)):
            time.sleep(max(0.0, begun + burst / _BURSTS - time.perf_counter()))
            for _ in range(_PER_S // _BURSTS):
                info = client.publish(topics[count % len(topics)], texts[count % len(texts)], qos=1)
                count += 1
        info.wait_for_publish(_LIMIT_S)
    return count


def _rows(state: Path) -> int:
    with closing(sqlite3.connect(f"file:{state / 'outbox.sqlite'}?mode=ro", uri=True)) as db:
        query = "SELECT (SELECT count(*) FROM alert) + (SELECT count(*) FROM result)"
        count: int = db.execute(query).fetchone()[0]
    return count


def _model(bundle: Path) -> str:
    name: str = json.loads((bundle / "manifest.json").read_bytes())["name"]
    return name


def _configure(  # noqa: PLR0913, PLR0917 -- as above
    work: Path, bundle: Path, memory: Path, source: int, uplink: int, route: str
) -> Path:
    said: dict[str, Any] = {
        "device_id": _DEVICE,
        "state_dir": work / "state",
        "runtime_dir": memory / "run",
    }
    model = _model(bundle)
    lines = [f"{key} = {json.dumps(value, default=str)}" for key, value in said.items()]
    lines += [
        f'[uplink]\nhost = "127.0.0.1"\nport = {uplink}',
        f'[input]\nhost = "127.0.0.1"\nport = {source}',
        f"[models.{model}]\nbundle = {json.dumps(str(bundle))}",
        f'[routes.texts]\nmodels = ["{model}"]\n{route}',
    ]
    config = work / "edgeslm.toml"
    config.write_text("\n".join([*lines, ""]), "utf-8")
    return config


def _wait(done: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + _LIMIT_S
    while not done():
        if time.monotonic() > until:
            raise RunFailedError(what)
        time.sleep(0.05)
